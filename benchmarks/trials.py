"""Images a second of a training, against the same network by hand: ``python -m benchmarks.trials``.

Three sides do forward, backward and step over the same number of images, in turns: ours, as a trial
trains (:func:`pathnas.training.fit` over :func:`pathnas.data.batches`); the network written by hand
(:mod:`benchmarks.handwritten`) in torch's default settings, contiguous tensors, ``DataLoader``,
``SGD``, with torchvision's augmentation of every image if the experiment augments; and the one by
hand in our layout with our batches and optimizer. The weights are equal. Networks, batch sizes and
augmentation are those of the experiment files; the images are random numbers, which cost the same.

Times are of the CPU, of one thread, and a ratio is the median over rounds: what else the machine
does disturbs them little. The floor is three passes' multiply-adds at the measured rate of matrix
products.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms

from benchmarks import table
from benchmarks.handwritten import TREES, Network, copy_weights
from benchmarks.machine import facts, rate
from benchmarks.table import Row
from pathnas import cell, config, data, networks, probing, training
from pathnas.config_recipes import Recipe
from pathnas.data import Images, Normalization

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
FASTER, OWN_COST = 1.4, 0.97
"""The aims: times as fast as the default settings, and share of the speed in equal settings."""

NORMALIZATION = 120.0, 64.0
IMAGE_SHAPES = {"digits": (1, 8, 8), "cifar10": (3, 32, 32)}


@dataclass(frozen=True)
class Case:
    """A network that is trained.

    Attributes:
        experiment: file whose network, batch size and augmentation are taken.
        tree: a name of :data:`benchmarks.handwritten.TREES`.
        batches: of a round.
        rounds: by default.
    """

    experiment: str
    tree: str
    batches: int
    rounds: int = 5

    @property
    def name(self) -> str:
        """Experiment and tree."""
        return f"{self.experiment}, {self.tree}"


CASES = (
    *(Case("digits", name, 48, 15) for name in TREES),
    *(Case("cifar10_small", name, 3) for name in ("base", "pick 0", "pick 2")),
    *(Case("cifar10", name, 3) for name in ("base", "pick 0")),
)

Side = Callable[[], None]


def loss_and_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Does an epoch as one writes it by hand, with the learning rate's cosine."""
    assert isinstance(batches, Sized)
    steps, total = len(batches), 0.0
    criterion = nn.CrossEntropyLoss()
    network.train()
    for step, (x, y) in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = criterion(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(y)
    if not math.isfinite(float(total)):
        raise FloatingPointError(f"the loss became {total}")


class Photographs(Dataset[tuple[Tensor, Tensor]]):
    """Images one by one, as torchvision's own sets give them."""

    def __init__(self, images: Images, transform: Callable[[Image.Image], Tensor]) -> None:
        self.pixels = images.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        """Returns an image `[3, H, W]`, augmented and normalized, and its label."""
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def default_loader(images: Images, recipe: Recipe) -> DataLoader[tuple[Tensor, Tensor]]:
    """Returns what torch's and torchvision's tutorials load such images with."""
    mean, std = NORMALIZATION
    augment = recipe.augment
    if not (augment.crop or augment.flip):
        ready = (images.pixels.float().contiguous() - mean) / std
        return DataLoader(TensorDataset(ready, images.labels), recipe.batch_size, shuffle=True)
    size, channels = images.shape[1], images.shape[0]
    steps = [
        transforms.RandomCrop(size, padding=augment.crop),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize([mean / 255] * channels, [std / 255] * channels),
    ]
    return DataLoader(
        Photographs(images, transforms.Compose(steps)), recipe.batch_size, shuffle=True
    )


def our_batches(images: Images, recipe: Recipe) -> data.Batches:
    """Returns the batches of a trial."""
    mean, std = NORMALIZATION
    channels = images.shape[0]
    return data.batches(
        images,
        batch_size=recipe.batch_size,
        normalization=Normalization((mean,) * channels, (std,) * channels),
        augment=data.Augment(**recipe.augment.model_dump()),
        generator=torch.Generator().manual_seed(0),
        shuffle=True,
    )


def random_images(experiment: str, count: int) -> Images:
    """Returns random images of an experiment's shape, laid out as prepared sets are."""
    shape = IMAGE_SHAPES["digits" if experiment == "digits" else "cifar10"]
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (count, *shape), dtype=np.uint8))
    labels = torch.from_numpy(random.integers(0, 10, count))
    return Images(pixels.contiguous(memory_format=torch.channels_last), labels)


