"""What is asked of a dataset, and what it gives."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathnas.data import Source


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


def check_options(
    name: str, function: Callable[..., Any], options: Mapping[str, Any], *args: Any, **kwargs: Any
) -> None:
    """Raises a ValueError unless a dataset's function takes the options."""
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
