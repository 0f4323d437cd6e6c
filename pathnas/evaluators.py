"""Training jobs for worker processes, and the evaluator that inherits and trains.

A :class:`Training` describes one training completely, in plain values: the base, every trial and
every full training are the same function :func:`train` of such a description, so whoever runs it,
and where, gives the same bits.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from pathnas import cell, data, networks, optimizer_state, plugins, training
from pathnas.config import Distill, Recipe, TrialRecipe
from pathnas.data import Normalization
from pathnas.limits import Limits
from pathnas.networks import stages
from pathnas.outcomes import Candidate, Outcome, Trained
from pathnas.plugins import Plugins
from pathnas.transforms import Birth, Transform, arrange, grow, growth
from pathnas.tree import BASE_TREE, Node
from pathnas.weight_average import TailAverage
from pathnas.weight_files import load_weights, moments_file, optimizer_file, save_weights

BirthMode = Literal["gated", "hard", "distilled", "scratch"]
"""``"distilled"``: hard, and then a short distillation from the base network's logits.
``"scratch"``: nothing is inherited or grown; the network of the tree begins from fresh weights."""

CALIBRATION_IMAGES = 256
EVALUATION_BATCH = 500


def seed_of(seed: int, purpose: str, replicate: int = 0) -> int:
    """Returns a seed made from another, in [0, 2^63); it depends on nothing but the arguments.

    Args:
        seed: of the run, or of a training.
        purpose: what for, such as ``"base"`` or ``"trial add(base, base)"``.
        replicate: to have several for one purpose.
    """
    digest = hashlib.sha256(f"{seed}\n{purpose}\n{replicate}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def resolve_device(name: str) -> torch.device:
    """Returns the device of a config's name; ``"auto"``: CUDA or MPS where present, else the CPU.

    Raises:
        ValueError: if the device is not there.
    """
    accelerators = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((kind for kind, there in accelerators.items() if there), "cpu"))
    device = torch.device(name)
    if not accelerators.get(device.type, True):
        raise ValueError(f"device must be one that this machine has, got {name!r}")
    return device


@dataclass(frozen=True)
class Setting:
    """What all trainings of a run share.

    Attributes:
        folder: holds the prepared sets ``train`` and ``validation``.
        normalization: of the pixels.
        image_shape: channels, height, width.
        classes: number of labels.
        device: a name that torch knows.
        loaders: processes that decode image files; images in memory need none.
        plugins: what registers the operations of a user's own, in workers too.
    """

    folder: Path
    normalization: Normalization
    image_shape: tuple[int, int, int]
    classes: int
    device: str = "cpu"
    loaders: int = field(default=0, metadata={"decides": False})  # no bit of a result
    plugins: Plugins = plugins.NONE

    def source(self, name: str) -> data.Source:
        """Opens a prepared set, memory-mapped."""
        return data.open_source(self.folder / name)

    def evaluation_batches(self, source: data.Source) -> data.Batches:
        """Returns a set in order, without augmentation."""
        return data.batches(
            source,
            batch_size=EVALUATION_BATCH,
            normalization=self.normalization,
            device=self.device,
            workers=self.loaders,
        )


@dataclass(frozen=True)
class Training:
    """One training, from fresh or inherited weights.

    Attributes:
        setting: of the run.
        network: name and options for :func:`pathnas.networks.build`.
        recipe: how it is trained.
        seed: of everything random in it.
        tree: what the cells grow to before the training, or those of each stage
            (:func:`pathnas.tree.staged`).
        weights: file of the base network to inherit from; None: fresh weights.
        birth: see :data:`BirthMode` and :class:`pathnas.transforms.Birth`.
        gate_fraction: see :func:`pathnas.training.fit`.
        noise: see :class:`pathnas.transforms.Birth`.
        everything: whether to train on training and validation images together.
        save: where to write the weights, and the moments and optimizer state that growth needs;
            None: nowhere.
        distill: of the birth ``"distilled"``; its epochs are the first of the recipe's.
        inherit_optimizer: whether what is inherited comes with its optimizer's state.
        start: tree of the network that is inherited; the cells grow from it to `tree`.
    """

    setting: Setting
    network: dict[str, Any]
    recipe: Recipe
    seed: int
    tree: Node = BASE_TREE
    weights: Path | None = None
    birth: BirthMode = "gated"
    gate_fraction: float = 0.1
    noise: float = 0.0
    everything: bool = False
    save: Path | None = None
    distill: Distill = field(default_factory=Distill)
    inherit_optimizer: bool = False
    start: Node = field(default=BASE_TREE, metadata={"later": True})


def inputs(job: Training | Scoring) -> list[Path]:
    """Returns the files that a job reads; a folder stands for all files below it."""
    if isinstance(job, Scoring):
        return [*inputs(job.training), *outputs(job.training)]
    found = [job.setting.folder]
    if job.weights is not None:
        beside = (moments_file(job.weights), optimizer_file(job.weights))
        found += [path for path in (job.weights, *beside) if path.exists()]
    return found


def outputs(job: Training | Scoring) -> list[Path]:
    """Returns the files that a job writes."""
    if isinstance(job, Scoring) or job.save is None:
        return []
    return [job.save, moments_file(job.save), optimizer_file(job.save)]


def build(job: Training) -> nn.Module:
    """Returns the network at the start of a training, on the CPU: built, inherited and grown.

    Raises:
        ValueError: if the tree does not fit or the weights are of another network.
    """
    with torch.random.fork_rng(devices=[]):
        if job.birth == "scratch":
            return _from_scratch(job)
        network = _before_growth(job)
        if job.tree != job.start:
            mode: Literal["gated", "hard"] = "gated" if job.birth == "gated" else "hard"
            birth = Birth(mode, job.noise, _generator(job, "noise"))
            network = grow(network, _steps(job, network), birth)
            if job.start != BASE_TREE:
                arrange(network)
    return network


def _steps(job: Training, base: nn.Module) -> list[Transform] | dict[str, list[Transform]]:
    """Returns what leads a training's base network to its tree, by cell where stages differ."""
    if "stages" in (job.tree.merge, job.start.merge):
        return stages.growths(base, job.tree, job.start, job.setting.image_shape)
    return growth(job.tree, job.start)