@dataclass(frozen=True)
class Sides:
    """One network three times, with equal weights, and what trains it for a round."""

    ours: Side
    default: Side
    equal: Side
    loading: Side
    images: int
    macs: int


def own(case: Case) -> tuple[nn.Module, config.Config, Images]:
    """Returns our network of a case, its experiment, and images for a round."""
    torch.manual_seed(0)
    settings = config.load(str(EXPERIMENTS / f"{case.experiment}.yaml"), [])
    images = random_images(case.experiment, case.batches * settings.search.trial.batch_size)
    network = networks.build(
        channels=images.shape[0], classes=10, tree=TREES[case.tree][0], **settings.base.arguments()
    )
    cell.set_gates(network, 0.0)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network, settings, images


def sides(case: Case) -> Sides:
    """Builds what a case compares."""
    ours, settings, images = own(case)
    recipe, network = settings.search.trial, settings.base.arguments()
    macs = probing.counted(ours, torch.zeros(1, *images.shape))[1]
    hands = []
    for _ in range(2):
        shape = {name: network[name] for name in ("widths", "cells")}
        residual = network["name"] == "residual"
        hand = Network(TREES[case.tree][1], channels=images.shape[0], residual=residual, **shape)
        copy_weights(ours, hand)
        hands.append(hand)
    default, equal = hands
    equal.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fused = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay, "nesterov": True}
    own_sgd = training.sgd(ours, recipe.momentum, weight_decay=recipe.weight_decay)
    default_sgd = torch.optim.SGD(default.parameters(), lr=1e-3, **fused)
    equal_sgd = torch.optim.SGD(equal.parameters(), lr=1e-3, fused=True, **fused)
    loader, batches = default_loader(images, recipe), our_batches(images, recipe)

    def fit() -> None:
        training.fit(ours, batches, epochs=1, learning_rate=1e-3, optimizer=own_sgd)

    def load() -> None:
        for _ in loader:
            pass

    return Sides(
        fit,
        lambda: loss_and_step(default, default_sgd, loader),
        lambda: loss_and_step(equal, equal_sgd, batches),
        load,
        len(images),
        macs,
    )


def variant(
    case: Case, *, precision: training.Precision = "float32", compiled: bool = False
) -> Side:
    """Returns what trains our network for a round in another way."""
    network, settings, images = own(case)
    recipe = settings.search.trial
    batches = our_batches(images, recipe)
    if compiled:
        network = torch.compile(network)  # type: ignore[assignment]
    optimizer = training.sgd(network, recipe.momentum, weight_decay=recipe.weight_decay)

    def fit() -> None:
        training.fit(
            network,
            batches,
            epochs=1,
            learning_rate=1e-3,
            optimizer=optimizer,
            precision=precision,
        )

    return fit


def measure_variants(case: Case, rounds: int) -> dict[str, float]:
    """Returns how many times as fast as a trial's the training is in other ways.

    Returns:
        ``bfloat16`` and ``compiled``, medians over rounds, and ``compiling``, the seconds that the
        first round took, in which ``torch.compile`` works.
    """
    sides = {
        "ours": variant(case),
        "bfloat16": variant(case, precision="bfloat16"),
        "compiled": variant(case, compiled=True),
    }
    start = time.perf_counter()
    sides["compiled"]()
    compiling = time.perf_counter() - start
    found: dict[str, list[float]] = {}
    for round_ in range(rounds + 1):
        spent = {name: cpu_seconds(side) for name, side in sides.items()}
        for name in ("bfloat16", "compiled") if round_ else ():  # the first warms up
            found.setdefault(name, []).append(spent["ours"] / spent[name])
    ratios = {name: statistics.median(ratios) for name, ratios in found.items()}
    return ratios | {"compiling": compiling}


