"""The bidirectional tree-LSTM that reads a tree and represents the place that is asked about.

After the paper, section 3.3, and Tai et al. (2015). *Bottom-up*, a leaf starts from zero; a node
with several branches takes the states after its edges, by a child-sum step if it adds and by an
N-ary step if it concatenates; an edge is one step of an ordinary LSTM cell. *Top-down*, the root
starts from zero; a child gets what the parent's node step makes of the parent's own top-down state
and the bottom-up states of the child's siblings, then its edge's step. A node with one branch
hands states on. The two directions have weights of their own.

The whole batch is computed at once: see :mod:`pathnas.controllers.forest`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathnas.controllers.forest import ADD_NODE, CONCAT_NODE, DOWN, EDGE, UP, Forest, Group, Kind
from pathnas.envs.observation import CONCAT_REPLICATE


class Memory:
    """The states computed so far, from one and the same weights.

    Args:
        forest: says which states they are.
        zero: `[1, 2 H]` the first of them, h and c side by side.
    """

    def __init__(self, forest: Forest, zero: Tensor) -> None:
        self.forest = forest
        self.states = zero
        self.tables: dict[Kind, Tensor] = {}
        self._size = 1

    def append(self, h: Tensor, c: Tensor) -> None:
        """Adds states `[M, H]`, whose numbers follow on."""
        if torch.is_grad_enabled():
            self.states = torch.cat([self.states, torch.cat([h, c], dim=1)])
        else:  # nothing keeps the old values for a gradient, so there may be room in advance
            end = self._size + len(h)
            if end > len(self.states):
                room = h.new_empty(end, self.states.shape[1])
                self.states = torch.cat([self.states, room])
            torch.cat([h, c], dim=1, out=self.states[self._size : end])
        self._size += len(h)


class TreeLSTM(nn.Module):
    """Represents the focus of each observation of a batch by `2 hidden` numbers.

    Args:
        ops: values that the array ``op`` of an observation takes.
        adds: the most branches of a node that adds.
        concats: the most branches of a node that concatenates.
        embedding: size of the embeddings of operations and of node types.
        hidden: size of the state in each direction.
        generator: the source of the initial weights.
    """

    def __init__(
        self,
        ops: int,
        adds: int,
        concats: int,
        embedding: int,
        hidden: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.adds, self.concats, self.hidden = adds, concats, hidden
        self.ops = _embedding(ops, embedding, generator)
        self.nodes = _embedding(CONCAT_REPLICATE + 1, embedding, generator)
        sizes = embedding, hidden, generator
        self.up_edge = EdgeStep(*sizes)
        self.up_add = ChildSumStep(*sizes, parent=False)
        self.up_concat = NaryStep(concats, *sizes)
        self.down_edge = EdgeStep(*sizes)
        self.down_add = ChildSumStep(*sizes, parent=True)
        self.down_concat = NaryStep(concats + 1, *sizes)

    def memory(self) -> Memory:
        """Returns an empty memory, to be used as long as the weights do not change."""
        zero = self.ops.new_zeros(1, 2 * self.hidden)
        return Memory(Forest(self.adds, self.concats), zero)

    def forward(self, observations: Mapping[str, Any], memory: Memory | None = None) -> Tensor:
        """Maps stacked observations `[B, ...]` to `[B, 2 hidden]`: bottom-up, then top-down.

        For a merge question the bottom-up half is the node's state before the edge above it; for
        an op or insert question the edge's state after its step.

        Args:
            observations: the arrays of :func:`pathnas.envs.observation.encode`, stacked.
            memory: states of earlier calls; they are not computed again.

        Raises:
            ValueError: if a node has too many branches.
        """
        states = self.memory() if memory is None else memory
        planting = states.forest.plant(observations)
        for group in planting.groups:
            states.append(*self._compute(group, states))
        halves = (torch.from_numpy(half) for half in (planting.up, planting.down))
        h = states.states[:, : self.hidden]
        return torch.cat([h.index_select(0, half) for half in halves], dim=1)

    def _compute(self, group: Group, memory: Memory) -> tuple[Tensor, Tensor]:
        step = self._step(group.kind)
        table = memory.tables.get(group.kind)
        if table is None:
            edge = group.kind.place == EDGE
            table = memory.tables[group.kind] = step.table(self.ops if edge else self.nodes)
        inputs, sources = torch.from_numpy(group.inputs), torch.from_numpy(group.sources)
        states = memory.states.index_select(0, sources.flatten())
        h, c = states.view(*sources.shape, -1).chunk(2, dim=2)
        return step(table.index_select(0, inputs), h, c)

    def _step(self, kind: Kind) -> Step:
        steps: dict[Kind, Step] = {
            Kind(UP, EDGE): self.up_edge,
            Kind(UP, ADD_NODE): self.up_add,
            Kind(UP, CONCAT_NODE): self.up_concat,
            Kind(DOWN, EDGE): self.down_edge,
            Kind(DOWN, ADD_NODE): self.down_add,
            Kind(DOWN, CONCAT_NODE): self.down_concat,
        }
        return steps[kind]


class Step(nn.Module):
    """What the steps have in common: few different inputs, so what they add is looked up."""

    def table(self, embeddings: Tensor) -> Tensor:
        """Maps the embeddings of all inputs `[I, E]` to what each adds to the gates `[I, 4 H]`."""
        raise NotImplementedError

    def forward(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Maps rows of the table `[M, 4 H]` and states `[M, S, H]` to new states `[M, H]`."""
        raise NotImplementedError


