"""Raw batches of an order: from memory, or from files that other processes decode."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pathnas.data.decoding import Decoder
from pathnas.data.order import Order
from pathnas.data.sets import Files, Images


@dataclass(frozen=True)
class Memory:
    """Raw batches of a set in memory: pixels `[B, H, W, C]` and labels `[B]`."""

    source: Images
    order: Order

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pixels = self.source.pixels.permute(0, 2, 3, 1)
        for indices in self.order:
            yield pixels[indices], self.source.labels[indices]


class _Keys:
    """For a DataLoader: the batches of an order, as lists of (index, seed of its crop)."""

    def __init__(self, order: Order, crop: bool) -> None:
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


def loader(
    source: Files, order: Order, crop: bool, workers: int | None, pin: bool
) -> DataLoader[Any]:
    """Returns what decodes image files batch by batch.

    Args:
        source: the files.
        order: which images make which batch.
        crop: whether a random part of each image is taken.
        workers: processes that decode; None: as many as torch's threads, at most 8.
        pin: put batches into page-locked memory.
    """
    if workers is None:
        daemonic = multiprocessing.current_process().daemon
        workers = 0 if daemonic else min(8, torch.get_num_threads())
    return DataLoader(
        Decoder(source, crop),
        batch_sampler=_Keys(order, crop),
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        pin_memory=pin,
        # The loader draws seeds for its workers, which use none of them: not from the global
        # generator, which belongs to the caller.
        generator=torch.Generator(),
    )
