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

from pathnas.controllers.forest import ADD_NODE, CONCAT_NODE, DOWN, EDGE, UP, Forest, Kind
from pathnas.envs.observation import STAGES


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
        self.up_edge = EdgeStep(*sizes)
        self.up_add = ChildSumStep(*sizes, children=adds, parent=False)
        self.up_concat = NaryStep(concats, *sizes)
        self.down_edge = EdgeStep(*sizes)
        self.down_add = ChildSumStep(*sizes, children=adds, parent=True)
        self.down_concat = NaryStep(concats + 1, *sizes)

    def steps(self) -> dict[Kind, Step]:
        """Returns the six kinds of steps."""
        return {
            Kind(UP, EDGE): self.up_edge,
            Kind(UP, ADD_NODE): self.up_add,
            Kind(UP, CONCAT_NODE): self.up_concat,
            Kind(DOWN, EDGE): self.down_edge,
            Kind(DOWN, ADD_NODE): self.down_add,
            Kind(DOWN, CONCAT_NODE): self.down_concat,
        }

    def tables(self) -> dict[Kind, Tensor]:
        """Returns for each kind of step what every input adds to its gates, `[inputs, gates]`."""
        return {
            kind: step.table(self.ops if kind.place == EDGE else self.nodes)
            for kind, step in self.steps().items()
        }

    def forward(self, observations: Mapping[str, Any]) -> Tensor:
        """Maps stacked observations `[B, ...]` to `[B, 2 hidden]`: bottom-up, then top-down.

        For a merge question the bottom-up half is the node's state before the edge above it; for
        an op or insert question the edge's state after its step.

        Args:
            observations: the arrays of :func:`pathnas.envs.observation.encode`, stacked.

        Raises:
            ValueError: if a node has too many branches.
        """
        planting = Forest(self.adds, self.concats).plant(observations)
        steps, tables = self.steps(), self.tables()
        states = self.ops.new_zeros(2, 1, self.hidden)  # h, c
        for group in planting.groups:
            gates = tables[group.kind].index_select(0, torch.from_numpy(group.inputs))
            sources = torch.from_numpy(group.sources)
            h, c = states.index_select(1, sources.flatten()).unbind()
            shape = (*sources.shape, self.hidden)
            new = steps[group.kind](gates, h.view(shape), c.view(shape))
            states = torch.cat([states, torch.stack(new)], dim=1)
        halves = (torch.from_numpy(half) for half in (planting.up, planting.down))
        return torch.cat([states[0].index_select(0, half) for half in halves], dim=1)


class Step(nn.Module):
    """One step of the tree-LSTM, for many states at once.

    What the inputs add to the gates is the same for all states of one input, so it comes from a
    table that is computed once.
    """

    def table(self, inputs: Tensor) -> Tensor:
        """Maps embeddings `[K, E]` to what each adds to the gates, `[K, G]`."""
        raise NotImplementedError

    def forward(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Maps rows of the table `[M, G]` and states `[M, S, H]` to new states `[M, H]`."""
        raise NotImplementedError


class EdgeStep(Step):
    """The step of an ordinary LSTM cell, with the names and the order of gates of torch's."""

    def __init__(self, embedding: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = hidden
        bound = 1 / math.sqrt(hidden)

        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, embedding))
        self.weight_hh = nn.Parameter(torch.empty(0))  # stands second among the parameters
        self.bias_ih, self.bias_hh = (nn.Parameter(torch.empty(4 * hidden)) for _ in range(2))
        for weight in (self.weight_ih, self.bias_ih, self.bias_hh):
            nn.init.uniform_(weight, -bound, bound, generator=generator)
        self.weight_hh = _recurrent(4, 1, hidden, generator)

    def table(self, inputs: Tensor) -> Tensor:
        """See :meth:`Step.table`."""
        return F.linear(inputs, self.weight_ih, self.bias_ih + self.bias_hh)

    def forward(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Step.forward`."""
        gates = torch.addmm(gates, h.squeeze(1), self.weight_hh.t())
        i, f, _, o = gates.sigmoid().chunk(4, dim=1)
        _, _, u, _ = gates.chunk(4, dim=1)
        return _outputs(i, o, u, f * c.squeeze(1))


class NodeStep(Step):
    """What the steps of nodes have in common; subclasses say how states reach the gates.

    Rows of the input's weights: input and output gate, update, forget gate; the last is shared by
    the forget gates of all sources, which differ by what their states add to it.
    """

    def __init__(
        self, sources: int, embedding: int, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.sources = sources
        self.input = linear(embedding, 4 * hidden, generator)

    def table(self, inputs: Tensor) -> Tensor:
        """See :meth:`Step.table`; the forget gate's part is repeated for each source."""
        gates, forget = self.input(inputs).split([3 * self.hidden, self.hidden], dim=1)
        return torch.cat([gates, *[forget] * self.sources], dim=1)

    def forward(self, gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Step.forward`."""
        gates = self.add_states(gates, h)
        size = self.hidden
        u = gates[:, 2 * size : 3 * size]
        gates = gates.sigmoid()
        forget = gates[:, 3 * size :].view_as(c)
        return _outputs(gates[:, :size], gates[:, size : 2 * size], u, (forget * c).sum(dim=1))

    def add_states(self, gates: Tensor, h: Tensor) -> Tensor:
        """Adds what states `[M, S, H]` contribute to gates `[M, (3 + S) H]`."""
        raise NotImplementedError


def _outputs(i: Tensor, o: Tensor, u: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Returns h and c from input and output gates, update and what is kept, `[M, H]` each."""
    c = torch.addcmul(kept, i, u.tanh())
    return o * c.tanh(), c


class ChildSumStep(NodeStep):
    """The child-sum step: gates from the sum of the children, a child's forget gate from it alone.

    With `parent` the last source is the parent's state, which has weights of its own.
    """

    def __init__(
        self, embedding: int, hidden: int, generator: torch.Generator, children: int, parent: bool
    ) -> None:
        super().__init__(children + parent, embedding, hidden, generator)
        self.branches = children
        self.gates = _recurrent(3, 1, hidden, generator)
        self.forget = _recurrent(1, 1, hidden, generator)
        self.parent = _recurrent(4, 1, hidden, generator) if parent else None

    def add_states(self, gates: Tensor, h: Tensor) -> Tensor:
        """See :meth:`NodeStep.add_states`."""
        children = h[:, : self.branches]
        parts = [
            F.linear(children.sum(dim=1), self.gates),
            F.linear(children, self.forget).flatten(1),
        ]
        if self.parent is not None:
            own, forget = F.linear(h[:, -1], self.parent).tensor_split([3 * self.hidden], dim=1)
            parts = [parts[0] + own, parts[1], forget]
        return gates + torch.cat(parts, dim=1)


class NaryStep(NodeStep):
    """The N-ary step: every gate, forget gates too, from all sources, with weights by position."""

    def __init__(
        self, positions: int, embedding: int, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__(positions, embedding, hidden, generator)
        self.weight = _recurrent(3 + positions, positions, hidden, generator)

    def add_states(self, gates: Tensor, h: Tensor) -> Tensor:
        """See :meth:`NodeStep.add_states`."""
        return torch.addmm(gates, h.flatten(1), self.weight.t())


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