def base_of(job: Training) -> nn.Module:
    """Returns the network that a training grows, on the CPU: built and inherited."""
    with torch.random.fork_rng(devices=[]):
        return _before_growth(job)


def _before_growth(job: Training) -> nn.Module:
    """Seeds torch's global generator and draws from it."""
    torch.manual_seed(seed_of(job.seed, "weights"))
    network = networks.build(tree=job.start, **_arguments(job))
    if job.weights is not None:
        load_weights(network, job.weights)
        moments = moments_file(job.weights)
        if moments.exists():
            cell.set_moments(network, load_file(moments))
    return network


def _from_scratch(job: Training) -> nn.Module:
    """Seeds torch's global generator and draws from it."""
    if job.weights is not None:
        raise ValueError(f"birth 'scratch' inherits nothing, got weights={str(job.weights)!r}")
    torch.manual_seed(seed_of(job.seed, "weights"))
    return networks.build(tree=job.tree, **_arguments(job))


def _arguments(job: Training) -> dict[str, Any]:
    """Returns what :func:`pathnas.networks.build` needs beside the tree."""
    shape, classes = job.setting.image_shape, job.setting.classes
    return {"channels": shape[0], "classes": classes, "image_shape": shape, **job.network}


def _generator(job: Training, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(job.seed, purpose))


def sketch(job: Training) -> nn.Module:
    """Returns the network at the end of a training without weights; see `networks.sketch`."""
    return networks.sketch(tree=job.tree, **_arguments(job))


