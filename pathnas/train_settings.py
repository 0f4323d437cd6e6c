"""Which tree is trained in full, how, and on what: from arguments of the command to values.

Settings come from up to four places; the first that has a key decides it: ``key=value`` of the
command line, the file of ``--config``, the recipe, and the config of the run that found the tree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from pathnas import config as configs
from pathnas import config_faults
from pathnas import tree as trees
from pathnas.config import Data, Recipe
from pathnas.config_networks import Model, Network
from pathnas.config_types import (
    BelowOne,
    Count,
    Device,
    Glob,
    Modules,
    Option,
    is_function,
    one_or_more,
)
from pathnas.recipes import RECIPES
from pathnas.tree import Node
from pathnas.treecells import TREES
from pathnas.yaml_reader import Document, dotted, hint, shown

FREE = {"device", "loaders", "checkpoint_epochs"}
"""Settings that may differ when a training is resumed."""

_Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]


class Own(Model):
    """A network of one's own with cells grafted in; the keys of a run's `base`."""

    name: Literal["grafted"] = "grafted"
    """this kind"""
    model: Annotated[str, Field(max_length=256)]
    """package.module:function that returns the network"""
    cells: Annotated[tuple[Glob, ...], BeforeValidator(one_or_more)]
    """names or globs of the convolutions that become cells"""
    activation: Literal["pre", "post"] = "pre"
    """whether batch norm and ReLU come before or after a convolution that is grown"""
    absorb: bool = False
    """move the batch norm and the ReLU beside each of these convolutions into its cell"""
    options: dict[str, Option] = Field({})
    """keyword arguments of the function, beside channels and classes if it names them"""

    @field_validator("model")
    @classmethod
    def _path(cls, model: str) -> str:
        if not is_function(model):
            raise ValueError(f"expected package.module:function; got {shown(model)}")
        return model


class Settings(Model):
    """All settings of a full training."""

    plugins: Modules = ()
    """modules of your own to import, which register the operations of the tree"""
    data: Data
    """the images, and how they are split"""
    network: Annotated[Network | Own, Field(discriminator="name")]
    """architecture around the cells; grafted: a network of one's own"""
    recipe: Recipe
    """how it is trained"""
    seed: _Seed = 0
    """seed of weights, order and augmentation"""
    split_seed: _Seed = 0
    """seed of the split of the images; that of the run which found the tree"""
    everything: bool = False
    """train on training and validation images together; validation accuracy then says nothing"""
    average: BelowOne = 0.0
    """decay of the moving average of the weights that is kept in their place; 0: none"""
    sync_norm: bool = False
    """batch norm over the whole batch, not over each process's part"""
    device: Device = "auto"
    """auto, cpu, mps, cuda or cuda:N; several processes take one CUDA device each"""
    loaders: Annotated[int, Field(ge=0, le=256)] | None = None
    """processes that decode image files, for each training process; null: the cores, shared out"""
    checkpoint_epochs: Count = 1
    """epochs from one checkpoint to the next"""


@dataclass(frozen=True)
class Found:
    """A tree, and the run that found it.

    Attributes:
        tree: of every cell, or of each stage.
        config: of the run; None if the tree came alone.
        path: of the run's config.
    """

    tree: Node
    config: configs.Config | None = None
    path: Path | None = None


def tree_of(argument: str) -> Found:
    """Returns the tree that an argument names.

    Args:
        argument: a run folder, the ``best`` folder of one, a JSON file of a tree, or a name of
            :data:`pathnas.treecells.TREES`.

    Raises:
        ValueError: if it is none of these, or the file is damaged.
    """
    path = Path(argument)
    if path.is_file():
        return Found(_tree(path))
    for folder in (path / "best", path):
        if (folder / "tree.json").is_file():
            config = folder / "config.yaml"
            return Found(_tree(folder / "tree.json"), configs.load(config), config)
    if argument in TREES:
        return Found(TREES[argument])
    raise ValueError(
        f"{argument}: expected a tree's JSON file, a finished run's folder, a best folder "
        f"or one of {', '.join(TREES)}, "
        f"got {'a folder without tree.json' if path.is_dir() else 'nothing of that name'}"
    )


def _tree(path: Path) -> Node:
    try:
        return trees.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: expected a tree as JSON: {error}") from error


def load(
    found: Found,
    recipe: str | None = None,
    path: Path | None = None,
    overrides: Sequence[str] = (),
) -> Settings:
    """Returns the settings of a training.

    Args:
        found: the tree that is trained, and its run.
        recipe: a name of :data:`pathnas.recipes.RECIPES`; None: that of the run or the file.
        path: a YAML file of any of the settings.
        overrides: ``a.b.c=value``, applied in order.

    Raises:
        ConfigError: with all faults at once, each with its place.
    """
    document = (
        Document({}, {(): "settings"}) if path is None else config_faults.read(path, Settings)
    )
    for text in overrides:
        document.override(text)
    if recipe is not None:
        if recipe not in RECIPES:
            known = hint(recipe, RECIPES, "known recipes")
            raise configs.ConfigError([f"--recipe: unknown recipe {recipe!r}; {known}"])
        whole = RECIPES[recipe].model_dump()
        _fill(document, {"recipe": whole}, f"recipe {recipe}")
    if found.config is not None:
        _fill(document, _of_run(found.config), str(found.path))
    return config_faults.checked(document, Settings, path or Path("settings"))


def _of_run(config: configs.Config) -> dict[str, Any]:
    return {
        "plugins": config.plugins,
        "data": config.data.model_dump(),
        "network": config.base.arguments(),
        "recipe": config.final.training.model_dump(),
        "seed": config.seed,
        "split_seed": config.seed,
    }


def _fill(
    document: Document, values: Mapping[str, Any], place: str, at: tuple[str, ...] = ()
) -> None:
    """Sets what a document does not set yet.

    Options of one dataset or network mean nothing to another: a mapping of another ``name`` is left
    as it is.
    """
    target = document.value
    for key in at:
        target = target[key]
    if "name" in values and target.get("name", values["name"]) != values["name"]:
        return
    for key, value in values.items():
        path = (*at, key)
        if key not in target:
            target[key] = value
            document.places[path] = place
        elif isinstance(value, dict) and isinstance(target[key], dict):
            _fill(document, value, place, path)


def differences(old: Settings, new: Settings) -> list[str]:
    """Returns the dotted keys in which two settings train differently."""
    return _differ(old.model_dump(exclude=FREE), new.model_dump(exclude=FREE), ())


def _differ(old: Any, new: Any, at: tuple[str, ...]) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [key for k in keys for key in _differ(old.get(k), new.get(k), (*at, k))]
    return [] if old == new else [dotted(at)]


def config_of(settings: Settings) -> configs.Config:
    """Returns the config of a run with these settings, for a folder as a run's ``best``."""
    network = settings.network
    own = isinstance(network, Own)
    base = network.model_dump(exclude={"name"}) if own else {"network": network, "options": {}}
    return configs.Config(
        name="trained",
        seed=settings.split_seed,
        device=settings.device,
        plugins=settings.plugins,
        data=settings.data,
        base=configs.Base(training=settings.recipe, **base),
        final=configs.Final(training=settings.recipe),
    )
