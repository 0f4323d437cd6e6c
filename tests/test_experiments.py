"""Every shipped experiment loads, and names only what exists."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from pathnas import config, config_networks, datasets, networks, ops
from pathnas.limits import Limits

FOLDER = Path(__file__).parent.parent / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))
SHAPES = {
    **{"digits": (1, 8, 8), "mnist": (1, 14, 14), "synthetic": (1, 8, 8)},
    "imagefolder": (3, 224, 224),
}


def test_the_experiments_are_there() -> None:
    names = {path.stem for path in FILES}
    assert names == {
        "cifar10",
        "cifar10_small",
        "digits",
        "imagenet",
        "mnist",
        "photos",
        "smoke",
        "surrogate",
    }
    readme = (FOLDER / "README.md").read_text()
    assert all(f"`{name}.yaml`" in readme for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_loads_and_its_space_can_be_searched(path: Path) -> None:
    settings = config.load(path)
    assert settings.name == path.stem
    assert settings.data.name in datasets.DATASETS
    assert all(name in ops.OPS for name in settings.search.ops)
    shape = SHAPES.get(settings.data.name, (3, 32, 32))
    network = networks.build(channels=shape[0], classes=10, **settings.base.network.model_dump())
    limits = Limits(settings.search.depth, settings.search.ops, networks.sites(network, shape))
    assert len(limits.actions) == 6 + len(settings.search.ops)


def test_cifar10_holds_the_papers_settings() -> None:
    settings = config.load(FOLDER / "cifar10.yaml")
    search, trial, controller = (
        settings.search,
        settings.search.trial,
        settings.search.controller,
    )
    assert (search.trials, search.episodes, search.depth) == (500, 10, 3)
    assert set(search.ops) == set(config.Search().ops) and search.reward.shape == "tan"
    assert (trial.epochs, trial.batch_size, trial.learning_rate) == (20, 64, 0.035)
    assert (trial.momentum, trial.nesterov, trial.weight_decay) == (0.9, True, 1e-4)
    assert trial.schedule == "cosine" and settings.data.validation == 5000
    assert (controller.embedding, controller.hidden, controller.head) == (10, 100, 500)
    assert (controller.learning_rate, controller.entropy, controller.clip) == (6e-3, 1e-2, 40)
    assert (controller.baseline, controller.decay) == ("paper", 0.95)
    assert settings.final.training.epochs == 300


def test_photos_are_searched_with_the_settings_of_cifar10_small() -> None:
    photos, small = (config.load(FOLDER / f"{name}.yaml") for name in ("photos", "cifar10_small"))
    for part in ("base", "search", "final"):
        assert getattr(photos, part) == getattr(small, part)


def test_config_and_library_know_the_same_names() -> None:
    assert set(config.DATASETS) == set(datasets.DATASETS)
    assert set(config.Search().ops) <= set(ops.OPS)
    models = get_args(config_networks.Network)
    named = {model.model_fields["name"].default for model in models}
    assert named == set(networks.NETWORKS) - {"grafted"}  # of base.model, not by name
