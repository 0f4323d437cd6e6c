"""Epochs of normalized, augmented batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pathnas.data.loading import Memory, loader
from pathnas.data.order import Order, Part
from pathnas.data.sets import Images, Normalization, Source


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
        order: Order,
        normalization: Normalization,
        device: torch.device,
        augment: Augment,
        *,
        width: int,
    ) -> None:
        self.images = order.images
        self._raw = raw
        self._order = order
        self._device = device
        self._augment = augment
        self._mean, self._std = (
            torch.tensor(numbers, device=device).repeat(width)
            for numbers in (normalization.mean, normalization.std)
        )

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
        x = pixels.reshape(size, height, width * channels)
        if pad:
            wide = size, height + 2 * pad, (width + 2 * pad) * channels
            raw, x = x, torch.zeros(wide, device=self._device)
            image = x[:, pad : pad + height, pad * channels : (pad + width) * channels].copy_(raw)
        else:
            x = image = x.to(torch.float32, memory_format=torch.contiguous_format)
        image.sub_(self._mean).div_(self._std)
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
    order = Order(len(source), batch_size, generator, shuffle, drop_last, share)
    smallest = min((part.batch for part in order.parts()), default=0)
    if share is not None and not 0 <= share[0] < share[1] <= smallest:
        raise ValueError(
            "`share` must be (i, n) with 0 <= i < n and no batch of fewer than n images, "
            f"but got {share} for batches of {batch_size} of {len(source)} images."
        )
    if isinstance(source, Images):
        raw = Memory(source, order)
        return Batches(raw, order, normalization, device, augment, width=source.shape[2])
    read = loader(source, order, augment.crop > 0, workers, pin=device.type == "cuda")
    # The crop is done, image by image, while decoding.
    rest = Augment(flip=augment.flip, cutout=augment.cutout)
    return Batches(read, order, normalization, device, rest, width=source.size)
