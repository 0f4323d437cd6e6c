"""The types of single settings: what a value may be, and what is said of one that may not."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from pathnas.config_networks import to_tuple
from pathnas.yaml_reader import shown


def _matching(pattern: str, words: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{words}; got {shown(value)}")
        return value

    return AfterValidator(check)


def _names(value: Any) -> Any:
    """As `to_tuple`, but none is allowed, and no name twice."""
    if value in ([], ()):
        return ()
    items = to_tuple(value)
    if isinstance(items, tuple):
        twice = [name for place, name in enumerate(items) if name in items[:place]]
        if twice:
            raise ValueError(f"must be distinct, got {shown(twice[0])} twice")
    return items


def one_or_more(value: Any) -> Any:
    """One name may stand without a list."""
    return (value,) if isinstance(value, str) else to_tuple(value)


def is_function(path: str) -> bool:
    """Whether a text has the form of ``package.module:function``."""
    module, colon, function = path.partition(":")
    dotted_name = all(part.isidentifier() for part in module.split("."))
    return bool(colon) and dotted_name and function.isidentifier()


def _plain(value: Any) -> Any:
    """One fault for a value that is none of the types of an option, where a union gives four."""
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"expected a string, a number or true or false, got {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"must be a finite number, got {shown(value)}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"must fit into 64 bits, got {shown(value)}")
    return value


Glob: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
Pixels: TypeAlias = Annotated[int, Field(ge=0, le=64)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=10**9)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
BelowOne: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
LearningRate: TypeAlias = Annotated[float, Field(gt=0, le=100)]
Multiple: TypeAlias = Annotated[float, Field(gt=0, le=10**6)]
FilePath: TypeAlias = Annotated[
    str,
    Field(min_length=1, max_length=4096),
    _matching(r"[^\x00]+", "must be a path without NUL characters"),
]
Name: TypeAlias = Annotated[
    str,
    Field(max_length=64),
    _matching(
        r"[A-Za-z0-9][A-Za-z0-9_.-]*",
        "must be letters, digits, '_', '.' and '-', beginning with a letter or a digit",
    ),
]
Module: TypeAlias = Annotated[
    str,
    Field(max_length=256),
    _matching(r"[^\W\d]\w*(\.[^\W\d]\w*)*", "must be a module's name, as in package.module"),
]
Modules: TypeAlias = Annotated[tuple[Module, ...], BeforeValidator(_names)]
Device: TypeAlias = Annotated[
    str,
    _matching(r"auto|cpu|mps|cuda|cuda:[0-9]{1,3}", "must be auto, cpu, mps, cuda or cuda:N"),
]
Hours: TypeAlias = Annotated[float, Field(gt=0, le=10**6)]
Address: TypeAlias = Annotated[
    str,
    Field(max_length=256),
    _matching(
        r"auto|[A-Za-z0-9._-]+:[0-9]{1,5}|\[[0-9a-fA-F:]+\]:[0-9]{1,5}", "must be auto or HOST:PORT"
    ),
]
Gpu: TypeAlias = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    Field(max_length=256),
    _matching(r"[A-Za-z0-9,/-]+", "must be a GPU's number or identifier, or several with commas"),
]
Option: TypeAlias = Annotated[str | int | float | bool, BeforeValidator(_plain)]
