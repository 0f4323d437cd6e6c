"""Datasets by name or import path, split into training, validation and test images.

:func:`load` is the way in. A dataset of one's own needs no change here: `package.module:function`
names a function that returns images (see :func:`load`).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import tarfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from pathnas import data
from pathnas.data import Files, Images, Source, Splits


@dataclass(frozen=True)
class Request:
    """What :func:`load` was asked for, as handed to the function of a dataset."""

    root: Path
    download: bool
    train: int | None
    validation: int
    test: int | None
    seed: int


@dataclass(frozen=True)
class Sets:
    """What the function of a dataset returns; :func:`load` holds out what is None.

    Attributes:
        train: The images to train on.
        validation: Given only by a dataset that splits by itself, at the sizes requested.
        test: The dataset's own test set.
        hold_out: Without a test set: test images to hold out if the request names no number.
    """

    train: Source
    validation: Source | None = None
    test: Source | None = None
    hold_out: int | None = None


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
        _check_options(name, DATASETS[name], options, request)
        sets = DATASETS[name](request, **options)
    elif ":" in name:
        sets = _user_sets(name, request, options)
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


def _check_options(
    name: str, function: Callable[..., Any], options: Mapping[str, Any], *args: Any, **kwargs: Any
) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs, **options)
    except TypeError as error:
        near = [
            match
            for key in options
            for match in difflib.get_close_matches(str(key), signature.parameters)
        ]
        known = set(options) & set(signature.parameters)
        hints = [match for match in near if match not in known]
        hint = f"; did you mean {hints[0]!r}?" if hints else ""
        raise ValueError(f"Options of dataset {name!r}: {error}{hint}") from error


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


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"Option {name!r} must be a whole number in {low}..{high}: got {value!r}.")
    return value


# Datasets by name ---------------------------------------------------------------------------------


def digits(request: Request) -> Sets:
    """The 1,797 handwritten digits that scikit-learn ships: 1x8x8, values 0..16, ten classes."""
    from sklearn.datasets import load_digits

    del request  # the same images whatever is asked
    pixels, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(pixels.astype(np.uint8).reshape(-1, 1, 8, 8))
    return Sets(Images(pixels, torch.from_numpy(labels.astype(np.int64))), hold_out=500)


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


# Photographs --------------------------------------------------------------------------------------

PHOTOGRAPHS = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/ihc.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/retina.jpg"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)
"""The colour photographs inside the wheels of scikit-image and scikit-learn; one class each."""

PATCH = 32
"""Height and width of a patch, in pixels."""

TILE = 72
"""Photographs are cut into squares of so many pixels; a patch lies within one of them."""

LEAST_CONTRAST = 4.0
"""Standard deviation (of 0..255) below which a patch is sky or border, and is not used."""


def photos(request: Request) -> Sets:
    """Random 32x32 colour patches of ten photographs, one class each; nothing is downloaded.

    Every photograph is cut into tiles, of which three fifths are for training, one for validation
    and one for testing, so that no pixel is shared. Each channel of each patch has its mean and
    contrast removed, since colour alone tells the photographs apart. `train` is 10,000 unless
    given, `test` 2,000.
    """
    train = 10_000 if request.train is None else request.train
    test = 2_000 if request.test is None else request.test
    counts = (train, request.validation, test)
    if min(counts) < 1:
        raise ValueError(f"`train`, `validation` and `test` must be at least 1, but got {counts}.")
    parts: list[list[np.ndarray]] = [[], [], []]
    for label, (package, path) in enumerate(PHOTOGRAPHS):
        rng = np.random.default_rng([request.seed, 3, label])
        photograph = _photograph(package, path)
        usable = _contrast(photograph) >= LEAST_CONTRAST
        tiles = regions(photograph.shape[0], photograph.shape[1], rng)
        for role, count in enumerate(counts):
            share = (count + label) // len(PHOTOGRAPHS)  # the shares add up to the count
            y, x = _corners(usable, tiles == role)
            if share > len(y):
                raise ValueError(f"{share} patches were asked of {len(y)} in a part of {path}.")
            drawn = rng.choice(len(y), share, replace=False)
            parts[role].append(_cut(photograph, y[drawn], x[drawn]))
    shuffled = [_shuffled(part, [request.seed, 4, role]) for role, part in enumerate(parts)]
    return Sets(shuffled[0], shuffled[1], shuffled[2])


def regions(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Deals the whole tiles of a photograph out at random: 0 training, 1 validation, 2 test."""
    rows, columns = height // TILE, width // TILE
    roles = np.resize([0, 1, 0, 2, 0], rows * columns)
    return rng.permutation(roles).reshape(rows, columns)


