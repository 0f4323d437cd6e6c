"""Expressions of generated source: text with holes for whole numbers, and how it is laid out.

Two modules of one structure differ in nothing but whole numbers (widths, strides). Their source is
the same expression, whose :class:`Hole` objects are filled with literals or with the names of
constructor arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import TypeAlias

import torch

WIDTH = 100
INDENT = "    "


@dataclass(frozen=True)
class Hole:
    """A whole number, and the name of the argument that it is given as."""

    value: int
    role: str = ""


@dataclass(frozen=True)
class Arg:
    """An argument: left out if its text is that of the default."""

    value: Expr
    name: str | None = None
    default: str | None = None


@dataclass(frozen=True)
class Call:
    """Anything with arguments between brackets: calls, lists, tuples, subscripts.

    Attributes:
        head: what stands before the bracket.
        args: the arguments.
        brackets: the pair.
        broken: whether each argument has a line of its own, however short they are.
    """

    head: Expr
    args: tuple[Arg, ...] = ()
    brackets: str = "()"
    broken: bool = False


@dataclass(frozen=True)
class Infix:
    """Two operands and an operator; a larger `rank` binds closer."""

    operator: str
    left: Expr
    right: Expr
    rank: int


@dataclass(frozen=True)
class Join:
    """Parts one after another."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True)
class Slice:
    """A range within a subscript; an empty part is left out."""

    start: Expr
    stop: Expr


Expr: TypeAlias = "str | Hole | Call | Infix | Join | Slice"


def literal(value: object, role: str = "") -> Expr:
    """Returns a constant as an expression.

    Raises:
        ValueError: if it is none that can be written.
    """
    if isinstance(value, EllipsisType):
        return "..."
    if isinstance(value, bool | str) or value is None:
        text = repr(value)
        return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text else text
    if isinstance(value, int):
        return Hole(value, role)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, torch.dtype | torch.memory_format):
        return str(value)
    if isinstance(value, list | tuple):
        return sequence([literal(item, role) for item in value], tuple_=isinstance(value, tuple))
    raise ValueError(f"expected a number, text, dtype or list of them, got {value!r:.100}")


def sequence(items: list[Expr], *, tuple_: bool) -> Expr:
    """Returns a list or a tuple."""
    if tuple_ and len(items) == 1:
        return Join(("(", items[0], ",)"))
    return Call("", tuple(Arg(item) for item in items), "()" if tuple_ else "[]")


def holes(expr: Expr) -> Iterator[Hole]:
    """Yields the holes in the order in which :func:`fill` fills them."""
    match expr:
        case Hole():
            yield expr
        case Call():
            yield from holes(expr.head)
            for arg in expr.args:
                yield from holes(arg.value)
        case Infix():
            yield from holes(expr.left)
            yield from holes(expr.right)
        case Join():
            for part in expr.parts:
                yield from holes(part)
        case Slice():
            yield from holes(expr.start)
            yield from holes(expr.stop)


def fill(expr: Expr, texts: Iterator[str]) -> Expr:
    """Returns the expression with a text in the place of each hole."""
    match expr:
        case Hole():
            return next(texts)
        case Call():
            head = fill(expr.head, texts)
            args = tuple(replace(arg, value=fill(arg.value, texts)) for arg in expr.args)
            return replace(expr, head=head, args=args)
        case Infix():
            left = fill(expr.left, texts)
            return replace(expr, left=left, right=fill(expr.right, texts))
        case Join():
            return Join(tuple(fill(part, texts) for part in expr.parts))
        case Slice():
            start = fill(expr.start, texts)
            return Slice(start, fill(expr.stop, texts))
    return expr


def skeleton(expr: Expr) -> str:
    """Returns the expression's line with all holes alike; equal ones differ in numbers alone."""
    return line(fill(expr, iter(lambda: "#", "")), whole=True)


def line(expr: Expr, *, whole: bool = False) -> str:
    """Returns an expression without holes on one line; `whole`: defaults are written too."""
    match expr:
        case str():
            return expr
        case Call():
            return f"{line(expr.head, whole=whole)}{expr.brackets[0]}" + (
                ", ".join(_arguments(expr, whole)) + expr.brackets[1]
            )
        case Infix():
            left, right = line(expr.left, whole=whole), line(expr.right, whole=whole)
            if isinstance(expr.left, Infix) and expr.left.rank < expr.rank:
                left = f"({left})"
            if isinstance(expr.right, Infix) and expr.right.rank <= expr.rank:
                right = f"({right})"
            return f"{left} {expr.operator} {right}"
        case Join():
            return "".join(line(part, whole=whole) for part in expr.parts)
        case Slice():
            return _slice(line(expr.start, whole=whole), line(expr.stop, whole=whole))
    raise TypeError(f"expected an expression without holes, got {expr}")


def _slice(start: str, stop: str) -> str:
    """Spaces the colon as an operator where a bound is more than a name or a number."""
    wide = not all(part.isidentifier() or part.isdecimal() for part in (start, stop) if part)
    left, right = (" " if wide and part else "" for part in (start, stop))
    return f"{start}{left}:{right}{stop}"


def grouped(expr: Expr) -> Expr:
    """Returns the expression so that an attribute or a subscript can follow it."""
    return Join(("(", expr, ")")) if isinstance(expr, Infix | Hole) else expr


def _shown(call: Call, whole: bool = False) -> list[Arg]:
    return [
        arg
        for arg in call.args
        if whole or arg.default is None or line(arg.value, whole=whole) != arg.default
    ]


def _arguments(call: Call, whole: bool) -> list[str]:
    return [
        (f"{arg.name}=" if arg.name else "") + line(arg.value, whole=whole)
        for arg in _shown(call, whole)
    ]


def layout(expr: Expr, indent: str = "", before: str = "", after: str = "") -> str:
    """Lays an expression without holes out over as few lines as the width allows.

    Args:
        expr: without holes.
        indent: of the first line.
        before: text on the first line, such as ``"x = "``.
        after: text on the last line, such as ``","``.
    """
    flat = f"{indent}{before}{line(expr)}{after}"
    if not isinstance(expr, Call) or not _shown(expr):
        return flat
    if len(flat) <= WIDTH and not _breaks(expr):
        return flat
    open_, close = expr.brackets[0], expr.brackets[1]
    inner = indent + INDENT
    items = [
        layout(arg.value, inner, f"{arg.name}=" if arg.name else "", ",") for arg in _shown(expr)
    ]
    lines = [f"{indent}{before}{line(expr.head)}{open_}", *_repeats(items, inner)]
    return "\n".join([*lines, f"{indent}{close}{after}"])


def _breaks(expr: Expr) -> bool:
    return isinstance(expr, Call) and (
        expr.broken or any(_breaks(arg.value) for arg in _shown(expr))
    )


def _repeats(items: list[str], indent: str) -> list[str]:
    """Writes three or more equal modules in a row as a generator; each is still made anew."""
    found: list[str] = []
    start = 0
    while start < len(items):
        stop = start
        while stop < len(items) and items[stop] == items[start]:
            stop += 1
        once = items[start].strip().removesuffix(",")
        text = f"{indent}*({once} for _ in range({stop - start})),"
        if stop - start > 2 and once.endswith(")") and "\n" not in once and len(text) <= WIDTH:
            found.append(text)
        else:
            found.extend(items[start:stop])
        start = stop
    return found
