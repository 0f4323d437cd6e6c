"""The bidirectional tree-LSTM that reads a tree and represents the place that is asked about.

After the paper, section 3.3, and Tai et al. (2015). *Bottom-up*, a leaf starts from zero; a node
with several branches takes the states after its edges, by a child-sum step if it adds and by an
N-ary step if it concatenates; an edge is one step of an ordinary LSTM cell. *Top-down*, the root
starts from zero; a child gets what the parent's node step makes of the parent's own top-down state
and the bottom-up states of the child's siblings, then its edge's step. A node with one branch
hands states on. The two directions have weights of their own. Where each stage of the network has a
tree of its own, the root takes its stages by the child-sum step; the embeddings of the edges to
them, and of the root's type, tell it and them apart.

Here are the weights. Which states a batch needs is found by :mod:`pathnas.controllers.forest`, and
they are computed by :mod:`pathnas.controllers.reader`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pathnas.actions import MERGES, Actions
from pathnas.controllers.forest import ADD_NODE, CONCAT_NODE, DOWN, EDGE, UP, Forest, Kind
from pathnas.controllers.lstm_steps import Array, ChildSumStep, EdgeStep, NaryStep, Step
from pathnas.controllers.reader import LearningReader, Reader
from pathnas.decisions import State
from pathnas.envs.observation import decode, sizes

MAX_KNOWN = 100_000
"""How much a tree-LSTM knows by sight at most, before it starts anew: of trees as they are usual,
some 40 MB."""

AnyReader = TypeVar("AnyReader", bound=Reader)


class TreeLSTM(nn.Module):
    """Represents the focus of each observation of a batch by `2 hidden` numbers.

    Args:
        actions: the flat table of actions.
        embedding: size of the embeddings of operations and of node types.
        hidden: size of the state in each direction.
        generator: the source of the initial weights.
    """

    def __init__(
        self, actions: Actions, embedding: int, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        ops, nodes, branches = sizes(actions)
        adds, concats = (max(n for merge, n in MERGES if merge == m) for m in ("add", "concat"))
        adds = max(adds, branches)
        self.actions, self.adds, self.concats, self.hidden = actions, adds, concats, hidden
        self._forest = self.forest()
        self.ops = _embedding(ops, embedding, generator)
        self.nodes = _embedding(nodes, embedding, generator)
        shape = embedding, hidden, generator
        self.up_edge = EdgeWeights(*shape)
        self.up_add = ChildSumWeights(*shape, children=adds, parent=False)
        self.up_concat = NaryWeights(concats, *shape)
        self.down_edge = EdgeWeights(*shape)
        self.down_add = ChildSumWeights(*shape, children=adds, parent=True)
        self.down_concat = NaryWeights(concats + 1, *shape)

    def forest(self) -> Forest:
        """Returns a forest of the trees that can be read, which has seen nothing."""
        return Forest(self.actions, self.adds, self.concats)

    def steps(self) -> dict[Kind, StepWeights]:
        """Returns the weights of the six kinds of steps."""
        return {
            Kind(UP, EDGE): self.up_edge,
            Kind(UP, ADD_NODE): self.up_add,
            Kind(UP, CONCAT_NODE): self.up_concat,
            Kind(DOWN, EDGE): self.down_edge,
            Kind(DOWN, ADD_NODE): self.down_add,
            Kind(DOWN, CONCAT_NODE): self.down_concat,
        }

    def reader(self) -> Reader:
        """Returns what reads as :meth:`forward` does; the weights must not change meanwhile."""
        with torch.no_grad():
            return self._reader(Reader, self._weights())

    def forward(self, observations: Mapping[str, Any]) -> Tensor:
        """Maps stacked observations `[B, ...]` to `[B, 2 hidden]`: bottom-up, then top-down.

        For a merge question the bottom-up half is the node's state before the edge above it; for
        an op or insert question the edge's state after its step.

        Args:
            observations: the arrays of :func:`pathnas.envs.observation.encode`, stacked.

        Raises:
            ValueError: if a node has too many branches, or the arrays show no tree.
        """
        weights = self._weights()
        reader = self._reader(LearningReader, weights)
        counts = {kind: len(own) for kind, own in weights.items()}
        every = [weight for own in weights.values() for weight in own]
        features: Tensor = _Read.apply(reader, decode(observations, self.actions), counts, *every)
        return features

    def _weights(self) -> dict[Kind, list[Tensor]]:
        """Returns for each kind of step its table, then the weights that states go through."""
        return {
            kind: [step.table(self.ops if kind.place == EDGE else self.nodes), *step.recurrent()]
            for kind, step in self.steps().items()
        }

    def _reader(self, reader: type[AnyReader], weights: dict[Kind, list[Tensor]]) -> AnyReader:
        steps = {
            kind: step.on_arrays(*(weight.detach().numpy() for weight in weights[kind]))
            for kind, step in self.steps().items()
        }
        if len(self._forest) > MAX_KNOWN:
            self._forest = self.forest()
        return reader(self._forest, steps, self.hidden)


class _Read(torch.autograd.Function):
    """What a reader computes, as one operation of torch's graph."""

    @staticmethod
    def forward(
        ctx: Any,
        reader: LearningReader,
        observed: Sequence[State],
        counts: dict[Kind, int],
        *weights: Tensor,
    ) -> Tensor:
        ctx.reader, ctx.counts = reader, counts
        ctx.save_for_backward(*weights)
        return torch.from_numpy(reader(observed))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, features: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # raises if a weight, which the reader shares, has changed since
        gradients = ctx.reader.gradients(features.numpy())
        found: list[Tensor | None] = [None, None, None]
        for kind, count in ctx.counts.items():
            own = gradients.get(kind)
            found += [None] * count if own is None else map(torch.from_numpy, own)
        return tuple(found)


