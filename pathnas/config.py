"""The YAML of a run as strict typed models.

One model for each section of the file. Nothing is converted except a whole number where a float is
asked and a list where a tuple is asked; every key is known, every number has a range.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from pathnas import config_faults, yaml_reader
from pathnas.yaml_reader import YamlError, dotted, hint, shorten, shown

DATASETS = ("digits", "photos", "cifar10", "cifar100", "imagefolder", "synthetic")
"""The names that `Data.name` knows, beside ``package.module:function``."""


def _matching(pattern: str, words: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{words}; got {shown(value)}")
        return value

    return AfterValidator(check)


def _to_tuple(value: Any) -> Any:
    """YAML has lists where the models have tuples, which cannot change."""
    items = tuple(value) if isinstance(value, list) else value
    if isinstance(items, tuple) and not 1 <= len(items) <= 64:
        raise ValueError(f"must have 1 to 64 items, got {len(items)}")
    return items


def _plain(value: Any) -> Any:
    """One fault for a value that is none of the types of an option, where a union gives four."""
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"expected a string, a number or true or false, got {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"must be a finite number, got {shown(value)}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"must fit into 64 bits, got {shown(value)}")
    return value


Pixels: TypeAlias = Annotated[int, Field(ge=0, le=64)]
Width: TypeAlias = Annotated[int, Field(ge=1, le=4096)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=10**9)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
BelowOne: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
LearningRate: TypeAlias = Annotated[float, Field(gt=0, le=100)]
Multiple: TypeAlias = Annotated[float, Field(gt=0, le=10**6)]
FilePath: TypeAlias = Annotated[
    str,
    Field(min_length=1, max_length=4096),
    _matching(r"[^\x00]+", "must be a path without NUL characters"),
]
Name: TypeAlias = Annotated[
    str,
    Field(max_length=64),
    _matching(
        r"[A-Za-z0-9][A-Za-z0-9_.-]*",
        "must be letters, digits, '_', '.' and '-', beginning with a letter or a digit",
    ),
]
Device: TypeAlias = Annotated[
    str,
    _matching(r"auto|cpu|mps|cuda|cuda:[0-9]{1,3}", "must be auto, cpu, mps, cuda or cuda:N"),
]
Option: TypeAlias = Annotated[str | int | float | bool, BeforeValidator(_plain)]


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Augment(_Model):
    """Random changes of the training images."""

    crop: Pixels = 0
    """padding in pixels for a random crop; 0: none"""
    flip: bool = False
    """mirror half of the images left to right"""
    cutout: Pixels = 0
    """side in pixels of a square set to zero; 0: none"""


class Recipe(_Model):
    """How a network is trained: SGD with the paper's settings."""

    epochs: Annotated[int, Field(ge=0, le=10_000)]
    """passes over the training images"""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    """images a step"""
    learning_rate: LearningRate = 0.1
    """learning rate at its highest"""
    momentum: BelowOne = 0.9
    """momentum of SGD"""
    nesterov: bool = True
    """Nesterov's momentum"""
    weight_decay: Share = 1e-4
    """weight decay"""
    schedule: Literal["cosine", "constant"] = "cosine"
    """the learning rate over the training"""
    warmup_epochs: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    """epochs over which the learning rate rises from 0"""
    label_smoothing: BelowOne = 0.0
    """share of the target that is spread over all classes"""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """number format of the autocast"""
    augment: Augment = Augment()
    """random changes of the training images"""


class Distill(_Model):
    """The distillation of `birth: distilled`, from the base network's logits."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    """passes over the training images, the first of the training's epochs"""
    learning_rate: LearningRate = 0.01
    """learning rate at its highest"""


class TrialRecipe(Recipe):
    """How a candidate is trained in a trial (section 4.1 of the paper)."""

    epochs: Annotated[int, Field(ge=0, le=10_000)] = 20
    """passes over the training images"""
    learning_rate: LearningRate = 0.035
    """learning rate at its highest"""
    birth: Literal["gated", "hard", "distilled"] = "gated"
    """new operations that are no identities fade in, are there at once, or that and distillation"""
    distill: Annotated[Distill, Field(validate_default=True)] = Distill()
    """the distillation of birth: distilled"""
    inherit_optimizer: bool = False
    """begin with the base network's momentum"""
    gate_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """share of the trial over which the gate falls to 0"""
    noise: Share = 6e-3
    """symmetry-breaking noise on replicas, in standard deviations of the weight"""

    @field_validator("distill")
    @classmethod
    def _some_training_is_left(cls, distill: Distill, info: ValidationInfo) -> Distill:
        epochs = info.data.get("epochs", distill.epochs + 1)
        if info.data.get("birth") == "distilled" and distill.epochs >= epochs:
            raise ValueError(f"epochs must be below those of the training, {epochs}")
        return distill


