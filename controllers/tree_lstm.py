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

from pathnas.controllers import forest
from pathnas.controllers.forest import ADD_NODE, CONCAT_NODE, DOWN, EDGE, UP, Kind
from pathnas.envs.observation import CONCAT_REPLICATE


class TreeLSTM(nn.Module):
    """Represents the focus of each observation of a batch by `2 hidden` numbers.

    Args:
        ops: values that the array ``op`` of an observation takes.
        positions: the most branches of a node.
        embedding: size of the embeddings of operations and of node types.
        hidden: size of the state in each direction.
        generator: the source of the initial weights.
    """

    def __init__(
        self, ops: int, positions: int, embedding: int, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.positions = positions
        self.hidden = hidden
        self.ops = _embedding(ops, embedding, generator)
        self.nodes = _embedding(CONCAT_REPLICATE + 1, embedding, generator)
        sizes = embedding, hidden, generator
        self.up_edge = EdgeStep(*sizes)
        self.up_add = ChildSumStep(*sizes, parent=False)
        self.up_concat = NaryStep(positions, *sizes)
        self.down_edge = EdgeStep(*sizes)
        self.down_add = ChildSumStep(*sizes, parent=True)
        self.down_concat = NaryStep(positions + 1, *sizes)

    def forward(self, observations: Mapping[str, Any]) -> Tensor:
        """Maps stacked observations `[B, ...]` to `[B, 2 hidden]`: bottom-up, then top-down.

        For a merge question the bottom-up half is the node's state before the edge above it; for
        an op or insert question the edge's state after its step.

        Raises:
            ValueError: if a node has more branches than there are positions.
        """
        planted = forest.plant(observations, self.positions)
        steps = self._steps()
        tables: dict[Kind, Tensor] = {}
        states = self.ops.new_zeros(1, 2 * self.hidden)
        for group in planted.groups:
            step = steps[group.kind]
            if group.kind not in tables:  # few inputs exist: project each once, then look it up
                of_edge = group.kind.place == EDGE
                tables[group.kind] = step.input(self.ops if of_edge else self.nodes)
            inputs = tables[group.kind].index_select(0, torch.from_numpy(group.inputs))
            sources = states.index_select(0, torch.from_numpy(group.sources.reshape(-1)))
            new = step(inputs, sources.view(*group.sources.shape, 2 * self.hidden))
            states = torch.cat([states, new])
        halves = (torch.from_numpy(half) for half in (planted.up, planted.down))
        return torch.cat([states.index_select(0, at)[:, : self.hidden] for at in halves], dim=1)

    def _steps(self) -> dict[Kind, EdgeStep | NodeStep]:
        return {
            Kind(UP, EDGE): self.up_edge,
            Kind(UP, ADD_NODE): self.up_add,
            Kind(UP, CONCAT_NODE): self.up_concat,
            Kind(DOWN, EDGE): self.down_edge,
            Kind(DOWN, ADD_NODE): self.down_add,
            Kind(DOWN, CONCAT_NODE): self.down_concat,
        }


class EdgeStep(nn.Module):
    """One step of an LSTM cell: the operation is the input, the state below (or above) the state.

    Rows of the weights: input, forget and output gate, update.
    """

    def __init__(self, embedding: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = hidden
        self.input = linear(embedding, 4 * hidden, generator)
        self.recurrent = _recurrent(4, 1, hidden, generator)

    def forward(self, inputs: Tensor, sources: Tensor) -> Tensor:
        """Maps projected inputs `[M, 4 H]` and states `[M, 1, 2 H]` (h, then c) to `[M, 2 H]`."""
        h, c = sources[:, 0].split(self.hidden, dim=1)
        gates = torch.addmm(inputs, h, self.recurrent.t())
        i, f, o = gates[:, : 3 * self.hidden].sigmoid().chunk(3, dim=1)
        c = torch.addcmul(f * c, i, gates[:, 3 * self.hidden :].tanh())
        return torch.cat([o * c.tanh(), c], dim=1)


class NodeStep(nn.Module):
    """What the steps of nodes have in common; subclasses say how states reach the gates.

    Rows of the input's weights: input and output gate, update, forget gate; the last is shared by
    the forget gates of all sources, which differ by what their states add to it.
    """

    def __init__(self, embedding: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = hidden
        self.input = linear(embedding, 4 * hidden, generator)

    def forward(self, inputs: Tensor, sources: Tensor) -> Tensor:
        """Maps projected inputs `[M, 4 H]` and states `[M, S, 2 H]` (h, then c) to `[M, 2 H]`."""
        h, c = sources.split(self.hidden, dim=2)
        gates, forget = self.from_states(h)
        gates = inputs[:, : 3 * self.hidden] + gates
        i, o = gates[:, : 2 * self.hidden].sigmoid().chunk(2, dim=1)
        forget = (inputs[:, None, 3 * self.hidden :] + forget).sigmoid()
        kept = (forget * c).sum(dim=1)
        c = torch.addcmul(kept, i, gates[:, 2 * self.hidden :].tanh())
        return torch.cat([o * c.tanh(), c], dim=1)

    def from_states(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Maps `[M, S, H]` to what it adds to the gates `[M, 3 H]` and to forgetting `[M, S, H]`."""
        raise NotImplementedError


class ChildSumStep(NodeStep):
    """The child-sum step: gates from the sum of the children, one forget gate a child from it alone.

    With `parent` the last source is the parent's state, which has weights of its own.
    """

    def __init__(
        self, embedding: int, hidden: int, generator: torch.Generator, parent: bool
    ) -> None:
        super().__init__(embedding, hidden, generator)
        self.children_weight = _recurrent(4, 1, hidden, generator)
        self.parent_weight = _recurrent(4, 1, hidden, generator) if parent else None

    def from_states(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`NodeStep.from_states`."""
        if self.parent_weight is None:
            added = F.linear(h, self.children_weight)
        else:
            of_children = F.linear(h[:, :-1], self.children_weight)
            of_parent = F.linear(h[:, -1:], self.parent_weight)
            added = torch.cat([of_children, of_parent], dim=1)
        gates, forget = added.split([3 * self.hidden, self.hidden], dim=2)
        return gates.sum(dim=1), forget


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
