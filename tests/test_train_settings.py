"""Where a full training's tree and settings come from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pathnas import config, config_networks, recipes, train_settings
from pathnas import tree as trees
from pathnas.transforms import Branch
from pathnas.tree import BASE_TREE
from pathnas.treecells import TREES

TREE = Branch((), "add", 2)(BASE_TREE)
MINIMAL = (
    "data={name: synthetic, train: 64, validation: 32, test: 32}",
    "network={name: chain, widths: [4, 8], cells: 1}",
)
RUN = """
name: found
seed: 5
plugins: [json]
data: {name: synthetic, train: 64, validation: 32, test: 32, options: {classes: 3}}
base:
  network: {name: residual, widths: [4, 8], cells: 2}
  training: {epochs: 1}
final: {training: {epochs: 7, batch_size: 16}}
"""

RESIDUAL = config_networks.Residual(widths=(4, 8), cells=2)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "best").mkdir(parents=True)
    for place in (folder, folder / "best"):
        (place / "config.yaml").write_text(RUN)
    (folder / "best" / "tree.json").write_text(trees.to_json(TREE))
    return folder


def test_a_tree_comes_from_a_file_a_run_or_its_best_folder(run_folder: Path) -> None:
    alone = train_settings.tree_of(str(run_folder / "best" / "tree.json"))
    assert alone == train_settings.Found(TREE)
    assert train_settings.tree_of("treecell_b").tree == TREES["treecell_b"]
    for path in (run_folder, run_folder / "best"):
        found = train_settings.tree_of(str(path))
        assert found.tree == TREE and found.config is not None and found.config.name == "found"


@pytest.mark.parametrize("what", ["nothing", "empty", "damaged.json"])
def test_what_holds_no_tree_is_named(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.json").write_text('{"edges": 3')
    with pytest.raises(ValueError, match=f"{what}: expected a tree"):
        train_settings.tree_of(str(tmp_path / what))


def test_a_run_gives_its_data_network_recipe_and_seeds(run_folder: Path) -> None:
    settings = train_settings.load(train_settings.tree_of(str(run_folder)))
    run = config.load(run_folder / "config.yaml")
    assert settings.data == run.data and settings.network == run.base.network
    assert settings.plugins == run.plugins == ("json",)
    assert settings.recipe == run.final.training
    assert (settings.seed, settings.split_seed) == (5, 5)


def test_a_run_on_a_model_of_ones_own_gives_that_model(run_folder: Path) -> None:
    own = "base: {model: a.b:c, cells: layer1.*, absorb: true, options: {width: 4}, weights: none}"
    text = re.sub(r"base:.*?(?=final)", f"{own}\n", RUN, flags=re.DOTALL)
    (run_folder / "best" / "config.yaml").write_text(text)
    found = train_settings.tree_of(str(run_folder))
    settings = train_settings.load(found)
    expected = train_settings.Own(
        model="a.b:c", cells=("layer1.*",), absorb=True, options={"width": 4}
    )
    assert settings.network == expected
    written = train_settings.config_of(settings)
    assert found.config is not None
    assert written.base.arguments() == found.config.base.arguments()
    changed = train_settings.load(found, None, None, ["network.options.width=8"])
    assert changed.network == expected.model_copy(update={"options": {"width": 8}})
    settings = train_settings.load(found, None, None, [MINIMAL[1]])
    assert settings.network == config_networks.Chain(widths=(4, 8), cells=1)
    with pytest.raises(config.ConfigError, match=r"expected package\.module:function; got 'c'"):
        train_settings.load(found, None, None, ["network.model=c"])


def test_the_first_of_override_file_recipe_and_run_decides(
    run_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("recipe: {epochs: 11, momentum: 0.5}\nnetwork: {cells: 3}\nseed: 1\n")
    found = train_settings.tree_of(str(run_folder))
    settings = train_settings.load(found, "digits_40", file, ["recipe.epochs=13"])
    recipe = recipes.RECIPES["digits_40"]
    assert settings.recipe == recipe.model_copy(update={"epochs": 13, "momentum": 0.5})
    assert settings.network.model_dump() == {
        **RESIDUAL.model_dump(),
        "cells": 3,
    }
    # Another seed trains otherwise; the images are still split as in the search.
    assert (settings.seed, settings.split_seed) == (1, 5)


def test_options_of_another_dataset_or_network_are_not_taken_over(run_folder: Path) -> None:
    found = train_settings.tree_of(str(run_folder))
    overrides = [
        "data={name: digits, validation: 9}",
        "network={name: chain, widths: [6], cells: 1}",
    ]
    settings = train_settings.load(found, None, None, overrides)
    assert settings.data == config.Data(name="digits", validation=9)
    assert settings.network == config_networks.Chain(widths=(6,), cells=1)


def test_all_faults_come_at_once_each_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("sync_nrom: true\nnetwork: {name: chain, widths: [4], cells: 0}\n")
    found = train_settings.Found(TREE)
    with pytest.raises(config.ConfigError) as caught:
        train_settings.load(found, "cifar10_300", file, ["recipe.epochs=many"])
    faults = caught.value.faults
    assert [fault.split(": ")[0] for fault in faults] == [
        f"{file}:1",
        f"{file}:1",
        f"{file}:2",
        "override 'recipe.epochs=many'",
    ]
    assert any("did you mean 'sync_norm'" in fault for fault in faults)
    assert any("data: missing" in fault for fault in faults)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(config.ConfigError, match="did you mean 'cifar10_300'"):
        train_settings.load(train_settings.Found(TREE), "cifar_300", None, MINIMAL)


def test_the_papers_numbers() -> None:
    cifar, longer, imagenet = (
        recipes.RECIPES[name] for name in ("cifar10_300", "cifar10_600", "imagenet_120")
    )
    for recipe in (cifar, longer):
        assert (recipe.batch_size, recipe.learning_rate, recipe.schedule) == (64, 0.1, "cosine")
        assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, True, 1e-4)
        assert recipe.augment == config.Augment(crop=4, flip=True, cutout=16)
    assert longer.drop_path > cifar.drop_path == 0
    assert (cifar.epochs, longer.epochs) == (300, 600)
    assert (imagenet.epochs, imagenet.batch_size, imagenet.learning_rate) == (120, 256, 0.1)
    assert (imagenet.weight_decay, imagenet.label_smoothing) == (1e-4, 0.0)


def test_differences_are_named_but_for_what_may_change() -> None:
    found = train_settings.Found(TREE)
    old = train_settings.load(found, "digits_40", None, MINIMAL)
    other = [*MINIMAL, "recipe.epochs=3", "network.cells=2", "loaders=1", "device=cpu"]
    new = train_settings.load(found, "digits_40", None, other)
    assert train_settings.differences(old, new) == ["network.cells", "recipe.epochs"]
    assert train_settings.differences(old, old) == []


def test_settings_make_a_config_that_loads(tmp_path: Path) -> None:
    settings = train_settings.load(train_settings.Found(TREE), "digits_40", None, MINIMAL)
    path = tmp_path / "config.yaml"
    path.write_text(config.dump(train_settings.config_of(settings)))
    loaded = config.load(path)
    assert loaded.base.network == settings.network and loaded.data == settings.data
