"""Which numbers become constructor arguments of a class that several modules share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pathnas.export.expressions import Hole

Column = tuple[int, ...]

CLASSES = "num_classes"
"""The role of a number that is always an argument."""

CHANNELS = {
    "in_channels",
    "out_channels",
    "num_features",
    "in_features",
    "out_features",
    "num_channels",
    "channels",
    "normalized_shape",
    "groups",
    "",
}
"""Roles that may share an argument: all count channels; the empty one is of no known role."""

NAMES = {"": "size", "num_features": "channels", "num_channels": "channels"}


@dataclass(frozen=True)
class Parameters:
    """The arguments of a class.

    Attributes:
        columns: by name, the value for each instance.
        texts: for each hole a literal, an argument's name, or a fraction of it.
    """

    columns: dict[str, Column]
    texts: tuple[str, ...]


def find(instances: Sequence[Sequence[Hole]]) -> Parameters:
    """Returns the arguments by which instances of one structure differ.

    Numbers that are equal in all instances stay literals; those that differ alike share an
    argument, and a width that is always an exact fraction of another is written so.

    Args:
        instances: the holes of each, in one order.
    """
    columns: dict[str, Column] = {}
    texts = []
    for row in zip(*instances, strict=True):
        column, role = tuple(hole.value for hole in row), row[0].role
        if role == CLASSES:
            columns[CLASSES] = column
            texts.append(CLASSES)
        elif len(set(column)) == 1:
            texts.append(str(column[0]))
        else:
            texts.append(_text(columns, column, role))
    return Parameters(columns, tuple(texts))


def _text(columns: dict[str, Column], column: Column, role: str) -> str:
    """Returns how a column of numbers is written, and makes it an argument if it must be one."""
    alike = [name for name in columns if _kind(name) == _kind(role)]
    for name in alike:
        if columns[name] == column:
            return name
    if _kind(role) == "channels":
        for name in alike:
            for part in (2, 3, 4):
                if columns[name] == tuple(value * part for value in column):
                    return f"{name} // {part}"
    first = not alike and role == "num_features"
    name = _free("in_channels" if first else NAMES.get(role, role), columns)
    columns[name] = column
    return name


def _kind(role: str) -> str:
    role = role.rstrip("0123456789").rstrip("_")
    return "channels" if role in CHANNELS or role == "size" else role


def _free(name: str, taken: dict[str, Column]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found
