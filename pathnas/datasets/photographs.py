"""Patches of photographs that other packages ship: real images without a download."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from pathnas.data import Images
from pathnas.datasets.request import Request, Sets

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
