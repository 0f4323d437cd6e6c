"""The decision process of path-level search as a Gymnasium environment."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import gymnasium
import networkx as nx
import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded
from numpy.typing import NDArray

from pathnas import decisions, drawing
from pathnas import tree as trees
from pathnas.decisions import State
from pathnas.envs import observation
from pathnas.envs.observation import Observation
from pathnas.limits import Limits
from pathnas.outcomes import Candidate, Evaluator, Reward
from pathnas.surrogate import Surrogate

Action = int | np.integer[Any]


def question_of(state: State) -> str:
    """Returns in words what is asked."""
    if state.done:
        return "done"
    kind, path = state.agenda[0]
    return f"{kind} at {path}?"


class PathLevelEnv(gymnasium.Env[Observation, Action]):
    """A tree grows decision by decision, and is evaluated at the end.

    ## Description
    The environment of "Path-Level Network Transformation for Efficient Architecture Search"
    (Cai et al., 2018). A cell starts as a single convolution, the tree with one branch. The agent
    is asked one question after another: whether to branch a node and how to merge the branches,
    whether to insert a node below a branch, which operation to put on a new branch. After the last
    answer the tree goes to the evaluator, and what the evaluator says is the reward. No weights are
    touched on the way; :mod:`pathnas.decisions` says in which order the questions come.

    The environment itself is deterministic. ``state`` holds the tree so far and the questions that
    wait; ``graph`` is the tree as a networkx ``DiGraph`` whose nodes are paths (``merge``,
    ``allocation``) and whose edges carry ``op`` and ``position``.

    >>> import gymnasium
    >>> env = gymnasium.make("pathnas.envs:pathnas/PathLevel-v0")
    >>> observation, info = env.reset(seed=1)
    >>> done = False
    >>> while not done:
    ...     action = env.action_space.sample(observation["action_mask"])
    ...     observation, reward, done, truncated, info = env.step(action)
    >>> info["status"], 0 <= info["accuracy"] <= 1
    ('ok', True)

    ## Action Space
    ``Discrete``, one flat table for all questions; with the default limits:

    | Number | Name | Answers | Meaning |
    |---|---|---|---|
    | 0 | `keep` | merge | the node keeps its one branch |
    | 1 | `add2` | merge | two branches, averaged |
    | 2 | `add3` | merge | three branches, averaged |
    | 3 | `concat2` | merge | two branches that share out the channels |
    | 4 | `stop` | insert | the branch ends here |
    | 5 | `insert` | insert | a node with one undecided branch below this branch |
    | 6 to 12 | the ops | op | `sep_conv3x3`, `sep_conv5x5`, `sep_conv7x7`, `conv1x1`, \
`identity`, `max_pool3x3`, `avg_pool3x3` |

    ``limits.actions.names`` is the table. Which actions are allowed is told by ``action_mask`` in
    the observation, and by ``action_masks()`` (a bool array, as MaskablePPO of sb3-contrib wants
    it). A forbidden action raises nothing and changes nothing, but costs ``invalid_penalty``, and
    ``info["invalid_action"]`` is True. An action outside of the space raises ``InvalidAction``.

    ## Observation Space
    A ``Dict`` of arrays of integers. Row 0 stands for the root node, every other row for an edge
    and the node at its end, parents before children; what is left of the `N` rows (40 with the
    default limits) is padding, all zero. `A` is the number of actions.

    | Key | Shape | Values | Meaning |
    |---|---|---|---|
    | `op` | `[N]` | 0: none (root, padding), 1: base, 2...: `limits.ops`, then the stages | \
operation of the edge |
    | `node` | `[N]` | 0: padding, 1: leaf, 2: one branch, 3: add, 4: concat of a split input, \
