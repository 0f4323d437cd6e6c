"""After the search: full trainings of the best trees and of what they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pathnas import evaluators, networks
from pathnas.config import Final
from pathnas.evaluators import Scoring, Training, seed_of
from pathnas.jobs import Finished, Jobs
from pathnas.tree import BASE_TREE, Node


def train_in_full(
    jobs: Jobs,
    inherit: Training,
    first: Finished,
    top: Mapping[str, Sequence[Node]],
    final: Final,
    *,
    run_seed: int,
    weights: Path,
) -> dict[str, Finished]:
    """Trains the best trees in full; validation picks one of each search.

    Args:
        jobs: does the trainings.
        inherit: a training that grows the base network, as a trial does.
        first: the training of the base network.
        top: by search, its best trees; ``"search"`` and perhaps ``"control"``.
        final: how they are trained.
        run_seed: from which the seeds are made.
        weights: folder for the weights of all of them.

    Returns:
        By name: ``best`` (of the search), ``control``, ``base_longer`` (the base network trained
        for as many epochs more) and ``wider_base``.
    """
    longer = replace(
        inherit,
        recipe=final.training,
        seed=seed_of(run_seed, "full"),
        save=weights / "base_longer.safetensors",
    )
    planned = {BASE_TREE: longer}
    for name, trees in top.items():
        for place, tree in enumerate(trees, start=1):
            save = weights / f"{name}-{place}.safetensors"
            planned.setdefault(tree, replace(longer, tree=tree, save=save))
    trained = jobs.train(list(planned.values()), "full training")
    done = dict(zip(planned, trained, strict=True))
    picks = {"base_longer": done[BASE_TREE]}
    for name, trees in top.items():
        pick = max((done[tree] for tree in trees), key=lambda one: one.trained.accuracy)
        picks["best" if name == "search" else name] = pick
    if final.wider:
        wider = _wider(first, longer, picks["best"], seed_of(run_seed, "wider"))
        save = weights / "wider_base.safetensors"
        [picks["wider_base"]] = jobs.train([replace(wider, save=save)], "wider base")
    return _retrained(jobs, picks, weights) if final.retrain else picks


def _wider(first: Finished, longer: Training, pick: Finished, seed: int) -> Training:
    """The base network, wide enough to cost what the pick costs, trained from fresh weights.

    It gets the epochs of the base network's training and of the full training together.
    """
    recipe = first.job.recipe
    epochs = recipe.epochs + longer.recipe.epochs
    if not recipe.epochs:  # a base network that was taken from a file
        recipe = longer.recipe
    setting = longer.setting
    network = networks.widened(
        target=pick.macs, image_shape=setting.image_shape, classes=setting.classes, **longer.network
    )
    recipe = recipe.model_copy(update={"epochs": epochs})
    return replace(longer, network=network, recipe=recipe, weights=None, seed=seed)


def _retrained(jobs: Jobs, picks: dict[str, Finished], weights: Path) -> dict[str, Finished]:
    """Trains the picks again on train + validation; their validation accuracies stay."""
    again = [
        replace(one.job, everything=True, save=weights / f"{name}-everything.safetensors")
        for name, one in picks.items()
    ]
    pairs = zip(picks.items(), jobs.train(again, "retraining"), strict=True)
    return {
        name: replace(new, trained=replace(new.trained, accuracy=old.trained.accuracy))
        for (name, old), new in pairs
    }


def test_once(jobs: Jobs, picks: Mapping[str, Finished]) -> dict[str, float]:
    """Tests each pick, exactly once; returns accuracies in [0, 1] by name."""
    scores = jobs.all(evaluators.score, [Scoring(one.job) for one in picks.values()], "test")
    return dict(zip(picks, scores, strict=True))
