"""The YAML of a run as strict typed models.

One model for each section of the file. Nothing is converted except a whole number where a float is
asked and a list where a tuple is asked; every key is known, every number has a range.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from pathnas import config_faults, yaml_reader
from pathnas.config_faults import ConfigError as ConfigError
from pathnas.config_networks import Model, Network, Width, to_tuple
from pathnas.config_recipes import Augment as Augment
from pathnas.config_recipes import Distill as Distill
from pathnas.config_recipes import Recipe as Recipe
from pathnas.config_recipes import TrialRecipe as TrialRecipe
from pathnas.config_types import (
    Address,
    Count,
    Device,
    FilePath,
    Glob,
    Gpu,
    Hours,
    LearningRate,
    Modules,
    Multiple,
    Name,
    Option,
    Share,
    is_function,
    one_or_more,
)
from pathnas.yaml_reader import dotted, hint, shorten, shown

DATASETS = ("digits", "mnist", "photos", "cifar10", "cifar100", "imagefolder", "synthetic")
"""The names that `Data.name` knows, beside ``package.module:function``."""


class Data(Model):
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
    options: dict[str, Option] = Field(default_factory=dict)
    """keyword arguments of the dataset's function"""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DATASETS and not is_function(name):
            known = hint(name, DATASETS, "package.module:function or one of")
            raise ValueError(f"unknown dataset {shorten(repr(name))}; {known}")
        return name


class Base(Model):
    """The network that the search starts from: trained first, or taken as it is.

    Either a network of pathnas (`network`), or one's own (`model`) in which `cells` are grafted.
    """

    model: Annotated[str, Field(max_length=256)] | None = None
    """package.module:function that returns a network of one's own"""
    network: Annotated[
        Annotated[Network, Field(discriminator="name")] | None, Field(validate_default=True)
    ] = None
    """architecture of the base network"""
    cells: Annotated[
        tuple[Glob, ...] | None, BeforeValidator(one_or_more), Field(validate_default=True)
    ] = None
    """names or globs of the convolutions of the model that become cells"""
    activation: Literal["pre", "post"] = "pre"
    """whether batch norm and ReLU come before or after a convolution that is grown in the model"""
    absorb: bool = False
    """move the batch norm and the ReLU beside each of these convolutions into its cell"""
    options: dict[str, Option] = Field({})
    """keyword arguments of the model's function, beside channels and classes if it names them"""
    weights: FilePath | None = None
    """a safetensors file to take instead of training"""
    grown: FilePath | None = None
    """folder of a network that a run found, its best: go on from its tree and weights"""
    training: Annotated[Recipe | None, Field(validate_default=True)] = None
    """how the base network is trained; null with a model: not at all"""

    @field_validator("model")
    @classmethod
    def _path(cls, model: str | None) -> str | None:
        if model is not None and not is_function(model):
            raise ValueError(f"expected package.module:function; got {shown(model)}")
        return model

    @field_validator("network")
    @classmethod
    def _one(cls, network: Network | None, info: ValidationInfo) -> Network | None:
        # An invalid `model` is absent from info.data: one fault for it is enough.
        if network is None and info.data.get("model", "") is None:
            raise ValueError("missing (a mapping, unless base.model names a function)")
        if network is not None and info.data.get("model") is not None:
            raise ValueError("must be absent beside base.model: one of the two is the base")
        return network

    @field_validator("cells")
    @classmethod
    def _grafted(cls, cells: tuple[str, ...] | None, info: ValidationInfo) -> Any:
        if cells is None and info.data.get("model") is not None:
            raise ValueError("missing (names or globs of the convolutions of base.model)")
        return cells

    @field_validator("cells", "activation", "absorb", "options")
    @classmethod
    def _of_model(cls, value: Any, info: ValidationInfo) -> Any:
        default = cls.model_fields[info.field_name or ""].default
        if value != default and info.data.get("model", "") is None:
            raise ValueError("must be absent without base.model")
        return value

    @field_validator("grown")
    @classmethod
    def _instead(cls, grown: str | None, info: ValidationInfo) -> str | None:
        if grown is not None and info.data.get("weights") is not None:
            raise ValueError("must be absent beside base.weights: one of the two is the base")
        return grown

    @field_validator("training")
    @classmethod
    def _trained(cls, training: Recipe | None, info: ValidationInfo) -> Recipe | None:
        # An invalid `weights` is absent from info.data: one fault for it is enough.
        given = [info.data.get(key, "") for key in ("weights", "grown", "model")]
        if training is None and given == [None] * 3:
            raise ValueError("missing (a mapping, unless base.weights names a file)")
        return training

    def arguments(self) -> dict[str, Any]:
        """Returns name and options of the network, in plain values, for `networks.build`."""
        if self.network is not None:
            return self.network.model_dump()
        own = {"model", "cells", "activation", "absorb", "options"}
        return {"name": "grafted", **self.model_dump(include=own)}


