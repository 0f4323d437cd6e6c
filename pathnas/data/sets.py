"""Sets of images, in memory or on disk, and how they are split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Images:
    """A set of images in memory.

    Attributes:
        pixels: `[N, C, H, W]` uint8 or float32. Batches are made fastest from channels_last memory.
        labels: `[N]` int64.
    """

    pixels: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.pixels.dtype not in (torch.uint8, torch.float32) or self.pixels.ndim != 4:
            raise ValueError(
                "`pixels` must be uint8 or float32 of shape [N, C, H, W], "
                f"but got {self.pixels.dtype} of shape {list(self.pixels.shape)}."
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.pixels.shape[:1]:
            raise ValueError(
                f"`labels` must be int64 of shape [{len(self.pixels)}], one for each image, "
                f"but got {self.labels.dtype} of shape {list(self.labels.shape)}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width


@dataclass(frozen=True)
class Files:
    """A set of image files on disk, decoded as batches are asked for.

    Attributes:
        root: The folder that `paths` are relative to.
        paths: One file for each image.
        labels: One class for each image.
        size: Height and width in pixels after decoding.
    """

    root: str
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    size: int

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.labels):
            raise ValueError(
                "Every file must have one label, "
                f"but got {len(self.paths)} paths and {len(self.labels)} labels."
            )
        if self.size < 1:
            raise ValueError(f"`size` must be at least 1 pixel, but got {self.size}.")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every decoded image."""
        return 3, self.size, self.size


Source = Images | Files


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation by channel, on the raw scale of the pixels (uint8: 0..255)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Splits:
    """Three disjoint sets of one kind; `normalization` is measured on `train` alone."""

    train: Source
    validation: Source
    test: Source
    classes: int
    normalization: Normalization

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self.train.shape


def labels_of(source: Source) -> np.ndarray:
    """Returns the labels of a set, `[N]` int64."""
    if isinstance(source, Images):
        return source.labels.numpy()
    return np.asarray(source.labels, dtype=np.int64)


def take(source: Source, indices: np.ndarray) -> Source:
    """Returns the images at `indices`, `[n]` integers, in that order."""
    if isinstance(source, Images):
        at = torch.from_numpy(indices)
        return Images(source.pixels[at], source.labels[at])
    paths = tuple(source.paths[i] for i in indices)
    return Files(source.root, paths, tuple(source.labels[i] for i in indices), source.size)


def join(a: Source, b: Source) -> Source:
    """Returns the images of `a` followed by those of `b`, for training on both.

    Raises:
        ValueError: The two are not of one kind and shape.
    """
    if isinstance(a, Images) and isinstance(b, Images):
        if a.shape == b.shape and a.pixels.dtype == b.pixels.dtype:
            return Images(torch.cat([a.pixels, b.pixels]), torch.cat([a.labels, b.labels]))
    elif isinstance(a, Files) and isinstance(b, Files) and (a.root, a.size) == (b.root, b.size):
        return Files(a.root, a.paths + b.paths, a.labels + b.labels, a.size)
    raise ValueError(
        "Only sets of one kind, place, type and shape can be joined, but got "
        f"{type(a).__name__} of shape {a.shape} and {type(b).__name__} of shape {b.shape}."
    )


def sample(source: Source, count: int, seed: int | Sequence[int] | np.random.Generator) -> Source:
    """Returns `count` images of the set, stratified by class, in random order.

    Raises:
        ValueError: `count` is not in 1..N.
    """
    if not 1 <= count <= len(source):
        raise ValueError(f"{count} images were asked of a set of {len(source)}.")
    return take(source, _stratified(labels_of(source), count, np.random.default_rng(seed)))


def split(
    source: Source,
    *,
    validation: int,
    train: int | None = None,
    seed: int | Sequence[int] | np.random.Generator,
) -> tuple[Source, Source]:
    """Splits a set into training and validation images, both stratified by class.

    The two are disjoint, of exactly the sizes asked for, and a function of the seed alone; another
    `train` leaves the validation images as they are. Both come in random order, so that the first
    n images of either are a fair sample of it.

    Args:
        source: The set to split.
        validation: Images held out.
        train: Training images among the others; None takes them all.
        seed: A seed or a generator, which is then consumed.

    Returns:
        The training images and the validation images.

    Raises:
        ValueError: Either set would be empty, or the two need more images than there are.
    """
    kept = len(source) - validation if train is None else train
    if validation < 1 or kept < 1 or validation + kept > len(source):
        raise ValueError(
            f"{validation} images held out and {'the rest' if train is None else train} for "
            f"training were asked of a set of {len(source)}; both must have at least one."
        )
    rng = np.random.default_rng(seed)
    labels = labels_of(source)
    held_out = _stratified(labels, validation, rng)
    others = np.setdiff1d(np.arange(len(source)), held_out)
    training = others[_stratified(labels[others], kept, rng)]
    return take(source, training), take(source, held_out)


def _stratified(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws `count` indices, each class in proportion (largest remainders), in random order."""
    classes, sizes = np.unique(labels, return_counts=True)
    shares, remainders = np.divmod(count * sizes, len(labels))
    shares[np.argsort(-remainders, kind="stable")[: count - shares.sum()]] += 1
    drawn = [
        rng.permutation(np.flatnonzero(labels == label))[:share]
        for label, share in zip(classes, shares, strict=True)
    ]
    return rng.permutation(np.concatenate(drawn))
