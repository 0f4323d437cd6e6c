"""Training jobs for worker processes, and the evaluator that inherits and trains.

A :class:`Training` describes one training completely, in plain values: the base, every trial and
every full training are the same function :func:`train` of such a description, so whoever runs it,
and where, gives the same bits.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pathnas import cell, data, files, networks, plugins, training
from pathnas.config import Recipe
from pathnas.data import Normalization
from pathnas.decisions import Limits
from pathnas.ops import Birth as BirthMode
from pathnas.outcomes import Candidate, Outcome
from pathnas.plugins import Plugins
from pathnas.transforms import Birth, grow, growth
from pathnas.tree import BASE_TREE, Node

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
    loaders: int = 0
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
        tree: what the cells grow to before the training.
        weights: file of the base network to inherit from; None: fresh weights.
        birth: see :class:`pathnas.transforms.Birth`.
        gate_fraction: see :func:`pathnas.training.fit`.
        noise: see :class:`pathnas.transforms.Birth`.
        everything: whether to train on training and validation images together.
        save: where to write the weights, and the moments that growth needs; None: nowhere.
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


@dataclass(frozen=True)
class Trained:
    """What a training brought.

    Attributes:
        accuracy: on the validation images, in [0, 1].
        parameters: of the network.
        images: training images seen, repeats counted.
        seconds: of all of it.
    """

    accuracy: float
    parameters: int
    images: int
    seconds: float


def moments_file(weights: Path) -> Path:
    """Returns where the moments stand beside a network's weights."""
    return weights.with_suffix(".moments.safetensors")


def inputs(job: Training | Scoring) -> list[Path]:
    """Returns the files that a job reads; a folder stands for all files below it."""
    if isinstance(job, Scoring):
        return [*inputs(job.training), *outputs(job.training)]
    found = [job.setting.folder]
    if job.weights is not None:
        found += [path for path in (job.weights, moments_file(job.weights)) if path.exists()]
    return found


def outputs(job: Training | Scoring) -> list[Path]:
    """Returns the files that a job writes."""
    if isinstance(job, Scoring) or job.save is None:
        return []
    return [job.save, moments_file(job.save)]


def build(job: Training) -> nn.Module:
    """Returns the network at the start of a training, on the CPU: built, inherited and grown.

    Raises:
        ValueError: if the tree does not fit or the weights are of another network.
    """
    setting = job.setting
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(job.seed, "weights"))
        network = networks.build(
            channels=setting.image_shape[0], classes=setting.classes, **job.network
        )
        if job.weights is not None:
            load_weights(network, job.weights)
            moments = moments_file(job.weights)
            if moments.exists():
                cell.set_moments(network, load_file(moments))
        if job.tree != BASE_TREE:
            birth = Birth(job.birth, job.noise, _generator(job, "noise"))
            network = grow(network, growth(job.tree), birth)
    return network


def _generator(job: Training, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(job.seed, purpose))


def sketch(job: Training) -> nn.Module:
    """Returns the network at the end of a training without weights; see `networks.sketch`."""
    setting = job.setting
    return networks.sketch(
        channels=setting.image_shape[0], classes=setting.classes, tree=job.tree, **job.network
    )


def load_weights(network: nn.Module, path: Path) -> None:
    """Gives a network the weights of a safetensors file.

    Raises:
        ValueError: if the file is none or its tensors do not fit, with the first that differ.
    """
    try:
        network.load_state_dict(load_file(path))
    except Exception as error:  # safetensors raises its own exceptions, torch RuntimeError
        line = " ".join(str(error).split())
        raise ValueError(f"{path}: expected the weights of this network: {line:.300}") from error


def train(job: Training) -> Trained:
    """Does a training; a function for executors.

    Raises:
        FloatingPointError: if it diverges.
    """
    start = time.perf_counter()
    setting, recipe = job.setting, job.recipe
    images, validation = setting.source("train"), setting.source("validation")
    fitted = data.join(images, validation) if job.everything else images
    network = build(job).to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = data.batches(
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
    hyperparameters = recipe.model_dump(include=FITTED)
    # Dropout and DropPath draw from torch's global generator.
    with _seeded(seed_of(job.seed, "training"), setting.device):
        seen = training.fit(network, batches, gate_fraction=job.gate_fraction, **hyperparameters)
    accuracy = training.accuracy(network, setting.evaluation_batches(validation))
    if job.save is not None:
        _calibrate(network, images, setting)
        save_weights(network, job.save)
    parameters = networks.parameters(network)
    return Trained(accuracy, parameters, seen, time.perf_counter() - start)


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


def _calibrate(network: nn.Module, images: data.Source, setting: Setting) -> None:
    batches = data.batches(
        images,
        batch_size=CALIBRATION_IMAGES,
        normalization=setting.normalization,
        device=setting.device,
    )
    x, _ = next(iter(batches))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        training.calibrate(network, x)


def save_weights(network: nn.Module, path: Path) -> None:
    """Writes a network's weights, and beside them its moments, aside and then renamed."""
    for target, tensors in (
        (moments_file(path), cell.moments(network)),
        (path, network.state_dict()),
    ):
        part = files.aside(target)
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, part)
        files.install(part, target)


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
    network = networks.build(
        channels=job.setting.image_shape[0],
        classes=job.setting.classes,
        tree=job.tree,
        **job.network,
    )
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
        return self.base_macs + self.limits.cost(tree) - self.limits.cost(BASE_TREE)

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
        )