class Data(_Model):
    """The images, and how they are split."""

    name: Annotated[str, Field(max_length=256)]
    """a dataset's name or package.module:function"""
    root: FilePath = "data"
    """folder of the files"""
    download: bool = False
    """download what is absent"""
    train: Count | None = None
    """use only so many training images; null: all that remain"""
    validation: Count
    """images held out of training"""
    test: Count | None = None
    """images held out as test, for sources that have no test set of their own"""
    options: dict[str, Option] = {}
    """keyword arguments of the dataset's function"""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        module, colon, function = name.partition(":")
        dotted_name = all(part.isidentifier() for part in module.split("."))
        if name not in DATASETS and not (colon and dotted_name and function.isidentifier()):
            known = hint(name, DATASETS, "package.module:function or one of")
            raise ValueError(f"unknown dataset {shorten(repr(name))}; {known}")
        return name


class _Stages(_Model):
    widths: Annotated[tuple[Width, ...], BeforeValidator(_to_tuple)]
    """channels of each stage; a 2x2 stride between stages"""
    cells: Annotated[int, Field(ge=1, le=100)]
    """cells a stage"""
    stem: Width | None = None
    """channels of the stem; null: the network's choice"""
    groups: Annotated[int, Field(ge=1, le=64)] = 1
    """groups of the convolutions that the cells replace"""

    @field_validator("groups")
    @classmethod
    def _divide(cls, groups: int, info: ValidationInfo) -> int:
        # The stem's channels enter the first grouped convolution.
        widths = (*info.data.get("widths", ()), info.data.get("stem") or groups)
        uneven = [width for width in widths if width % groups]
        if uneven:
            raise ValueError(f"must divide every width and the stem, got {groups} for {uneven[0]}")
        return groups


class Chain(_Stages):
    """A chain of cells."""

    name: Literal["chain"] = "chain"
    """kind of network"""
    activation: Literal["pre", "post"] = "post"
    """whether batch norm and ReLU come before or after a convolution"""


class Residual(_Stages):
    """Cells with shortcuts around them."""

    name: Literal["residual"] = "residual"
    """kind of network"""
    activation: Literal["pre", "post"] = "pre"
    """whether batch norm and ReLU come before or after a convolution"""


Network: TypeAlias = Chain | Residual


class Base(_Model):
    """The network that the search starts from: trained first, or taken from a file."""

    network: Annotated[Network, Field(discriminator="name")]
    """architecture of the base network"""
    weights: FilePath | None = None
    """a safetensors file to take instead of training"""
    training: Annotated[Recipe | None, Field(validate_default=True)] = None
    """how the base network is trained"""

    @field_validator("training")
    @classmethod
    def _trained(cls, training: Recipe | None, info: ValidationInfo) -> Recipe | None:
        # An invalid `weights` is absent from info.data: one fault for it is enough.
        if training is None and info.data.get("weights", "") is None:
            raise ValueError("missing (a mapping, unless base.weights names a file)")
        return training


class Reward(_Model):
    """The reward of an outcome."""

    shape: Literal["tan", "accuracy"] = "tan"
    """tan(accuracy x pi / 2), or the accuracy as it is"""
    cost_weight: Annotated[float, Field(ge=-10, le=0)] = 0.0
    """w in accuracy x (multiply-adds / cost_target)^w"""
    cost_target: Multiple = 1.0
    """multiply-adds, as a multiple of the base network's"""
    failure: Annotated[float, Field(ge=-100, le=100)] = 0.0
    """reward of a failed trial"""


class Controller(_Model):
    """The controller and its learner."""

    name: Literal["reinforce", "random"] = "reinforce"
    """how the controller improves; random: not at all"""
    embedding: Width = 10
    """size of the embeddings of operations and node types"""
    hidden: Width = 100
    """size of the tree-LSTM's state in each direction"""
    head: Width = 500
    """hidden units of a decision's head"""
    learning_rate: LearningRate = 6e-3
    """learning rate of Adam"""
    entropy: Annotated[float, Field(ge=0, le=100)] = 1e-2
    """weight of the entropy in the loss"""
    clip: Multiple = 40.0
    """largest norm of the gradient"""
    baseline: Literal["paper", "batch_mean", "moving_average", "none"] = "paper"
    """what is taken from the rewards"""
    decay: Share = 0.95
    """decay of the baseline"""


