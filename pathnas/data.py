"""Images as the rest of the library sees them: sets, splits, normalization, batches.

A set of images is either in memory (:class:`Images`) or on disk (:class:`Files`). This module knows
no dataset by name (see :mod:`pathnas.datasets`) and imports torch and numpy only, since every
worker process imports it.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pathnas import files

MEASURED_FILES = 1000
"""The normalization of a set on disk is measured on so many of its images."""


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


@dataclass(frozen=True)
class Augment:
    """How training images are varied; what crop brings in and cutout cuts out is 0 after all.

    Attributes:
        crop: Images are shifted by up to so many pixels each way. For :class:`Files` any positive
            number means a random resized crop instead.
        flip: Half of the images are mirrored, left to right.
        cutout: Side of one square per image that is set to 0 after normalization. Its middle lies
            anywhere in the image, so that the square may reach over the border.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.crop < 0 or self.cutout < 0:
            raise ValueError(f"`crop` and `cutout` must not be negative, but got {self}.")


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


def measure(source: Source) -> Normalization:
    """Measures mean and standard deviation of each channel over a set.

    A set on disk is measured on its first 1,000 images; a channel that never changes gets the
    standard deviation 1.
    """
    if isinstance(source, Files):
        source = decode(source, MEASURED_FILES)
    # float64 sums of uint8 are exact, whatever the order; chunks keep the float64 copy small.
    total, squares = torch.zeros(2, source.shape[0], dtype=torch.float64)
    for chunk in source.pixels.split(256):
        wide = chunk.transpose(0, 1).flatten(1).double()
        total += wide.sum(1)
        squares += wide.square_().sum(1)
    count = source.pixels[:, 0].numel()
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    std[std == 0] = 1.0
    return Normalization(tuple(mean.tolist()), tuple(std.tolist()))