class StepWeights(nn.Module):
    """The weights of one kind of step; :mod:`pathnas.controllers.lstm_steps` computes with them.

    What the inputs add to the gates is the same for all states of one input, so it comes from a
    table that is computed once.
    """

    _step: Callable[..., Step]

    def table(self, inputs: Tensor) -> Tensor:
        """Maps embeddings `[K, E]` to what each adds to the gates, `[K, G]`."""
        raise NotImplementedError

    def recurrent(self) -> list[Tensor]:
        """Returns the weights that states go through."""
        raise NotImplementedError

    def on_arrays(self, table: Array, *weights: Array) -> Step:
        """Returns the step with the table and the weights as arrays, in the order of those."""
        return self._step(table, *weights)


class EdgeWeights(StepWeights):
    """Of an ordinary LSTM cell, with the names and the order of gates of torch's."""

    _step = EdgeStep

    def __init__(self, embedding: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(hidden)

        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, embedding))
        self.weight_hh = nn.Parameter(torch.empty(0))  # stands second among the parameters
        self.bias_ih, self.bias_hh = (nn.Parameter(torch.empty(4 * hidden)) for _ in range(2))
        for weight in (self.weight_ih, self.bias_ih, self.bias_hh):
            nn.init.uniform_(weight, -bound, bound, generator=generator)
        self.weight_hh = _recurrent(4, 1, hidden, generator)

    def table(self, inputs: Tensor) -> Tensor:
        """See :meth:`StepWeights.table`."""
        return F.linear(inputs, self.weight_ih, self.bias_ih + self.bias_hh)

    def recurrent(self) -> list[Tensor]:
        """See :meth:`StepWeights.recurrent`."""
        return [self.weight_hh]


class NodeWeights(StepWeights):
    """What the steps of nodes have in common.

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
        """See :meth:`StepWeights.table`; the forget gate's part is repeated for each source."""
        gates, forget = self.input(inputs).split([3 * self.hidden, self.hidden], dim=1)
        return torch.cat([gates, *[forget] * self.sources], dim=1)


class ChildSumWeights(NodeWeights):
    """Of the child-sum step; with `parent`, whose state has weights of its own."""

    _step = ChildSumStep

    def __init__(
        self, embedding: int, hidden: int, generator: torch.Generator, children: int, parent: bool
    ) -> None:
        super().__init__(children + parent, embedding, hidden, generator)
        self.gates = _recurrent(3, 1, hidden, generator)
        self.forget = _recurrent(1, 1, hidden, generator)
        self.parent = _recurrent(4, 1, hidden, generator) if parent else None

    def recurrent(self) -> list[Tensor]:
        """See :meth:`StepWeights.recurrent`."""
        every = self.gates, self.forget, self.parent
        return [weight for weight in every if weight is not None]


class NaryWeights(NodeWeights):
    """Of the N-ary step, which are by position."""

    _step = NaryStep

    def __init__(
        self, positions: int, embedding: int, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__(positions, embedding, hidden, generator)
        self.weight = _recurrent(3 + positions, positions, hidden, generator)

    def recurrent(self) -> list[Tensor]:
        """See :meth:`StepWeights.recurrent`."""
        return [self.weight]


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
