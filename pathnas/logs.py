"""Logs: what was done to a model, as a value that JSON holds without loss."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch

from pathnas import steps as values
from pathnas.layers import Deepen, Widen
from pathnas.steps import Step
from pathnas.transforms import Birth


class Statistic(NamedTuple):
    """A measured moment: its name in the model, its dtype and its values, one a channel."""

    name: str
    dtype: str
    values: tuple[float, ...]


class Shape(NamedTuple):
    """Of the images that a network was followed with: dtype and sizes, `[B, C, H, W]`."""

    dtype: str
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """What one call of :func:`pathnas.growth.transform` did.

    Attributes:
        transforms: in order; a path-level one is done to all the cells before the next.
        cells: names of the cells that the path-level ones were done to.
        birth: without its generator.
        seed: of the noise and of whatever else is random.
        statistics: moments that the new operations of cells were born with.
        norms: mean and variance that each norm of a :class:`pathnas.layers.Deepen` was born with.
        example: for layer-level transforms, which follow the network's channels; or None.
        before: fingerprint of the model that was handed in.
        after: fingerprint of the model that came out.
    """

    transforms: tuple[Step, ...]
    cells: tuple[str, ...]
    birth: Birth
    seed: int
    statistics: tuple[Statistic, ...]
    before: str
    after: str
    norms: tuple[Statistic, ...] = ()
    example: Shape | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the entry as a dictionary that JSON can hold, without loss."""
        birth = {f.name: getattr(self.birth, f.name) for f in fields(Birth)}
        del birth["generator"]
        return {
            "transforms": [values.to_dict(transform) for transform in self.transforms],
            "cells": list(self.cells),
            "birth": birth,
            "seed": self.seed,
            "statistics": _listed(self.statistics),
            "norms": _listed(self.norms),
            "example": None if self.example is None else list(self.example),
            "before": self.before,
            "after": self.after,
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Entry:
        """Returns the entry that :meth:`to_dict` wrote.

        Raises:
            ValueError: if the data is none.
        """
        try:
            return Entry(
                transforms=tuple(values.from_dict(item) for item in data["transforms"]),
                cells=tuple(map(str, data["cells"])),
                birth=Birth(**data["birth"]),
                seed=int(data["seed"]),
                statistics=tuple(_statistic(*item) for item in data["statistics"]),
                before=str(data["before"]),
                after=str(data["after"]),
                norms=tuple(_statistic(*item) for item in data["norms"]),
                example=None if data["example"] is None else _shape(*data["example"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an entry of a log: {data!r:.200} ({error!r})") from None


@dataclass(frozen=True)
class Log:
    """All that :func:`pathnas.growth.transform` did to a model, oldest first."""

    entries: tuple[Entry, ...] = ()

    def __deepcopy__(self, memo: object) -> Log:
        return self

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __getitem__(self, place: slice) -> Log:
        return Log(self.entries[place])

    def __add__(self, other: Log) -> Log:
        return Log(self.entries + other.entries)

    def __str__(self) -> str:
        return "\n".join(_line(step, entry) for entry in self for step in entry.transforms)

    @property
    def transforms(self) -> tuple[Step, ...]:
        """The transforms of all entries."""
        return tuple(transform for entry in self.entries for transform in entry.transforms)

    def to_json(self) -> str:
        """Returns the log as JSON text; every float comes back as it was."""
        return json.dumps({"entries": [entry.to_dict() for entry in self.entries]})

    @staticmethod
    def from_json(text: str) -> Log:
        """Returns the log that :meth:`to_json` wrote.

        Raises:
            ValueError: if the text is not JSON or not a log.
        """
        data = json.loads(text)
        if not isinstance(data, dict) or not isinstance(data.get("entries"), list):
            raise ValueError(f"expected a log, a mapping with a list of entries, got {text:.100}")
        return Log(tuple(Entry.from_dict(item) for item in data["entries"]))


def _line(step: Step, entry: Entry) -> str:
    return str(step) if isinstance(step, Widen | Deepen) else f"{step} on {', '.join(entry.cells)}"


def _listed(statistics: tuple[Statistic, ...]) -> list[list[Any]]:
    return [[one.name, one.dtype, list(one.values)] for one in statistics]


def _statistic(name: str, dtype: str, numbers: list[float]) -> Statistic:
    _check_dtype(f"statistic {name}", dtype)
    return Statistic(name, dtype, tuple(map(float, numbers)))


def _shape(dtype: str, sizes: list[int]) -> Shape:
    _check_dtype("example", dtype)
    return Shape(dtype, tuple(map(int, sizes)))


def _check_dtype(where: str, dtype: str) -> None:
    if not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"{where}: expected a dtype of torch, got {dtype!r:.40}")