class EdgeStep(Step):
    """The step of an ordinary LSTM cell, whose names and order of gates it has."""

    def __init__(self, embedding: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(hidden)
        weight_ih, bias_ih, bias_hh = (
            nn.init.uniform_(torch.empty(4 * hidden, *sizes), -bound, bound, generator=generator)
            for sizes in ((embedding,), (), ())
        )
        self.weight_ih = nn.Parameter(weight_ih)
        self.weight_hh = _recurrent(4, 1, hidden, generator)
        self.bias_ih = nn.Parameter(bias_ih)
        self.bias_hh = nn.Parameter(bias_hh)

    def table(self, embeddings: Tensor) -> Tensor:
        """See :meth:`Step.table`."""
        return F.linear(embeddings, self.weight_ih, self.bias_ih + self.bias_hh)

    def forward(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Step.forward`; the only state is the one below or above the edge."""
        gates = torch.addmm(gates, h[:, 0], self.weight_hh.t())
        i, forget, _, o = gates.sigmoid().chunk(4, dim=1)
        update = gates.chunk(4, dim=1)[2].tanh()
        c = torch.addcmul(forget * c[:, 0], i, update)
        return o * c.tanh(), c


class NodeStep(Step):
    """What the steps of nodes have in common; subclasses say how states reach the gates.

    Rows of the input's weights: input and output gate, update, forget gate; the last is shared by
    the forget gates of all sources, which differ by what their states add to it.
    """

    def __init__(self, embedding: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = hidden
        self.input = linear(embedding, 4 * hidden, generator)

    def table(self, embeddings: Tensor) -> Tensor:
        """See :meth:`Step.table`."""
        return F.linear(embeddings, self.input.weight, self.input.bias)

    def forward(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Step.forward`."""
        gates, forget = gates.split([3 * self.hidden, self.hidden], dim=1)
        from_h, forget_from_h = self.from_states(h)
        gates = gates + from_h
        i, o = gates[:, : 2 * self.hidden].sigmoid().chunk(2, dim=1)
        kept = ((forget[:, None] + forget_from_h).sigmoid() * c).sum(dim=1)
        c = torch.addcmul(kept, i, gates[:, 2 * self.hidden :].tanh())
        return o * c.tanh(), c

    def from_states(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Maps `[M, S, H]` to what it adds to the gates `[M, 3 H]` and forget gates `[M, S, H]`."""
        raise NotImplementedError


class ChildSumStep(NodeStep):
    """The child-sum step: gates from the sum of the children, a child's forget gate from it alone.

    With `parent` the last source is the parent's state, which has weights of its own.
    """

    def __init__(
        self, embedding: int, hidden: int, generator: torch.Generator, parent: bool
    ) -> None:
        super().__init__(embedding, hidden, generator)
        self.gates = _recurrent(3, 1, hidden, generator)
        self.forget = _recurrent(1, 1, hidden, generator)
        self.parent = _recurrent(4, 1, hidden, generator) if parent else None

    def from_states(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`NodeStep.from_states`."""
        if self.parent is None:
            return F.linear(h.sum(dim=1), self.gates), F.linear(h, self.forget)
        children = h[:, :-1]
        gates, forget = F.linear(h[:, -1], self.parent).split([3 * self.hidden, self.hidden], dim=1)
        gates = gates + F.linear(children.sum(dim=1), self.gates)
        return gates, torch.cat([F.linear(children, self.forget), forget[:, None]], dim=1)


class NaryStep(NodeStep):
    """The N-ary step: every gate, forget gates too, from all sources, with weights by position."""

    def __init__(
        self, positions: int, embedding: int, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__(embedding, hidden, generator)
        self.weight = _recurrent(3 + positions, positions, hidden, generator)

    def from_states(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`NodeStep.from_states`."""
        added = F.linear(h.flatten(1), self.weight)
        return added[:, : 3 * self.hidden], added[:, 3 * self.hidden :].view_as(h)


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Returns a linear layer with torch's usual initial weights, drawn from a generator."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = 1 / math.sqrt(inputs)
    for weight in layer.parameters():
        nn.init.uniform_(weight, -bound, bound, generator=generator)
    return layer


def _embedding(rows: int, size: int, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(nn.init.uniform_(torch.empty(rows, size), -0.1, 0.1, generator=generator))


def _recurrent(gates: int, sources: int, hidden: int, generator: torch.Generator) -> nn.Parameter:
    """Returns weights `[gates H, sources H]` whose `[H, H]` blocks are orthogonal."""
    weight = torch.empty(gates, sources, hidden, hidden)
    for block in weight.view(-1, hidden, hidden):
        nn.init.orthogonal_(block, generator=generator)
    return nn.Parameter(weight.transpose(1, 2).reshape(gates * hidden, sources * hidden))
