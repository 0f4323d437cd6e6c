"""Sets of a dataset, checked and split into training, validation and test images."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pathnas import data
from pathnas.data import Images, Source, Splits
from pathnas.datasets import own
from pathnas.datasets.known import DATASETS
from pathnas.datasets.request import Request, Sets, check_options


def load(
    name: str,
    *,
    validation: int,
    root: str | Path = "data",
    download: bool = False,
    train: int | None = None,
    test: int | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Splits:
    """Loads a dataset and splits it, stratified by class, as a function of the seed.

    A function named by import path is called as `function(root=..., seed=..., **options)` and
    returns `(train, test)`, each :class:`~pathnas.data.Images`, :class:`~pathnas.data.Files` or a
    pair of arrays: pixels `[N, C, H, W]`, uint8 or floating, and labels `[N]`, 0..classes-1. One
    such pair alone is taken as images without a test set.

    Args:
        name: A key of :data:`DATASETS`, or `package.module:function`.
        validation: Images held out of the training images.
        root: The folder that holds (or, downloading, receives) the files.
        download: Fetch what is absent (CIFAR).
        train: Training images to keep of the others; None keeps all.
        test: Test images: so many of the dataset's own test set (None: all of it), or held out
            first where it has none (None: the dataset's default).
        seed: Decides every split, and the images themselves where they are generated.
        options: Keyword arguments of the dataset's function.

    Raises:
        ValueError: An unknown name or option, more images than there are, or faulty images.
        FileNotFoundError: The files are absent; the message says what to put where.
        ImportError: `photos` without scikit-image.
    """
    request = Request(Path(root).expanduser(), download, train, validation, test, seed)
    options = dict(options or {})
    if name in DATASETS:
        check_options(name, DATASETS[name], options, request)
        sets = DATASETS[name](request, **options)
    elif ":" in name:
        sets = own.load(name, request, options)
    else:
        near = difflib.get_close_matches(name, DATASETS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(
            f"Unknown dataset {name!r}: expected one of {', '.join(DATASETS)}, "
            f"or package.module:function{hint}"
        )
    classes = _check_sets(name, sets)
    training, held_out, testing = _split(name, sets, request)
    return Splits(training, held_out, testing, classes, data.measure(training))


def _split(name: str, sets: Sets, request: Request) -> tuple[Source, Source, Source]:
    """Holds out test images first, then validation images, by seeds that do not depend on sizes."""
    training, testing = sets.train, sets.test
    try:
        if testing is None:
            count = sets.hold_out if request.test is None else request.test
            if count is None:
                raise ValueError("it has no test set; `test` must say how many images to hold out.")
            training, testing = data.split(training, validation=count, seed=[request.seed, 0])
        elif request.test is not None and request.test != len(testing):
            testing = data.sample(testing, request.test, [request.seed, 0])
        if sets.validation is not None:
            return training, sets.validation, testing
        training, held_out = data.split(
            training, validation=request.validation, train=request.train, seed=[request.seed, 1]
        )
    except ValueError as error:
        raise ValueError(f"Dataset {name!r}: {error}") from error
    return training, held_out, testing


def _check_sets(name: str, sets: Sets) -> int:
    """Checks that the sets are of one kind, finite and labelled 0..K-1; returns K."""
    classes = int(data.labels_of(sets.train).max(initial=-1)) + 1
    for role, source in (("training", sets.train), ("test", sets.test)):
        if source is None:
            continue
        where = f"Dataset {name!r}, {role} images"
        if len(source) == 0:
            raise ValueError(f"{where}: expected at least one.")
        if _kind(source) != _kind(sets.train):
            raise ValueError(
                f"{where}: expected the kind, type and shape of the training images, "
                f"{_kind(sets.train)}, but got {_kind(source)}."
            )
        found = np.unique(data.labels_of(source))
        if found[0] < 0 or found[-1] >= classes:
            raise ValueError(
                f"{where}: labels must be in 0..{classes - 1}, but got {found[0]}..{found[-1]}."
            )
        if isinstance(source, Images) and not _finite(source.pixels):
            raise ValueError(f"{where}: expected finite pixels, but got NaN or infinity.")
    missing = np.setdiff1d(np.arange(classes), data.labels_of(sets.train))
    if classes < 2 or len(missing):
        raise ValueError(
            f"Dataset {name!r}: training labels must cover 0..classes-1 with at least 2 classes, "
            f"but the largest is {classes - 1} and {len(missing)} below it do not occur."
        )
    return classes


def _finite(pixels: Tensor) -> bool:
    return not pixels.is_floating_point() or bool(torch.isfinite(pixels).all())


def _kind(source: Source) -> tuple[str, str, tuple[int, int, int]]:
    dtype = str(source.pixels.dtype) if isinstance(source, Images) else "files"
    return type(source).__name__, dtype, source.shape