def _photograph(package: str, path: str) -> np.ndarray:
    """Returns `[H, W, 3]` uint8, from the installed package's own files."""
    from PIL import Image

    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ImportError('`photos` needs scikit-image: pip install "pathnas[photos]"') from error
    file = Path(str(module.__file__)).parent / path
    if not file.is_file():
        raise FileNotFoundError(f"{package} {module.__version__} does not ship {file}.")
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def _corners(usable: np.ndarray, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the upper left pixels `(y, x)` of the usable patches within the marked tiles."""
    tile = np.zeros((TILE, TILE), bool)
    tile[: TILE - PATCH + 1, : TILE - PATCH + 1] = True  # the patch must not leave the tile
    inside = np.kron(tiles, tile)[: usable.shape[0], : usable.shape[1]]
    y, x = np.nonzero(usable[: inside.shape[0], : inside.shape[1]] & inside)
    return y, x


def _cut(photograph: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Cuts patches, removes mean and contrast of each channel; returns `[n, 3, 32, 32]` uint8."""
    patches = sliding_window_view(photograph, (PATCH, PATCH), axis=(0, 1))[y, x].astype(np.float32)
    patches -= patches.mean((2, 3), keepdims=True)
    # Below one grey level there is nothing but rounding, not to be blown up to full contrast.
    patches /= np.maximum(patches.std((2, 3), keepdims=True), 1)
    return np.clip(np.rint(128 + 40 * patches), 0, 255).astype(np.uint8)


def _contrast(photograph: np.ndarray) -> np.ndarray:
    """Returns the standard deviation of grey within the patch that begins at each pixel."""

    def sums(values: np.ndarray) -> np.ndarray:
        total = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        rows = total[PATCH:] - total[:-PATCH]
        return rows[:, PATCH:] - rows[:, :-PATCH]

    grey = photograph.astype(np.int64).sum(2)
    area = PATCH * PATCH
    return np.sqrt(np.maximum(sums(grey**2) / area - (sums(grey) / area) ** 2, 0)) / 3


def _shuffled(parts: list[np.ndarray], seed: list[int]) -> Images:
    labels = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    order = np.random.default_rng(seed).permutation(len(labels))
    pixels = np.concatenate(parts)[order]
    return Images(torch.from_numpy(pixels), torch.from_numpy(labels[order]))


DATASETS: dict[str, Callable[..., Sets]] = {
    "digits": digits,
    "synthetic": synthetic,
    "photos": photos,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagefolder": imagefolder,
}


# Datasets by import path --------------------------------------------------------------------------


def _user_sets(name: str, request: Request, options: Mapping[str, Any]) -> Sets:
    function = _import(name)
    arguments = {"root": str(request.root), "seed": request.seed}
    clash = arguments.keys() & options.keys()
    if clash:
        raise ValueError(f"Options of dataset {name!r} must not name {sorted(clash)}.")
    _check_options(name, function, options, **arguments)
    try:
        result = function(**arguments, **options)
    except Exception as error:  # whatever a user's function raises
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise ValueError(
            f"{name} raised {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        ) from error
    try:
        return _sets(result)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must return (train, test), each Images, Files or (pixels, labels): {error}"
        ) from error


def _import(name: str) -> Callable[..., Any]:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name):
        raise ValueError(f"Expected package.module:function, but got {name!r}.")
    module_name, function_name = name.split(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"Dataset {name!r}: cannot import {module_name}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"Dataset {name!r}: {module_name} has no function {function_name!r}.")
    return function


def _sets(result: Any) -> Sets:
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise ValueError(f"got {type(result).__name__}, not a pair.")
    if isinstance(result[0], np.ndarray | Tensor):
        return Sets(_source(result))
    return Sets(_source(result[0]), test=_source(result[1]))


def _source(value: Any) -> Source:
    if isinstance(value, Images):
        return value
    if isinstance(value, Files):
        absent = [path for path in value.paths if not Path(value.root, path).is_file()]
        if absent:
            raise ValueError(f"{len(absent)} files are absent in {value.root}: {absent[0]}, ...")
        return value
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"got {type(value).__name__} for a set of images.")
    pixels, labels = (_tensor(array) for array in value)
    if pixels.is_floating_point():
        pixels = pixels.float()
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be whole numbers, but got {labels.dtype}.")
    return Images(pixels, labels.long())


def _tensor(array: Any) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach().cpu()
    if isinstance(array, np.ndarray):
        return torch.tensor(array)
    raise ValueError(f"expected an array, but got {type(array).__name__}.")
