"""The bidirectional tree-LSTM that reads a tree and represents the place that is asked about.

After the paper, section 3.3, and Tai et al. (2015). *Bottom-up*, a leaf starts from zero; a node
with several branches takes the states after its edges, by a child-sum step if it adds and by an
N-ary step if it concatenates; an edge is one step of an ordinary LSTM cell. *Top-down*, the root
starts from zero; a child gets what the parent's node step makes of the parent's own top-down state
and the bottom-up states of the child's siblings, then its edge's step. A node with one branch
hands states on. The two directions have weights of their own. Where each stage of the network has a
tree of its own, the root takes its stages by the child-sum step; the embeddings of the edges to
them, and of the root's type, tell it and them apart.

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
from pathnas.envs.observation import STAGES


class Memory:
    """The states computed so far, from one and the same weights.

    Args:
        forest: says which states they are.
        zero: `[1, H]` the first of them.
    """

    def __init__(self, forest: Forest, zero: Tensor) -> None:
        self.forest = forest
        self.h = zero
        self.c = zero.clone()
        self._size = 1

    def append(self, h: Tensor, c: Tensor) -> None:
        """Adds states `[M, H]`, whose numbers follow on."""
        if torch.is_grad_enabled():
            self.h, self.c = torch.cat([self.h, h]), torch.cat([self.c, c])
        else:  # nothing keeps the old values for a gradient, so there may be room in advance
            end = self._size + len(h)
            if end > len(self.h):
                room = h.new_empty(end, h.shape[1])
                self.h, self.c = torch.cat([self.h, room]), torch.cat([self.c, room])
            self.h[self._size : end] = h
            self.c[self._size : end] = c
        self._size += len(h)


class TreeLSTM(nn.Module):
    """Represents the focus of each observation of a batch by `2 hidden` numbers.

    Args:
        ops: values that the array ``op`` of an observation takes.
        adds: the most branches of a node that adds, or stages.
        concats: the most branches of a node that concatenates.
        embedding: size of the embeddings of operations and of node types.
        hidden: size of the state in each direction.
        generator: the source of the initial weights.
        nodes: values that the array ``node`` of an observation takes.
    """

    def __init__(
        self,
        ops: int,
        adds: int,
        concats: int,
        embedding: int,
        hidden: int,
        generator: torch.Generator,
        *,
        nodes: int = STAGES,
    ) -> None:
        super().__init__()
        self.adds, self.concats, self.hidden = adds, concats, hidden
        self.ops = _embedding(ops, embedding, generator)
        self.nodes = _embedding(nodes, embedding, generator)
        sizes = embedding, hidden, generator
        self.up_edge = _lstm_cell(*sizes)
        self.up_add = ChildSumStep(*sizes, parent=False)
        self.up_concat = NaryStep(concats, *sizes)
        self.down_edge = _lstm_cell(*sizes)
        self.down_add = ChildSumStep(*sizes, parent=True)
        self.down_concat = NaryStep(concats + 1, *sizes)

    def memory(self) -> Memory:
        """Returns an empty memory, to be used as long as the weights do not change."""
        zero = self.ops.new_zeros(1, self.hidden)
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
        return torch.cat([states.h.index_select(0, half) for half in halves], dim=1)

    def _compute(self, group: Group, states: Memory) -> tuple[Tensor, Tensor]:
        inputs, sources = torch.from_numpy(group.inputs), torch.from_numpy(group.sources)
        flat = sources.flatten()
        h, c = states.h.index_select(0, flat), states.c.index_select(0, flat)
        if group.kind.place == EDGE:
            cell = self.up_edge if group.kind.direction == UP else self.down_edge
            return cell(self.ops.index_select(0, inputs), (h, c))
        step: NodeStep = {
            Kind(UP, ADD_NODE): self.up_add,
            Kind(UP, CONCAT_NODE): self.up_concat,
            Kind(DOWN, ADD_NODE): self.down_add,
            Kind(DOWN, CONCAT_NODE): self.down_concat,
        }[group.kind]
        shape = (*sources.shape, self.hidden)
        return step(self.nodes.index_select(0, inputs), h.view(shape), c.view(shape))


class NodeStep(nn.Module):
    """What the steps of nodes have in common; subclasses say how states reach the gates.

    Rows of the input's weights: input and output gate, update, forget gate; the last is shared by
    the forget gates of all sources, which differ by what their states add to it.
    """

    def __init__(self, embedding: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = hidden
        self.input = linear(embedding, 4 * hidden, generator)

    def forward(self, inputs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Maps embeddings `[M, E]` and states `[M, S, H]` to new states `[M, H]`."""
        gates, forget = self.input(inputs).split([3 * self.hidden, self.hidden], dim=1)
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


def _lstm_cell(embedding: int, hidden: int, generator: torch.Generator) -> nn.LSTMCell:
    cell = nn.utils.skip_init(nn.LSTMCell, embedding, hidden)
    bound = 1 / math.sqrt(hidden)
    for weight in (cell.weight_ih, cell.bias_ih, cell.bias_hh):
        nn.init.uniform_(weight, -bound, bound, generator=generator)
    cell.weight_hh = _recurrent(4, 1, hidden, generator)
    return cell


def _embedding(rows: int, size: int, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(nn.init.uniform_(torch.empty(rows, size), -0.1, 0.1, generator=generator))


def _recurrent(gates: int, sources: int, hidden: int, generator: torch.Generator) -> nn.Parameter:
    """Returns weights `[gates H, sources H]` whose `[H, H]` blocks are orthogonal."""
    weight = torch.empty(gates, sources, hidden, hidden)
    for block in weight.view(-1, hidden, hidden):
        nn.init.orthogonal_(block, generator=generator)
    return nn.Parameter(weight.transpose(1, 2).reshape(gates * hidden, sources * hidden))