def save(source: Source, folder: str | os.PathLike[str]) -> None:
    """Writes a set into a new folder that worker processes can open; aside first, then renamed.

    Images become `pixels.npy` (`[N, H, W, C]`, the order that batches are made from) and
    `labels.npy`; a set on disk becomes `files.json`, which names the image files.

    Raises:
        FileExistsError: `folder` exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; a set of images is written once.")
    aside = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    aside.mkdir(parents=True)
    try:
        _write(source, aside)
        files.install(aside, folder)
    except BaseException:
        shutil.rmtree(aside)
        raise


def _write(source: Source, folder: Path) -> None:
    if isinstance(source, Files):
        with open(folder / "files.json", "w", encoding="utf-8") as file:
            json.dump(asdict(source), file)
            file.flush()
            os.fsync(file.fileno())
        return
    arrays = {"pixels": source.pixels.permute(0, 2, 3, 1).contiguous(), "labels": source.labels}
    for name, tensor in arrays.items():
        with open(folder / f"{name}.npy", "wb") as stream:
            np.save(stream, tensor.numpy(), allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())


def digest(source: Source) -> str:
    """Returns the SHA-256 of a set's content, in hexadecimal digits.

    Of a set on disk: of the names of its files below their root, and their labels.
    """
    if isinstance(source, Files):
        content = json.dumps([source.paths, source.labels, source.size])
        return hashlib.sha256(content.encode()).hexdigest()
    found = hashlib.sha256(str(list(source.pixels.shape)).encode())
    for tensor in (source.pixels.permute(0, 2, 3, 1).contiguous(), source.labels):
        found.update(tensor.numpy().data)
    return found.hexdigest()


def is_saved(source: Source, folder: str | os.PathLike[str]) -> bool:
    """Tells whether a folder holds exactly this set, undamaged."""
    try:
        found = open_source(folder)
    except Exception:  # damaged files make numpy, json and torch raise what they like
        return False
    if isinstance(source, Files) or isinstance(found, Files):
        return source == found
    return digest(found) == digest(source)


def open_source(folder: str | os.PathLike[str]) -> Source:
    """Opens what :func:`save` wrote; pixels stay on disk, memory-mapped and shared by processes.

    Writing into the tensors changes this process's copy only, never the file.

    Raises:
        FileNotFoundError: The folder holds no set of images.
    """
    folder = Path(folder)
    if (folder / "files.json").is_file():
        content = json.loads((folder / "files.json").read_text(encoding="utf-8"))
        labels = tuple(content["labels"])
        return Files(content["root"], tuple(content["paths"]), labels, content["size"])
    # Copy-on-write pages look writable, so torch has nothing to warn of; pages that nobody writes
    # to are never copied.
    pixels = np.load(folder / "pixels.npy", mmap_mode="c", allow_pickle=False)
    labels = np.load(folder / "labels.npy", allow_pickle=False)
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(labels))


class Batches:
    """Epochs over a set of images; made by :func:`batches`.

    Iterating yields `(x, y)`: `x` is float32 `[B, C, H, W]`, normalized and channels_last, `y` is
    int64 `[B]`, both on the device. Iterating again is the next epoch, drawn from the same
    generator. `len()` is the number of batches in an epoch.

    Attributes:
        images: Images in an epoch.
    """

    def __init__(
        self,
        raw: Iterable[tuple[Tensor, Tensor]],
        order: _Order,
        normalization: Normalization,
        device: torch.device,
        augment: Augment,
    ) -> None:
        self.images = order.images
        self._raw = raw
        self._order = order
        self._device = device
        self._augment = augment
        self._mean = torch.tensor(normalization.mean, device=device)
        self._std = torch.tensor(normalization.std, device=device)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for (pixels, labels), part in zip(self._raw, self.parts(), strict=True):
            pixels = pixels.to(self._device, non_blocking=True)
            yield self._prepare(pixels, part), labels.to(self._device, non_blocking=True)

    def parts(self) -> list[Part]:
        """Returns the size of every batch of an epoch, and what of it is yielded here."""
        return self._order.parts()

    def _prepare(self, pixels: Tensor, part: Part) -> Tensor:
        """Augments and normalizes raw pixels `[B, H, W, C]`; returns `[B, C, H, W]`.

        Rows are handled as vectors of W * C numbers: long contiguous runs are what makes shifting
        and normalizing fast. Random numbers are drawn on the CPU, so they are the same on every
        device.
        """
        size, height, width, channels = pixels.shape
        generator, pad = self._order.generator, self._augment.crop
        whole, own = part.batch, slice(part.start, part.stop)
        if self._augment.flip:
            mirrored = (torch.rand(whole, generator=generator)[own] < 0.5).nonzero().squeeze(1)
            mirrored = mirrored.to(self._device)
            pixels[mirrored] = pixels[mirrored].flip(2)
        x = torch.zeros(size, height + 2 * pad, (width + 2 * pad) * channels, device=self._device)
        image = x[:, pad : pad + height, pad * channels : (pad + width) * channels]
        image.copy_(pixels.reshape(size, height, width * channels))
        image.sub_(self._mean.repeat(width)).div_(self._std.repeat(width))
        if pad:
            # `[B, 2 pad + 1, 2 pad + 1, H, W * C]`: a view of every shift, of which one is taken.
            shifts = x.unfold(1, height, 1).unfold(2, width * channels, channels)
            down, right = torch.randint(2 * pad + 1, (2, whole), generator=generator)[:, own]
            down, right = down.to(self._device), right.to(self._device)
            x = shifts[torch.arange(size, device=self._device), down, right]
        x = x.view(size, height, width, channels)
        if self._augment.cutout:
            x.mul_(self._outside_cutout(whole, height, width)[own].to(self._device))
        return x.permute(0, 3, 1, 2)

    def _outside_cutout(self, size: int, height: int, width: int) -> Tensor:
        """Draws one square per image; returns `[B, H, W, 1]` on the CPU, False within it."""
        side = self._augment.cutout
        inside = []
        for extent in (height, width):
            middle = torch.randint(extent, (size, 1), generator=self._order.generator)
            offset = torch.arange(extent) - (middle - side // 2)
            inside.append((offset >= 0) & (offset < side))
        rows, columns = inside
        return ~(rows[:, :, None, None] & columns[:, None, :, None])


def batches(
    source: Source,
    *,
    batch_size: int,
    normalization: Normalization,
    device: torch.device | str = "cpu",
    augment: Augment | None = None,
    generator: torch.Generator | None = None,
    shuffle: bool = False,
    drop_last: bool = False,
    workers: int | None = None,
    share: tuple[int, int] | None = None,
) -> Batches:
    """Makes normalized batches of a set of images.

    Images in memory are augmented a whole batch at a time. A set on disk goes through a DataLoader;
    the random crop of an image depends on the generator alone, not on which process decodes it.

    Args:
        source: The images.
        batch_size: Images in a batch; the last batch of an epoch may be smaller.
        normalization: Subtracted and divided by, channel by channel.
        device: Where the batches are wanted.
        augment: For training; None for evaluation.
        generator: A CPU generator that `shuffle` and `augment` draw from.
        shuffle: Every epoch in a new order, or always in the order of the set.
        drop_last: Leave out a last, smaller batch.
        workers: Processes that decode files. None: none in a daemonic process, which may have no
            children, otherwise one for each of torch's threads, up to 8.
        share: `(i, n)`: Only the i-th of n nearly equal parts of every batch, i from 0, for n
            processes that train together. The batches of an epoch are then of nearly equal size
            too, and hold every image once. With generators of one seed, order and augmentation
            are those of the whole batches: n processes see what one sees.

    Raises:
        ValueError: Randomness is asked for without a generator, or a number is out of range.
    """
    augment = augment or Augment()
    if generator is None and (shuffle or augment != Augment()):
        raise ValueError("`shuffle` and `augment` need a `generator`, but got None.")
    if batch_size < 1 or len(source) == 0:
        raise ValueError(
            "`batch_size` and the number of images must be at least 1, "
            f"but got {batch_size} and {len(source)}."
        )
    if len(normalization.mean) != source.shape[0]:
        raise ValueError(f"`normalization` must have {source.shape[0]} channels: {normalization}.")
    device = torch.device(device)
    order = _Order(len(source), batch_size, generator, shuffle, drop_last, share)
    smallest = min((part.batch for part in order.parts()), default=0)
    if share is not None and not 0 <= share[0] < share[1] <= smallest:
        raise ValueError(
            "`share` must be (i, n) with 0 <= i < n and no batch of fewer than n images, "
            f"but got {share} for batches of {batch_size} of {len(source)} images."
        )
    if isinstance(source, Images):
        return Batches(_Memory(source, order), order, normalization, device, augment)
    loader = _loader(source, order, augment.crop > 0, workers, pin=device.type == "cuda")
    # The crop is done, image by image, while decoding.
    rest = Augment(flip=augment.flip, cutout=augment.cutout)
    return Batches(loader, order, normalization, device, rest)


class Part(NamedTuple):
    """How many images a batch has, and which of them one process yields: from start up to stop."""

    batch: int
    start: int
    stop: int


@dataclass(frozen=True)
class _Order:
    """Which images make which batch: iterating yields indices `[B]`, epoch by epoch."""

    images: int
    batch_size: int
    generator: torch.Generator | None
    shuffle: bool
    drop_last: bool
    share: tuple[int, int] | None = None

    def parts(self) -> list[Part]:
        full, rest = divmod(self.images, self.batch_size)
        if self.share is None:
            last = [rest] if rest and not self.drop_last else []
            return [Part(size, 0, size) for size in [self.batch_size] * full + last]
        i, n = self.share
        count = full + (rest > 0)
        sizes = [(self.images + place) // count for place in range(count)]
        return [Part(size, size * i // n, size * (i + 1) // n) for size in sizes]

    def __len__(self) -> int:
        return len(self.parts())

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self.images)
        if self.shuffle:
            order = torch.randperm(self.images, generator=self.generator)
        at = 0
        for batch, start, stop in self.parts():
            yield order[at + start : at + stop]
            at += batch


@dataclass(frozen=True)
class _Memory:
    """Raw batches of a set in memory: pixels `[B, H, W, C]` and labels `[B]`."""

    source: Images
    order: _Order

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pixels = self.source.pixels.permute(0, 2, 3, 1)
        for indices in self.order:
            yield pixels[indices], self.source.labels[indices]


class _Keys:
    """For a DataLoader: the batches of an order, as lists of (index, seed of its crop)."""

    def __init__(self, order: _Order, crop: bool) -> None:
        self._order = order
        self._crop = crop

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # Drawn at once, before the epoch's first batch is augmented: a loader that reads ahead must
        # not change which numbers are drawn for what.
        epoch = list(self._order)
        seeds = torch.zeros(self._order.images, dtype=torch.int64)
        if self._crop:
            seeds = torch.randint(2**62, seeds.shape, generator=self._order.generator)
        at = 0
        for indices, (batch, start, stop) in zip(epoch, self._order.parts(), strict=True):
            own = seeds[at + start : at + stop]
            yield list(zip(indices.tolist(), own.tolist(), strict=True))
            at += batch


class _Decoder(Dataset[tuple[Tensor, int]]):
    """Decodes files: (index, seed) -> uint8 pixels `[size, size, 3]` and the label."""

    def __init__(self, source: Files, crop: bool) -> None:
        from torchvision.transforms import v2

        self._source = source
        self._crop = crop
        size = source.size
        if crop:
            geometry = [v2.RandomResizedCrop(size, antialias=True)]
        else:
            geometry = [v2.Resize(256 * size // 224, antialias=True), v2.CenterCrop(size)]
        self._transform = v2.Compose([*geometry, v2.PILToTensor()])

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        from PIL import Image

        index, seed = key
        path = Path(self._source.root, self._source.paths[index])
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except OSError as error:
            raise ValueError(f"cannot decode the image {path}: {error}") from error
        # torchvision draws from the global generator, whose state is put back afterwards.
        with torch.random.fork_rng(devices=[], enabled=self._crop):
            if self._crop:
                torch.default_generator.manual_seed(seed)
            pixels = self._transform(image)
        return pixels.permute(1, 2, 0), self._source.labels[index]


def decode(source: Files, first: int | None = None) -> Images:
    """Reads a set on disk (or its first images) into memory.

    The shorter side is brought to 8/7 of the size, then the middle square is taken.
    """
    decoder = _Decoder(source, crop=False)
    labels = torch.from_numpy(labels_of(source))[:first]
    pixels = torch.stack([decoder[i, 0][0] for i in range(len(labels))])
    return Images(pixels.permute(0, 3, 1, 2), labels)


def _loader(
    source: Files, order: _Order, crop: bool, workers: int | None, pin: bool
) -> DataLoader[Any]:
    if workers is None:
        daemonic = multiprocessing.current_process().daemon
        workers = 0 if daemonic else min(8, torch.get_num_threads())
    return DataLoader(
        _Decoder(source, crop),
        batch_sampler=_Keys(order, crop),
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        pin_memory=pin,
        # The loader draws seeds for its workers, which use none of them: not from the global
        # generator, which belongs to the caller.
        generator=torch.Generator(),
    )