class Search(_Model):
    """The search: its budget, its space, its trials."""

    trials: Annotated[int, Field(ge=1, le=10**6)] = 500
    """budget: distinct trees trained"""
    episodes: Annotated[int, Field(ge=1, le=4096)] = 10
    """episodes an update"""
    patience: Count = 20
    """updates without a new tree that end the search"""
    control: bool = True
    """random search under the same budget"""
    depth: Annotated[int, Field(ge=1, le=8)] = 3
    """most edges on a path of the tree"""
    ops: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], BeforeValidator(_to_tuple)
    ] = (
        *("sep_conv3x3", "sep_conv5x5", "sep_conv7x7", "conv1x1", "identity"),
        *("max_pool3x3", "avg_pool3x3"),
    )
    """operations to choose from, identity among them"""
    max_macs: Annotated[float, Field(ge=1, le=10**6)] | None = None
    """most multiply-adds of a candidate, as a multiple of the base network's; null: no limit"""
    trial: TrialRecipe = TrialRecipe()
    """how a candidate is trained"""
    reward: Reward = Reward()
    """the reward of an outcome"""
    controller: Controller = Controller()
    """the controller and its learner"""

    @field_validator("ops")
    @classmethod
    def _choice(cls, ops: tuple[str, ...]) -> tuple[str, ...]:
        twice = [op for place, op in enumerate(ops) if op in ops[:place]]
        if twice:
            raise ValueError(f"must be distinct, got {shorten(repr(twice[0]))} twice")
        if "identity" not in ops:
            raise ValueError("must contain 'identity'")
        return ops


class Final(_Model):
    """The full training of the best trees."""

    top: Annotated[int, Field(ge=1, le=100)] = 3
    """trees of the search and of the control that are trained in full"""
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    """trainings of the base networks that the picks are compared with, as validation picks there"""
    retrain: bool = False
    """retrain the picks on train + validation"""
    training: Recipe
    """how they are trained"""
    wider: bool = True
    """train a wider base of the best tree's multiply-adds too"""


class Workers(_Model):
    """Where the trials run."""

    kind: Literal["inline", "processes"] = "processes"
    """in this process, or each in a process of its own"""
    count: Annotated[int, Field(ge=1, le=1024)] = 2
    """trials at a time"""
    loaders: Annotated[int, Field(ge=0, le=256)] | None = None
    """processes that decode image files for a trial; null: the cores, shared out"""
    deadline: Annotated[float, Field(gt=0, le=10**7)] = 3600.0
    """seconds a trial may take"""


class Config(_Model):
    """All settings of a run."""

    name: Name
    """name of the run, and of its folder"""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """seed of everything random"""
    runs: FilePath = "runs"
    """folder of the runs"""
    device: Device = "auto"
    """auto, cpu, mps, cuda or cuda:N"""
    data: Data
    """the images, and how they are split"""
    base: Base
    """the network that the search starts from"""
    search: Search = Search()
    """the search: its budget, its space, its trials"""
    final: Final
    """the full training of the best trees"""
    workers: Workers = Workers()
    """where the trials run"""


class ConfigError(ValueError):
    """A config that cannot be used.

    Attributes:
        faults: all that is wrong, a line each, beginning with its place.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(self.faults))


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads the config of a run.

    Args:
        path: a YAML file of at most 256 KiB.
        overrides: ``a.b.c=value``, applied in order to what the file says.

    Raises:
        ConfigError: with all faults of the file and the overrides at once, or with the one for
            which the file cannot be read at all.
    """
    path = Path(path)
    try:
        document = yaml_reader.read(path)
        if not isinstance(document.value, dict):
            message = f"expected a mapping of {', '.join(Config.model_fields)}"
            raise YamlError(f"{message}; got {shown(document.value)}", 1)
    except YamlError as error:
        raise ConfigError([f"{_at(path, error.line)}: {error}"]) from error
    for text in overrides:
        document.override(text)
    faults = document.faults
    try:
        config = Config.model_validate(document.value)
    except ValidationError as error:
        for key_path, message in config_faults.faults(error, Config):
            faults.append((document.place(key_path), f"{dotted(key_path)}: {message}"))
    if faults:
        faults.sort(key=lambda fault: fault[0] if isinstance(fault[0], int) else float("inf"))
        raise ConfigError([f"{_at(path, place)}: {message}" for place, message in faults])
    return config


def dump(config: Config) -> str:
    """YAML text of all settings, defaults included, which loads to an equal config."""
    return yaml_reader.dump(config.model_dump())


def _at(path: Path, place: yaml_reader.Place | None) -> str:
    if isinstance(place, str):
        return place
    return str(path) if place is None else f"{path}:{place}"
