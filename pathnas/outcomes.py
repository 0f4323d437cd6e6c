"""Candidates, what trainings and trials brought, and the reward that an outcome earns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pathnas import extrapolation, transforms
from pathnas import tree as trees
from pathnas.tree import Node

Status = Literal["ok", "failed", "out_of_memory", "diverged", "timed_out", "crashed"]

Metric = Literal["accuracy", "likelihood", "fit", "late_fit", "extrapolated_fit"]
"""What a training is judged by; see :func:`measure`."""


class Candidate:
    """A tree that is proposed for evaluation, in canonical form.

    Args:
        tree: written in any way.

    Attributes:
        key: the line that names the architecture; equal for equal candidates.
    """

    key: str
    _read: Callable[[], Node]

    def __init__(self, tree: Node) -> None:
        self.tree = trees.canonical(tree)
        self.key = str(self.tree)

    @classmethod
    def recorded(cls, key: str, read: Callable[[], Node]) -> Candidate:
        """Returns the candidate of a key whose canonical tree is read when it is asked for."""
        candidate = cls.__new__(cls)
        candidate.key, candidate._read = key, read
        return candidate

    @cached_property
    def tree(self) -> Node:
        """The canonical tree."""
        return self._read()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __reduce__(self) -> tuple[type[Candidate], tuple[Node]]:
        return Candidate, (self.tree,)

    def __repr__(self) -> str:
        return f"Candidate({self.key})"

    @property
    def transforms(self) -> list[transforms.Transform]:
        """What leads from the base tree to this one, which is of a cell, not of several stages."""
        return transforms.growth(self.tree)


@dataclass(frozen=True)
class Trained:
    """What a training brought.

    Attributes:
        accuracy: on the validation images, in [0, 1].
        parameters: of the network.
        images: training images seen, repeats counted.
        seconds: of all of it.
        curve: mean training loss of each epoch; a distillation at the birth, whose loss is another,
            has no part in it.
        loss: mean cross entropy on the validation images, in nats; None in older records.
    """

    accuracy: float
    parameters: int
    images: int
    seconds: float
    curve: tuple[float, ...] = ()
    loss: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "curve", tuple(self.curve))  # JSON knows lists alone


@dataclass(frozen=True)
class Outcome:
    """What the evaluation of a candidate brought.

    Attributes:
        status: ``"ok"``, or the way in which the trial failed.
        accuracy: share of the validation images classified right, in [0, 1]; None if it failed.
        macs: multiply-adds of the whole network for one image; None if unknown.
        parameters: of the whole network; None if unknown.
        seconds: of the trial, in its worker.
        images: training images seen, repeats counted.
        seed: of the trial.
        error: why it failed, one line.
        traceback: the end of it, if there is one.
        stopped: epochs of the last training, if halving ended the trial before a whole one.
        curve: mean training loss of each epoch of the last training, as in :class:`Trained`; empty
            if it failed or is unknown.
        loss: mean cross entropy on the validation images, in nats; None if unknown.
    """

    status: Status
    accuracy: float | None = None
    macs: int | None = None
    parameters: int | None = None
    seconds: float = 0.0
    images: int = 0
    seed: int | None = None
    error: str | None = None
    traceback: str | None = None
    stopped: int | None = None
    curve: tuple[float, ...] = ()
    loss: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "curve", tuple(self.curve))  # JSON knows lists alone


Evaluator = Callable[[Candidate], Outcome]


def measure(metric: Metric, of: Trained | Outcome, epochs: int | None = None) -> float | None:
    """Returns what a training is worth by a metric, in [0, 1]; None if that is not known of it.

    ``"accuracy"`` on the validation images. ``"likelihood"``: e^-loss there, the geometric mean of
    the probabilities that the right classes are given; unlike the accuracy it tells networks apart
    that classify the same images right. ``"fit"``: e^-loss on the training images, of the mean loss
    over all epochs (Ru et al., "Speedy performance estimation for neural architecture search",
    2021: who trains fast generalizes well). ``"late_fit"``: the same of the last quarter of the
    epochs. ``"extrapolated_fit"``: the same of the loss that
    :func:`pathnas.extrapolation.power_law` expects at the end of a full training; of one or two
    epochs, that is the last one's. The latter three look at no validation image.

    Args:
        metric: the name.
        of: the training.
        epochs: of a full training, for ``"extrapolated_fit"``; None: unknown.
    """
    if metric == "accuracy":
        return of.accuracy
    if metric == "likelihood":
        return None if of.loss is None else math.exp(-of.loss)
    if metric == "extrapolated_fit":
        if not of.curve or epochs is None:
            return None
        return math.exp(-extrapolation.power_law(of.curve, epochs))
    late = -(-len(of.curve) // 4)
    losses = of.curve if metric == "fit" else of.curve[-late:]
    return math.exp(-sum(losses) / len(losses)) if losses else None


@dataclass(frozen=True)
class Reward:
    """Shapes an outcome into what the controller maximizes (paper, section 4.2).

    Attributes:
        shape: ``"tan"``: tan(value pi / 2), the paper's, whose value is the accuracy;
            ``"accuracy"``: the value as it is.
        ceiling: the value is clipped here, since tan explodes at 1; use :meth:`ceiling_for`.
        cost_weight: `w` <= 0 in value x (macs / target)^w; 0 ignores cost.
        cost_target: multiply-adds of a network that is neither punished nor rewarded.
        failure: the reward of a trial that failed.
        metric: the value, see :func:`measure`.
        epochs: of a full training, which some metrics need.
    """

    shape: Literal["tan", "accuracy"] = "tan"
    ceiling: float = 1 - 1e-4
    cost_weight: float = 0.0
    cost_target: float | None = None
    failure: float = 0.0
    metric: Metric = "accuracy"
    epochs: int | None = None

    @staticmethod
    def ceiling_for(validation_images: int) -> float:
        """Returns the accuracy half an image below a perfect one."""
        return 1 - 1 / (2 * validation_images)

    def __call__(self, outcome: Outcome) -> float:
        """Returns a finite reward.

        Raises:
            ValueError: if the outcome does not tell what its metric needs, or, if cost counts, its
                multiply-adds.
        """
        if outcome.status != "ok":
            return self.failure
        value = measure(self.metric, outcome, self.epochs)
        if value is None:
            raise ValueError(f"the reward needs the metric {self.metric!r}, got {outcome}")
        if self.cost_weight:
            if not outcome.macs or not self.cost_target:
                raise ValueError(
                    f"a cost term needs multiply-adds and a target, got {outcome.macs=}, "
                    f"{self.cost_target=}"
                )
            value *= (outcome.macs / self.cost_target) ** self.cost_weight
        if not math.isfinite(value):
            return self.failure
        value = min(max(value, 0.0), self.ceiling)
        return math.tan(value * math.pi / 2) if self.shape == "tan" else value