5: concat of a replicated input, 6: stages | type of the node |
    | `parent` | `[N]` | row; 0 for the root | the node from which the edge comes |
    | `position` | `[N]` | 0, 1, 2 (or a stage) | index of the edge among its parent's branches |
    | `question` | scalar | 0: merge, 1: insert, 2: op, 3: done | what is asked |
    | `focus` | scalar | row | the node (merge) or edge (insert, op) that the question is about |
    | `action_mask` | `[A]` | int8 | 1 where the action is allowed; all 1 when done |

    Limits whose ``start`` is one of :func:`pathnas.tree.staged` ask for a tree of each stage of the
    network, one stage after another. Row 0 is then the network's, with an edge to each stage's
    tree; without stages none of their values occurs, nor is it in the space.

    ## Rewards
    0 until the last decision; then ``reward(outcome)`` of the evaluator's outcome: by default its
    accuracy, and 0 if the evaluation failed. ``invalid_penalty`` for every forbidden action.

    ## Starting State
    The base tree (one branch, the base convolution), with a merge question at the root. Always the
    same: the seed makes no difference.

    ## Episode End
    Terminates when no question is left. The last ``info`` holds ``candidate`` (the key of the
    canonical tree), ``tree`` (the canonical tree as nested dictionaries, see
    :func:`pathnas.tree.from_dict`), ``status`` and, unless the evaluation failed, ``accuracy``. The
    environment never truncates; ``gymnasium.make`` adds a time limit of 500 steps, which only
    forbidden actions or very large limits reach. To go on after the end raises ``ResetNeeded``.

    ## Arguments
    - ``evaluator``: from a :class:`pathnas.outcomes.Candidate` to its outcome; None: the
      :class:`pathnas.surrogate.Surrogate` of the limits, which answers in microseconds.
    - ``limits``: what a candidate may be (depth, operations, cells, multiply-adds); None:
      ``Limits()``.
    - ``reward``: how an outcome is shaped; None: ``Reward(shape="accuracy")``.
    - ``invalid_penalty``: the reward of a forbidden action, at most 0.
    - ``render_mode``: ``"ansi"`` (the tree as text, with the question), ``"rgb_array"`` (a picture,
      `[480, 720, 3]` uint8) or None.

    ## Version History
    * v0: initial version
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 2,
    }

    def __init__(
        self,
        evaluator: Evaluator | None = None,
        limits: Limits | None = None,
        reward: Reward | None = None,
        invalid_penalty: float = -0.1,
        render_mode: str | None = None,
    ) -> None:
        if not -math.inf < invalid_penalty <= 0:
            raise ValueError(f"invalid_penalty must be finite and at most 0, got {invalid_penalty}")
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise ValueError(f"render_mode must be None or one of {modes}, got {render_mode!r}")
        self.limits = limits if limits is not None else Limits()
        self.evaluator = evaluator if evaluator is not None else Surrogate(self.limits)
        self.reward = reward if reward is not None else Reward(shape="accuracy")
        self.invalid_penalty = invalid_penalty
        self.render_mode = render_mode
        self.action_space = gymnasium.spaces.Discrete(len(self.limits.actions))
        self.observation_space = observation.space(self.limits)
        self._state: State | None = None

    @property
    def state(self) -> State:
        """The tree so far and the questions that wait.

        Raises:
            ResetNeeded: before the first reset.
        """
        if self._state is None:
            raise ResetNeeded("expected reset() before anything else")
        return self._state

    @property
    def graph(self) -> nx.DiGraph:
        """The tree so far as a directed graph, see :func:`pathnas.tree.to_networkx`."""
        return trees.to_networkx(self.state.tree)

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns which actions are allowed, `[A]` bool; all True when the episode is done."""
        return observation.action_mask(self.state, self.limits).astype(np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode at the base tree; there are no options."""
        super().reset(seed=seed)
        self._state = decisions.begin(self.limits)
        return observation.encode(self._state, self.limits), {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Answers the question.

        Raises:
            InvalidAction: if the action is outside of the action space.
            ResetNeeded: before the first reset, and when the episode has ended.
        """
        state = self.state
        if state.done:
            raise ResetNeeded("the episode has ended: expected reset() before another step()")
        number = isinstance(action, int | np.integer) and 0 <= action < len(self.limits.actions)
        if not number and not self.action_space.contains(action):
            raise InvalidAction(f"expected an action in {self.action_space}, got {action!r}")
        reward, info = 0.0, {"invalid_action": False}
        if not decisions.mask(state, self.limits)[int(action)]:
            reward, info = self.invalid_penalty, {"invalid_action": True}
        else:
            self._state = state = decisions.step(state, int(action), self.limits)
            if state.done:
                reward, outcome = self._evaluate()
                info |= outcome
        return observation.encode(state, self.limits), reward, state.done, False, info

    def _evaluate(self) -> tuple[float, dict[str, Any]]:
        candidate = Candidate(self.state.tree)
        outcome = self.evaluator(candidate)
        info: dict[str, Any] = {
            "candidate": candidate.key,
            "tree": trees.to_dict(candidate.tree),
            "status": outcome.status,
        }
        if outcome.accuracy is not None:
            info["accuracy"] = outcome.accuracy
        return self.reward(outcome), info

    def render(self) -> str | NDArray[np.uint8] | None:
        """Returns the tree as text or as a picture, by the render mode; None without one."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                "render() was called without a render mode; give one at the start, as in "
                'gymnasium.make("pathnas/PathLevel-v0", render_mode="rgb_array")'
            )
            return None
        question = question_of(self.state)
        if self.render_mode == "ansi":
            return f"{trees.indented(self.state.tree)}\n{question}\n"
        focus = None if self.state.done else self.state.agenda[0].path
        return drawing.rgb(self.state.tree, focus=focus, title=question)