class Reward(Model):
    """The reward of an outcome."""

    metric: Literal["accuracy", "likelihood", "fit", "late_fit", "extrapolated_fit"] = "accuracy"
    """the value of a trial: its accuracy; e^-loss on the validation images (likelihood); or that on
    the training images, over all epochs (fit), over the last quarter of them (late_fit) or at the
    end of a full training, by a power law (extrapolated_fit)"""
    shape: Literal["tan", "accuracy"] = "tan"
    """tan(value x pi / 2), or the value as it is"""
    cost_weight: Annotated[float, Field(ge=-10, le=0)] = 0.0
    """w in value x (multiply-adds / cost_target)^w"""
    cost_target: Multiple = 1.0
    """multiply-adds, as a multiple of the base network's"""
    failure: Annotated[float, Field(ge=-100, le=100)] = 0.0
    """reward of a failed trial"""


class Controller(Model):
    """The controller and its learner."""

    name: Literal["reinforce", "ppo", "evolution", "random"] = "reinforce"
    """how the controller improves; evolution: a population instead; random: not at all"""
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
    entropy_end: Annotated[float, Field(ge=0, le=100)] | None = None
    """weight that it moves to along a line; null: it stays"""
    entropy_updates: Count = 100
    """updates that this takes, whatever the budget"""
    clip: Multiple = 40.0
    """largest norm of the gradient"""
    baseline: Literal["paper", "batch_mean", "moving_average", "self_critical", "none"] = "paper"
    """what is taken from the rewards; self_critical: the reward of a greedy episode of the batch"""
    decay: Share = 0.95
    """decay of the baseline"""
    epochs: Annotated[int, Field(ge=1, le=100)] = 4
    """ppo: passes over the batch"""
    ratio_clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """ppo: how far from 1 a ratio of probabilities is paid for"""
    population: Annotated[int, Field(ge=1, le=10**5)] = 50
    """evolution: trees that are kept, the youngest"""
    tournament: Annotated[int, Field(ge=1, le=10**5)] = 10
    """evolution: of so many the best has a child"""


class Halving(Model):
    """Successive halving, within a batch or asynchronous: short trainings decide who goes on."""

    factor: Annotated[int, Field(ge=2, le=16)] = 3
    """one in so many candidates goes on, to so many times the epochs"""
    rungs: Annotated[int, Field(ge=2, le=8)] = 2
    """trainings of a candidate that goes all the way; the last is a whole trial"""

    def lengths(self, epochs: int) -> tuple[int, ...]:
        """Returns the epochs of each rung, the shortest first, for a trial of so many."""
        return tuple(epochs // self.factor**left for left in reversed(range(self.rungs)))


DEEPEST = 8
"""Edges on a path of a tree at most: what is observed of a tree triples with each more."""


class Search(Model):
    """The search: its budget, its space, its trials."""

    trials: Annotated[int, Field(ge=1, le=10**6)] = 500
    """budget: distinct trees trained"""
    episodes: Annotated[int, Field(ge=1, le=4096)] = 10
    """episodes an update"""
    hours: Hours | None = None
    """budget: hours of wall-clock time; null: no limit"""
    trial_hours: Hours | None = None
    """budget: hours of all trials together, in their workers; null: no limit"""
    asynchronous: bool = False
    """learn from each trial when it ends, instead of waiting for a whole batch; not reproducible"""
    patience: Count = 20
    """updates without a new tree that end the search"""
    rounds: Annotated[int, Field(ge=1, le=16)] = 1
    """searches one after another; the best network of one is the base of the next"""
    control: bool = True
    """random search under the same budget"""
    depth: Annotated[int, Field(ge=1, le=DEEPEST)] = 3
    """most edges on a path of the tree; with base.grown at least one more than its tree has"""
    stages: bool = False
    """each stage of the network, cells whose outputs are of one size, has a tree of its own"""
    ops: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], BeforeValidator(to_tuple)
    ] = (
        *("sep_conv3x3", "sep_conv5x5", "sep_conv7x7", "conv1x1", "identity"),
        *("max_pool3x3", "avg_pool3x3"),
    )
    """operations to choose from, identity among them"""
    max_macs: Annotated[float, Field(ge=1, le=10**6)] | None = None
    """most multiply-adds of a candidate, as a multiple of the base network's; null: no limit"""
    max_parameters: Annotated[float, Field(ge=1, le=10**6)] | None = None
    """most parameters of a candidate, as a multiple of the base network's; null: no limit"""
    max_latency: Annotated[float, Field(ge=1, le=10**6)] | None = None
    """most time of a candidate for one image, as a multiple of the base network's, by a table that
    is measured when the run begins; null: no limit"""
    latencies: FilePath | None = None
    """such a table of another run, its latencies.json, to use instead"""
    trial: TrialRecipe = TrialRecipe()
    """how a candidate is trained"""
    halving: Annotated[Halving | None, Field(validate_default=True)] = None
    """successive halving, within a batch or asynchronous; null: all have whole trials"""
    reward: Annotated[Reward, Field(validate_default=True)] = Reward()
    """the reward of an outcome"""
    controller: Controller = Controller()
    """the controller and its learner"""

    @field_validator("trial")
    @classmethod
    def _in_rounds(cls, trial: TrialRecipe, info: ValidationInfo) -> TrialRecipe:
        if trial.inherit_optimizer and info.data.get("rounds", 1) > 1:
            raise ValueError("inherit_optimizer must be false: between rounds only weights go on")
        return trial

    @field_validator("halving")
    @classmethod
    def _possible(cls, halving: Halving | None, info: ValidationInfo) -> Halving | None:
        if halving is None:
            return None
        trial = info.data.get("trial")  # absent if it is invalid
        if trial is None:
            return halving
        least = 1 + (trial.distill.epochs if trial.birth == "distilled" else 0)
        shortest = halving.lengths(trial.epochs)[0]
        if shortest < least:
            raise ValueError(
                f"the shortest training must have at least {least} epochs, got {shortest} of "
                f"{trial.epochs} with factor {halving.factor} and {halving.rungs} rungs"
            )
        return halving

    @field_validator("reward")
    @classmethod
    def _measured(cls, reward: Reward, info: ValidationInfo) -> Reward:
        trial = info.data.get("trial")  # absent if it is invalid
        if trial is not None and trial.epochs == 0 and reward.metric.endswith("fit"):
            raise ValueError(f"metric {reward.metric} needs trials of at least one epoch, got 0")
        return reward

    @field_validator("ops")
    @classmethod
    def _choice(cls, ops: tuple[str, ...]) -> tuple[str, ...]:
        twice = [op for place, op in enumerate(ops) if op in ops[:place]]
        if twice:
            raise ValueError(f"must be distinct, got {shorten(repr(twice[0]))} twice")
        if "identity" not in ops:
            raise ValueError("must contain 'identity'")
        return ops