def train(job: Training) -> Trained:
    """Does a training; a function for executors.

    Raises:
        FloatingPointError: if it diverges.
    """
    start, setting = time.perf_counter(), job.setting
    network = build(job).to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    curve: list[float] = []
    optimizer, seen = learn(
        job, network, training_batches(job), lambda epoch: curve.append(epoch.loss)
    )
    validation = setting.evaluation_batches(setting.source("validation"))
    accuracy, loss = training.evaluate(network, validation)
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss on the validation images became {loss}")
    if job.save is not None:
        _calibrate(network, setting.source("train"), setting)
        save_weights(network, job.save, optimizer)
    parameters = networks.parameters(network)
    seconds = time.perf_counter() - start
    return Trained(accuracy, parameters, seen, seconds, tuple(curve), loss)


def training_batches(job: Training) -> data.Batches:
    """Returns the images of a training, augmented, each epoch in a new order."""
    setting, recipe = job.setting, job.recipe
    images = setting.source("train")
    fitted = data.join(images, setting.source("validation")) if job.everything else images
    return data.batches(
        fitted,
        batch_size=recipe.batch_size,
        normalization=setting.normalization,
        device=setting.device,
        augment=data.Augment(**recipe.augment.model_dump()),
        generator=_generator(job, "images"),
        shuffle=True,
        # Batch norm cannot normalize a single image of one pixel.
        drop_last=len(fitted) % recipe.batch_size == 1 and len(fitted) > 1,
        workers=setting.loaders,
    )


def learn(
    job: Training,
    network: nn.Module,
    batches: training.Batches,
    epoch_end: Callable[[training.Epoch], None] | None = None,
) -> tuple[torch.optim.Optimizer, int]:
    """Does the steps of a training, in place.

    If weights are averaged (:class:`pathnas.weight_average.TailAverage`), the network ends with the
    mean, and its batch norms with the statistics of :data:`CALIBRATION_IMAGES` training images,
    which count as seen. That was as good as those of all of them, and better than the mean of the
    running statistics, which lag behind in a short training.

    Args:
        job: the training.
        network: of :func:`build`, on its device.
        batches: of :func:`training_batches`.
        epoch_end: called after every epoch but those of a distillation, whose loss is another.

    Returns:
        The optimizer, and the number of training images seen.

    Raises:
        FloatingPointError: if it diverges.
        ValueError: if the optimizer's state is to be inherited and was not saved.
    """
    recipe, inherits = job.recipe, job.weights is not None
    fraction = recipe.average_fraction if isinstance(recipe, TrialRecipe) else 0.0
    fitted = recipe.model_dump(include=FITTED)
    optimizer = training.sgd(
        network, recipe.momentum, nesterov=recipe.nesterov, weight_decay=recipe.weight_decay
    )
    if job.inherit_optimizer and inherits:
        inherit_optimizer(job, network, optimizer)
    distilled = seen = 0
    # Dropout and DropPath draw from torch's global generator.
    with _seeded(seed_of(job.seed, "training"), job.setting.device):
        if job.birth == "distilled" and inherits and job.tree != job.start:
            distilled = min(job.distill.epochs, recipe.epochs)
            seen = _distill(job, network, batches, {**fitted, "epochs": distilled})
        fitted["epochs"] = recipe.epochs - distilled
        fitted |= {"gate_fraction": job.gate_fraction, "optimizer": optimizer}
        steps = fitted["epochs"] * len(batches)
        average = TailAverage(network, steps, fraction) if fraction and steps else None
        hooks = training.Hooks(
            step_end=None if average is None else average.update, epoch_end=epoch_end
        )
        seen += training.fit(network, batches, hooks=hooks, **fitted)
        if average is not None:
            average.store()
            x = _calibration_images(job.setting.source("train"), job.setting)
            update_bn([x], network)
            seen += len(x)
    return optimizer, seen


