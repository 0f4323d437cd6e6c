"""Receipts: what a growth measurably did to a network's function, size and cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pathnas import steps as values
from pathnas.probing import counted
from pathnas.steps import Step
from pathnas.transforms import EXACT, Birth

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Relative changes of the output that count as rounding."""


def tolerance(dtype: torch.dtype) -> float:
    """Returns the relative change that counts as rounding; 16 epsilon for the narrow types."""
    return TOLERANCES.get(dtype, 16 * torch.finfo(dtype).eps)


@dataclass(frozen=True)
class Change:
    """How much the output in eval mode changed on some images.

    Attributes:
        images: how many they were.
        max_abs: largest absolute change.
        relative: `max_abs` over the largest absolute output before.
        top1: predictions that changed: argmax over dimension 1, one for each image, or for each
            position of an image where the output has some.
        tolerance: what `relative` may be and count as rounding.
    """

    images: int
    max_abs: float
    relative: float
    top1: int
    tolerance: float

    @property
    def exact(self) -> bool:
        """Whether the output is the same up to rounding."""
        return self.relative <= self.tolerance

    def __str__(self) -> str:
        found = "exact" if self.exact else "approximate"
        return (
            f"{found} as measured: output changed by {self.max_abs:.3g} ({self.relative:.3g} "
            f"relative), {self.top1} top-1 changed on {self.images} images"
        )


@dataclass(frozen=True)
class Receipt:
    """What one transform, or a sequence of them, did.

    Attributes:
        transforms: in order.
        cells: names of the cells that the path-level ones were done to.
        exact: whether the transforms promise no change on any input, by law.
        change: as measured; None without images.
        parameters: before and after.
        macs: multiply-adds for one image, before and after; None without images.
        steps: of a sequence: one receipt for each transform.
    """

    transforms: tuple[Step, ...]
    cells: tuple[str, ...]
    exact: bool
    change: Change | None
    parameters: tuple[int, int]
    macs: tuple[int, int] | None
    steps: tuple[Receipt, ...] = ()

    def __str__(self) -> str:
        law = f"{'exact' if self.exact else 'approximate'} by law"
        parts = [law, str(self.change) if self.change else "not measured"]
        parts.append(f"parameters {self.parameters[0]:,} -> {self.parameters[1]:,}")
        if self.macs is not None:
            parts.append(f"multiply-adds {self.macs[0]:,} -> {self.macs[1]:,}")
        lines = ["; ".join(parts)]
        lines += [f"  {step.transforms[0]}: {step}" for step in self.steps]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Returns the receipt as a dictionary that JSON can hold."""
        return {
            "transforms": [values.to_dict(transform) for transform in self.transforms],
            "cells": list(self.cells),
            "exact": self.exact,
            "change": None if self.change is None else asdict(self.change),
            "parameters": list(self.parameters),
            "macs": None if self.macs is None else list(self.macs),
            "steps": [step.to_dict() for step in self.steps],
        }

    def to_json(self) -> str:
        """Returns the receipt as JSON text."""
        return json.dumps(self.to_dict(), indent=1)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Receipt:
        """Returns the receipt that :meth:`to_dict` wrote.

        Raises:
            ValueError: if the data is none.
        """
        try:
            before, after = data["parameters"]
            macs, change = data["macs"], data["change"]
            return Receipt(
                transforms=tuple(values.from_dict(item) for item in data["transforms"]),
                cells=tuple(data["cells"]),
                exact=data["exact"],
                change=None if change is None else Change(**change),
                parameters=(before, after),
                macs=None if macs is None else (macs[0], macs[1]),
                steps=tuple(Receipt.from_dict(step) for step in data["steps"]),
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"not the fields of a receipt: {data!r:.200} ({error!r})") from None

    @staticmethod
    def from_json(text: str) -> Receipt:
        """Returns the receipt of a JSON text.

        Raises:
            ValueError: if the text is not JSON or not a receipt.
        """
        return Receipt.from_dict(json.loads(text))


@dataclass(frozen=True)
class Look:
    """A module as it was when it was looked at, in eval mode.

    Attributes:
        parameters: number of weights.
        output: for the images; None without.
        macs: multiply-adds for one image; None without images.
    """

    parameters: int
    output: Tensor | None
    macs: int | None


def look(module: nn.Module, images: Tensor | None) -> Look:
    """Returns what a receipt compares; the module is left as it was.

    Args:
        module: maps images to one tensor.
        images: `[B, C, H, W]` on the module's device, or None.

    Raises:
        ValueError: if the module cannot take the images, or returns something else than a tensor.
    """
    parameters = sum(parameter.numel() for parameter in module.parameters())
    if images is None:
        return Look(parameters, None, None)
    try:
        output, macs = counted(module, images)
    except (RuntimeError, ValueError) as error:  # torch's own, of some layer
        shape, line = tuple(images.shape), " ".join(str(error).split())
        raise ValueError(
            f"images: expected some that the module takes in eval mode, got {shape}: {line:.300}"
        ) from error
    if not isinstance(output, Tensor):
        raise ValueError(
            f"expected a module that returns one tensor in eval mode, got "
            f"{type(output).__name__} from {type(module).__name__}"
        )
    return Look(parameters, output, macs)


def compare(
    before: Look,
    after: Look,
    transforms: Sequence[Step],
    birth: Birth = EXACT,
    cells: Sequence[str] = (),
) -> Receipt:
    """Returns the receipt of transforms from two looks with the same images."""
    macs = change = None
    if before.output is not None and after.output is not None:
        change = _change(before.output, after.output)
        assert before.macs is not None and after.macs is not None
        macs = before.macs, after.macs
    sizes = before.parameters, after.parameters
    law = values.is_exact(transforms, birth)
    return Receipt(tuple(transforms), tuple(cells), law, change, sizes, macs)


def receipt(
    before: nn.Module,
    after: nn.Module,
    images: Tensor,
    transforms: Sequence[Step],
    birth: Birth = EXACT,
) -> Receipt:
    """Measures in eval mode what growing did to the output on some images `[B, C, H, W]`.

    Neither module is changed.
    """
    return compare(look(before, images), look(after, images), transforms, birth)


def _change(before: Tensor, after: Tensor) -> Change:
    largest, scale = float((after - before).abs().max()), float(before.abs().max())
    top1 = int((after.argmax(1) != before.argmax(1)).sum())
    relative = largest / scale if scale else largest
    return Change(len(before), largest, relative, top1, tolerance(before.dtype))