class Final(Model):
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


class Workers(Model):
    """Where the trials run."""

    kind: Literal["inline", "processes", "ray"] = "processes"
    """in this process, each in a process of its own, or on a Ray cluster"""
    count: Annotated[int, Field(ge=1, le=1024)] = 2
    """trials at a time"""
    loaders: Annotated[int, Field(ge=0, le=256)] | None = None
    """processes that decode image files for a trial; null: the cores, shared out"""
    deadline: Annotated[float, Field(gt=0, le=10**7)] = 3600.0
    """seconds a trial may take"""
    memory: Annotated[int, Field(ge=1, le=10**7)] | None = None
    """MiB of main memory that a job may allocate; null: no limit"""
    retries: Annotated[int, Field(ge=0, le=100)] = 2
    """how often a job is run again whose process was lost"""
    devices: Annotated[tuple[Gpu, ...], BeforeValidator(to_tuple)] | None = None
    """processes: GPUs by round robin, as CUDA_VISIBLE_DEVICES names them; null: all for each"""
    address: Address | None = None
    """ray: address of a cluster, or auto; null: a cluster of this machine alone"""
    cpus: Annotated[float, Field(ge=0, le=1024)] = 1.0
    """ray: CPUs counted for a job, which computes on one thread"""
    gpus: Annotated[float, Field(ge=0, le=1024)] = 0.0
    """ray: GPUs for a job, which may be a fraction"""


class Config(Model):
    """All settings of a run."""

    name: Name
    """name of the run, and of its folder"""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """seed of everything random"""
    runs: FilePath = "runs"
    """folder of the runs"""
    device: Device = "auto"
    """auto, cpu, mps, cuda or cuda:N"""
    plugins: Modules = ()
    """modules of your own to import, which register operations for search.ops"""
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

    @field_validator("final")
    @classmethod
    def _between_rounds(cls, final: Final, info: ValidationInfo) -> Final:
        search = info.data.get("search")  # absent if it is invalid
        if final.retrain and search is not None and search.rounds > 1:
            raise ValueError(
                "retrain must be false with search.rounds: the best network would be trained on "
                "the images that reward the next round's trees"
            )
        return final


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
    document = config_faults.read(path, Config)
    return _validated(document, path, overrides)


def override(config: Config, overrides: Sequence[str]) -> Config:
    """Returns the config with some values replaced.

    Args:
        config: to begin with.
        overrides: ``a.b.c=value``, applied in order.

    Raises:
        ConfigError: with all faults of the overrides at once.
    """
    return _validated(yaml_reader.parse(dump(config)), Path(config.name), overrides)


def restore(values: Any) -> Config:
    """Returns the config whose ``model_dump`` was kept as JSON.

    Raises:
        ConfigError: if the values are none.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        faults = config_faults.faults(error, Config)
        raise ConfigError([f"{dotted(path)}: {message}" for path, message in faults]) from error


def _validated(document: yaml_reader.Document, path: Path, overrides: Sequence[str]) -> Config:
    for text in overrides:
        document.override(text)
    return config_faults.checked(document, Config, path)


def dump(config: BaseModel) -> str:
    """YAML text of all settings, defaults included, which loads to an equal config."""
    return yaml_reader.dump(config.model_dump())