def cpu_seconds(side: Side) -> float:
    """Returns the CPU time of a side."""
    gc.collect()
    start = time.process_time()
    side()
    return time.process_time() - start


def measure(case: Case, rounds: int) -> dict[str, float]:
    """Returns medians over rounds: milliseconds an image of each side, and the ratios.

    Returns:
        ``ours``, ``default``, ``equal`` and ``loading`` (the default's batches alone) in
        milliseconds an image; ``faster`` and ``own_cost``, of the rounds' pairs; ``macs``.
    """
    built = sides(case)
    names = "ours", "default", "equal", "loading"
    found: dict[str, list[float]] = {}
    for round_ in range(rounds + 1):
        order = names if round_ % 2 else names[::-1]
        spent = {name: 1e3 * cpu_seconds(getattr(built, name)) / built.images for name in order}
        spent["faster"] = spent["default"] / spent["ours"]
        spent["own_cost"] = spent["equal"] / spent["ours"]
        for name, value in spent.items() if round_ else ():  # the first warms up
            found.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in found.items()} | {
        "macs": built.macs
    }


def rows(case: Case, found: dict[str, float], flops: float) -> list[Row]:
    """Returns a case's rows of the one table, in images a second.

    Args:
        case: that was measured.
        found: by :func:`measure`.
        flops: operations a second of matrix products.
    """
    a_second = {name: 1e3 / found[name] for name in ("ours", "default", "equal")}
    floor = flops / (6 * found["macs"])
    ours, unit, name = a_second["ours"], "images/s", f"training: {case.name}"
    default = "by hand, torch's defaults"
    equal = "by hand, equal settings"
    return [
        Row(name, unit, ours, default, a_second["default"], found["faster"], FASTER, floor=floor),
        Row(name, unit, ours, equal, a_second["equal"], found["own_cost"], OWN_COST, floor=floor),
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="images a second of a training, by hand and ours")
    parser.add_argument("--rounds", type=int, help="of each case (default: 15 of digits, else 5)")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument(
        "--variants",
        action="store_true",
        help="bfloat16 and torch.compile against a trial's own settings instead",
    )
    table.add_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [case for case in CASES if options.only in case.name]
    if options.variants:
        print(f"{facts()}, load {os.getloadavg()[0]:.1f}; times as fast as a trial's settings")
        for case in cases:
            ratios = measure_variants(case, options.rounds or case.rounds)
            figures = "bfloat16 {bfloat16:.2f}, compiled {compiled:.2f} after {compiling:.0f} s"
            print(f"{case.name:<26}{figures.format(**ratios)}", flush=True)
        return
    flops = rate()
    print(f"{facts()}, load {os.getloadavg()[0]:.1f}, {flops / 1e9:.0f} G operations/s")
    print(
        f"{'images a second':<26}{'ours':>8}{'default':>9}{'equal':>8}{'floor':>8}"
        f"{'faster':>8}{'of equal':>9}{'without loading':>17}"
    )
    every = []
    for case in cases:
        found = measure(case, options.rounds or case.rounds)
        every += rows(case, found, flops)
        figures = "".join(
            f"{1e3 / found[name]:{width}.0f}"
            for name, width in (("ours", 8), ("default", 9), ("equal", 8))
        )
        bare = (found["default"] - found["loading"]) / found["ours"]
        print(
            f"{case.name:<26}{figures}{flops / (6 * found['macs']):8.0f}"
            f"{found['faster']:8.2f}{found['own_cost']:9.2f}{bare:17.2f}",
            flush=True,
        )
    table.save(options.rows, every)


if __name__ == "__main__":
    main()
