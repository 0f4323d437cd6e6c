"""After the search: full trainings of the best trees and of what they are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pathnas import evaluators, networks
from pathnas.config import Final, Recipe
from pathnas.evaluators import Scoring, Training, seed_of
from pathnas.jobs import Finished, JobFailed, Jobs
from pathnas.tree import BASE_TREE, Node


@dataclass(frozen=True)
class Finals:
    """The full trainings of a run.

    Attributes:
        jobs: does them.
        inherit: a training that grows the base network, as a trial does.
        first: how the base network was trained; None if that is not known.
        final: how the best trees are trained.
        run_seed: from which the seeds are made.
        weights: folder for the weights of all of them.
    """

    jobs: Jobs
    inherit: Training
    first: Recipe | None
    final: Final
    run_seed: int
    weights: Path

    def train(self, top: Mapping[str, Sequence[Node]]) -> dict[str, Finished]:
        """Trains the best trees in full; validation picks one of each search.

        Args:
            top: by search, its best trees; ``"search"`` and perhaps ``"control"``.

        Returns:
            By name: ``base_longer`` (the base network trained for as many epochs more), ``best``
            (of the search), ``control``, and ``wider_base`` where the network can be widened.

        Raises:
            JobFailed: if all trees of a search fail.
        """
        start = self.inherit.start
        longer = {(start, n): self._job(f"base_longer-{n}", n, start) for n in self._repeats}
        grown = {
            (tree, 1): self._job(f"{name}-{place}", 1, tree)
            for name, trees in top.items()
            for place, tree in enumerate(trees, start=1)
        }
        planned = {**grown, **longer}
        trained = self.jobs.train(list(planned.values()), "full training")
        done = dict(zip(planned, trained, strict=True))
        picks = {"base_longer": _pick(done[key] for key in longer)}
        for name, trees in top.items():
            pick = _pick(done[tree, 1] for tree in trees)
            if pick.failure is not None:
                raise JobFailed(f"full training of all trees of the {name}", pick.failure)
            picks["best" if name == "search" else name] = pick
        if self.final.wider and not networks.can_widen(self.inherit.network):
            self.jobs.console.line("wider base: left out, for this network cannot be widened")
        elif self.final.wider:
            picks["wider_base"] = _pick(self._train_wider(picks["best"].macs))
        return self._retrained(picks) if self.final.retrain else picks

    @property
    def _repeats(self) -> range:
        return range(1, self.final.repeats + 1)

    def _job(self, name: str, repeat: int, tree: Node) -> Training:
        return replace(
            self.inherit,
            recipe=self.final.training,
            tree=tree,
            seed=seed_of(self.run_seed, "full", repeat),
            save=self._file(name),
        )

    def _file(self, name: str) -> Path:
        return self.weights / f"{name}.safetensors"

    def _train_wider(self, target: int) -> list[Finished]:
        """Trains the base network, wide enough to cost `target`, as the best tree was trained.

        First as the base network, from fresh weights, and then in full.
        """
        setting, network = self.inherit.setting, self.inherit.network
        wide = networks.widened(
            target=target, image_shape=setting.image_shape, classes=setting.classes, **network
        )
        second = [
            replace(
                self._job(f"wider_base-{n}", n, BASE_TREE),
                network=wide,
                weights=None,
                start=BASE_TREE,
            )
            for n in self._repeats
        ]
        if self.first is None:
            return self.jobs.train(second, "wider base")
        first = [
            replace(
                job,
                recipe=self.first,
                seed=seed_of(self.run_seed, "wider", n),
                save=self._file(f"wider_base-{n}-first"),
            )
            for n, job in zip(self._repeats, second, strict=True)
        ]
        begun = self.jobs.train(first, "wider base, first part")
        sound = [(one, job) for one, job in zip(begun, second, strict=True) if one.trained]
        if not sound:
            return begun
        rest = [replace(job, weights=one.job.save) for one, job in sound]
        ended = self.jobs.train(rest, "wider base, second part")
        return [_together(one, end) for (one, _), end in zip(sound, ended, strict=True)]

    def _retrained(self, picks: dict[str, Finished]) -> dict[str, Finished]:
        """Trains the picks again on train + validation; their validation accuracies stay."""
        sound = {name: one for name, one in picks.items() if one.trained is not None}
        again = [
            replace(one.job, everything=True, save=self._file(f"{name}-everything"))
            for name, one in sound.items()
        ]
        for (name, old), new in zip(
            sound.items(), self.jobs.train(again, "retraining"), strict=True
        ):
            if new.trained is not None:
                trained = replace(new.trained, accuracy=old.accuracy)
                picks = {**picks, name: replace(new, trained=trained)}
        return picks


def test_once(jobs: Jobs, picks: Mapping[str, Finished]) -> dict[str, float]:
    """Tests each pick that did not fail, exactly once.

    Returns:
        Accuracies in [0, 1], by name.

    Raises:
        JobFailed: if a test fails.
    """
    sound = {name: one for name, one in picks.items() if one.trained is not None}
    scorings = {f"test of {name}": Scoring(one.job) for name, one in sound.items()}
    results = jobs.all(evaluators.score, scorings, "test")
    scores = {}
    for name, (title, result) in zip(sound, results.items(), strict=True):
        if result.failure is not None:
            raise JobFailed(title, result.failure)
        scores[name] = float(result.value or 0)
    return scores


def _pick(finished: Iterable[Finished]) -> Finished:
    return max(finished, key=lambda one: one.accuracy)


def _together(first: Finished, second: Finished) -> Finished:
    if first.trained is None or second.trained is None:
        return second
    images = first.trained.images + second.trained.images
    return replace(second, trained=replace(second.trained, images=images))
