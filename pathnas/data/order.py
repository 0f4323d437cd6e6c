"""Which images make which batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """How many images a batch has, and which of them one process yields: from start up to stop."""

    batch: int
    start: int
    stop: int


@dataclass(frozen=True)
class Order:
    """Which images make which batch: iterating yields indices `[B]`, epoch by epoch."""

    images: int
    batch_size: int
    generator: torch.Generator | None
    shuffle: bool
    drop_last: bool
    share: tuple[int, int] | None = None

    def parts(self) -> list[Part]:
        """Returns the part of each batch of an epoch that this process takes."""
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
