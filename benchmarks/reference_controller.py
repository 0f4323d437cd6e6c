"""The controller as one would write it from the paper: what ours is compared with.

One tree at a time. At every decision the whole tree is encoded again, bottom-up and top-down, one
small matrix product after another, and the decision's graph is kept until the reward is known; then
there is one backward pass for each decision. Nothing is copied out of these passes: the gradients
add up in the weights. It reads the weights of a :class:`~pathnas.controllers.policy.Controller` by
name and shares no code with it, so it is the oracle of a test too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from pathnas import decisions
from pathnas.controllers.policy import Controller
from pathnas.decisions import State
from pathnas.limits import Limits
from pathnas.tree import BASE_OP, Edge, Node, Path

LSTM = tuple[Tensor, Tensor]
"""A state: h and c, `[H]` each."""

NODE_TYPES = {("add", "replicate"): 3, ("concat", "split"): 4, ("concat", "replicate"): 5}
"""Rows of the embedding of node types; the rows below are of nodes that take no step."""


@dataclass
class Walk:
    """One episode with the graphs of its decisions.

    Attributes:
        state: where it stands.
        actions: that were chosen.
        log_probs: of these, scalars.
        entropies: of the decisions, in nats, scalars.
    """

    state: State
    actions: list[int] = field(default_factory=list)
    log_probs: list[Tensor] = field(default_factory=list)
    entropies: list[Tensor] = field(default_factory=list)


class ReferenceController:
    """Computes with the weights of a controller, in which its gradients add up.

    Args:
        controller: whose weights are read.
        limits: what a candidate may be.
    """

    def __init__(self, controller: Controller, limits: Limits) -> None:
        self.controller = controller
        self.limits = limits
        self.weights = dict(controller.named_parameters())
        self.hidden = controller.tree_lstm.hidden
        self.codes = {name: code for code, name in enumerate(("", BASE_OP, *limits.ops))}
        self.ups: dict[Path, tuple[LSTM, LSTM]] = {}
        self.downs: dict[Path, LSTM] = {}

    def sample(self, generator: torch.Generator) -> Walk:
        """Returns an episode that was sampled."""
        return self._walk(
            lambda log_probs, _: int(torch.multinomial(log_probs.exp(), 1, generator=generator))
        )

    def follow(self, actions: Sequence[int]) -> Walk:
        """Returns the episode of some actions."""
        return self._walk(lambda _, step: actions[step])

    def learn(self, walks: Sequence[Walk], advantages: Sequence[float], entropy: float) -> None:
        """Adds the gradient of the mean loss to that of the weights, a decision at a time."""
        for walk, advantage in zip(walks, advantages, strict=True):
            for log_prob, spread in zip(walk.log_probs, walk.entropies, strict=True):
                (-(advantage * log_prob + entropy * spread) / len(walks)).backward()

    def _walk(self, choose: Callable[[Tensor, int], int]) -> Walk:
        walk = Walk(decisions.begin(self.limits))
        while not walk.state.done:
            log_probs = self.log_probs(walk.state)
            action = choose(log_probs.detach(), len(walk.actions))
            offered = log_probs[log_probs > -torch.inf]
            walk.entropies.append(-(offered.exp() * offered).sum())
            walk.log_probs.append(log_probs[action])
            walk.actions.append(action)
            walk.state = decisions.step(walk.state, action, self.limits)
        return walk

    def log_probs(self, state: State) -> Tensor:
        """Returns the log-probabilities of the flat table of actions, `[A]`."""
        kind, path = state.agenda[0]
        self.ups, self.downs = {}, {}
        self._up_node(state.tree, ())
        self._down_node(state.tree, (), self._zero())
        below, edge = self.ups[path]
        features = torch.cat([(below if kind == "merge" else edge)[0], self.downs[path][0]])
        allowed = torch.tensor(decisions.mask(state, self.limits))
        answers = self.limits.actions.of[kind]
        allowed = allowed[answers.start : answers.stop]
        scores = self._merges(features, allowed) if kind == "merge" else self._head(kind, features)
        scores = scores.masked_fill(~allowed, -torch.inf).log_softmax(0)
        table = torch.full((len(self.limits.actions),), -torch.inf)
        return torch.cat([table[: answers.start], scores, table[answers.stop :]])

    def _merges(self, features: Tensor, allowed: Tensor) -> Tensor:
        """Returns the logits of keep, add 2, add 3 and concat 2, `[4]`."""
        keep, add, concat = self._head("merge", features)
        number = self._head("number", features)
        adds = number[:2].masked_fill(~allowed[1:3], -1e30).log_softmax(0)
        return torch.stack([keep, add + adds[0], add + adds[1], concat])

    def _head(self, kind: str, features: Tensor) -> Tensor:
        return self._linear(f"heads.{kind}.2", self._linear(f"heads.{kind}.0", features).relu())

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _zero(self) -> LSTM:
        return torch.zeros(self.hidden), torch.zeros(self.hidden)

    def _up_node(self, node: Node, path: Path) -> LSTM:
        children = [self._up_edge(edge, (*path, n)) for n, edge in enumerate(node.edges)]
        if len(children) > 1:
            state = self._merge(node, "up", children, [])
        else:
            state = children[0] if children else self._zero()
        self.ups.setdefault(path, (state, state))  # of the root: no edge stands above it
        return state

    def _up_edge(self, edge: Edge, path: Path) -> LSTM:
        below = self._up_node(edge.child, path)
        above = self._edge("up", edge.op, below)
        self.ups[path] = below, above
        return above

    def _down_node(self, node: Node, path: Path, state: LSTM) -> None:
        self.downs[path] = state
        for index, edge in enumerate(node.edges):
            place, above = (*path, index), state
            if len(node.edges) > 1:
                others = [self.ups[(*path, n)][1] for n in range(len(node.edges))]
                others[index] = self._zero()
                above = self._merge(node, "down", others, [state])
            self._down_node(edge.child, place, self._edge("down", edge.op, above))

    def _edge(self, direction: str, op: str, state: LSTM) -> LSTM:
        name = f"tree_lstm.{direction}_edge"
        x, weights = self.weights["tree_lstm.ops"][self.codes[op]], self.weights
        gates = F.linear(x, weights[f"{name}.weight_ih"], weights[f"{name}.bias_ih"])
        gates = gates + F.linear(state[0], weights[f"{name}.weight_hh"], weights[f"{name}.bias_hh"])
        i, f, u, o = gates.chunk(4)
        c = f.sigmoid() * state[1] + i.sigmoid() * u.tanh()
        return o.sigmoid() * c.tanh(), c

    def _merge(self, node: Node, direction: str, children: list[LSTM], above: list[LSTM]) -> LSTM:
        """Returns a node's step: child-sum or N-ary; the parent's state counts as a last child."""
        name, weights = f"tree_lstm.{direction}_{node.merge}", self.weights
        x = weights["tree_lstm.nodes"][NODE_TYPES[node.merge, node.allocation]]  # type: ignore[index]
        gates, forget = self._linear(f"{name}.input", x).split([3 * self.hidden, self.hidden])
        sources = [*children, *above]
        if node.merge == "concat":
            added = F.linear(torch.cat([h for h, _ in sources]), weights[f"{name}.weight"])
            gates = gates + added[: 3 * self.hidden]
            forgets = list(added[3 * self.hidden :].chunk(len(sources)))
        else:
            total = torch.stack([h for h, _ in children]).sum(0)
            gates = gates + F.linear(total, weights[f"{name}.gates"])
            forgets = [F.linear(h, weights[f"{name}.forget"]) for h, _ in children]
            for h, _ in above:
                added = F.linear(h, weights[f"{name}.parent"])
                gates = gates + added[: 3 * self.hidden]
                forgets.append(added[3 * self.hidden :])
        i, o, u = gates.chunk(3)
        c = i.sigmoid() * u.tanh()
        for own, (_, state) in zip(forgets, sources, strict=True):
            c = c + (forget + own).sigmoid() * state
        return o.sigmoid() * c.tanh(), c