def _distill(
    job: Training, network: nn.Module, batches: training.Batches, fitted: dict[str, Any]
) -> int:
    teacher = base_of(job).to(job.setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # What regularizes a training would only keep the student from its teacher.
    own = {"learning_rate": job.distill.learning_rate, "warmup_epochs": 0.0, "drop_path": 0.0}
    return training.distill(network, teacher, batches, **{**fitted, **own})


def inherit_optimizer(job: Training, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Gives a grown network's optimizer what that of the base network remembered at its end.

    Raises:
        ValueError: if it was not saved beside the weights, or is of another network.
    """
    if job.weights is None:
        raise ValueError("only what is inherited has an optimizer's state, got weights=None")
    path = optimizer_file(job.weights)
    try:
        state, base = load_file(path), base_of(job)
        grown = optimizer_state.carry(state, base, _steps(job, base))
        optimizer_state.write(optimizer, network, grown)
    except Exception as error:  # safetensors raises its own exceptions
        raise ValueError(
            f"{path}: expected the optimizer state of this network: {error}"
        ) from error


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """Seeds torch's global generators for a block, and restores them after it."""
    kind = torch.device(device).type
    devices = [torch.device(device)] if kind == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


FITTED = set(Recipe.model_fields) - {"batch_size", "augment"}
"""The settings of a recipe that :func:`pathnas.training.fit` takes."""


def _calibration_images(images: data.Source, setting: Setting) -> Tensor:
    """Returns the first training images, `[B, C, H, W]`, normalized, without augmentation."""
    batches = data.batches(
        images,
        batch_size=CALIBRATION_IMAGES,
        normalization=setting.normalization,
        device=setting.device,
    )
    x, _ = next(iter(batches))
    return x


def _calibrate(network: nn.Module, images: data.Source, setting: Setting) -> None:
    x = _calibration_images(images, setting)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        training.calibrate(network, x)


@dataclass(frozen=True)
class Scoring:
    """A saved network and the set to score it on; for :func:`score`."""

    training: Training
    source: str = "test"


def score(job: Scoring) -> float:
    """Returns the accuracy of a saved network, in [0, 1]; a function for executors."""
    setting, weights = job.training.setting, job.training.save
    if weights is None:
        raise ValueError("only a training that was saved can be scored, got save=None")
    network = restore(job.training).to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return training.accuracy(network, setting.evaluation_batches(setting.source(job.source)))


def restore(job: Training) -> nn.Module:
    """Returns the network that a training saved, on the CPU, in eval mode."""
    if job.save is None:
        raise ValueError("only a training that was saved can be restored, got save=None")
    network = networks.build(tree=job.tree, **_arguments(job))
    load_weights(network, job.save)
    return network.eval()


def trial_seed(run_seed: int, candidate: Candidate) -> int:
    """Returns the seed of a candidate's trial."""
    return seed_of(run_seed, f"trial {candidate.key}")


@dataclass(frozen=True)
class InheritAndTrain:
    """The evaluator of the paper: grow the base network to the candidate, train it briefly.

    Attributes:
        base: a training that inherits the base network; its tree and seed are set for each
            candidate. It stands first so that a worker has imported its plugins when it makes the
            limits, which name operations.
        run_seed: from which each trial's seed is made.
        limits: of the network's cells, for the cost.
        base_macs: multiply-adds of the whole base network for one image.
    """

    base: Training
    run_seed: int
    limits: Limits
    base_macs: int

    def macs(self, tree: Node) -> int:
        """Returns the multiply-adds of the whole network with this tree, for one image."""
        return self.base_macs + self.limits.cost(tree) - self.limits.cost(self.limits.start)

    def __call__(self, candidate: Candidate) -> Outcome:
        """Runs the trial of a candidate; one that diverges is an outcome, other errors raise."""
        seed = trial_seed(self.run_seed, candidate)
        start = time.perf_counter()
        try:
            trained = train(replace(self.base, tree=candidate.tree, seed=seed))
        except FloatingPointError as error:
            seconds = time.perf_counter() - start
            return Outcome("diverged", seconds=seconds, seed=seed, error=str(error))
        return Outcome(
            "ok",
            accuracy=trained.accuracy,
            macs=self.macs(candidate.tree),
            parameters=trained.parameters,
            seconds=trained.seconds,
            images=trained.images,
            seed=seed,
            curve=trained.curve,
            loss=trained.loss,
        )
