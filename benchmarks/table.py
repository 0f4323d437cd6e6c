"""One table of what the benchmarks measured: rows, as text and as JSON.

A benchmark module makes :class:`Row` values of its figures and hands them to :func:`save`;
``python -m benchmarks`` runs the modules, reads what they saved and prints :func:`lines`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import Facts


@dataclass(frozen=True)
class Row:
    """A figure of ours beside its reference, both measured in one run.

    Attributes:
        what: was measured.
        unit: of both figures.
        ours: median.
        against: the reference, in words; empty: there is none.
        reference: median of the reference.
        ratio: median over the pairs, or of the medians, of the two in the order that the aim
            speaks of.
        aim: of the ratio, or of `ours` if there is no ratio; None: it stands for itself.
        most: whether the aim is the most that it may be, rather than the least.
        floor: what the operations alone would take at the measured rate of matrix products, in
            the same unit; None: it says nothing here.
    """

    what: str
    unit: str
    ours: float
    against: str = ""
    reference: float | None = None
    ratio: float | None = None
    aim: float | None = None
    most: bool = False
    floor: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None without one."""
        if self.aim is None:
            return None
        value = self.ours if self.ratio is None else self.ratio
        return value <= self.aim if self.most else value >= self.aim


def add_option(parser: argparse.ArgumentParser) -> None:
    """Gives a benchmark's command the option ``--rows``."""
    parser.add_argument("--rows", type=Path, help="file for the rows of the one table (JSON)")


def save(path: Path | None, rows: Iterable[Row]) -> None:
    """Writes rows to a file for :func:`load`; None: nowhere."""
    if path is not None:
        path.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")


def load(path: Path) -> list[Row]:
    """Reads rows that :func:`save` wrote."""
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def lines(rows: Sequence[Row], facts: Facts) -> list[str]:
    """Returns the table as text, the machine first."""
    heads = ("what", "ours", "reference", "floor", "ratio", "aim", "")
    cells = [heads, *map(_cells, rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(heads))]
    found = []
    for row, against in zip(cells, ["against", *(row.against for row in rows)], strict=True):
        name = row[0].ljust(widths[0])
        figures = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        found.append("  ".join((name, *figures, against)).rstrip())
    return [facts.line(), *found]


def _cells(row: Row) -> tuple[str, ...]:
    sign = "<=" if row.most else ">="
    return (
        row.what,
        f"{_number(row.ours)} {row.unit}",
        _number(row.reference),
        _number(row.floor),
        _number(row.ratio),
        "" if row.aim is None else f"{sign} {_number(row.aim)}",
        {True: "met", False: "missed", None: ""}[row.met],
    )


def _number(value: float | None) -> str:
    """Returns three digits that matter."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def document(rows: Sequence[Row], facts: Facts) -> dict[str, Any]:
    """Returns the table as a value for JSON: what was measured on, and every row."""
    return {"machine": asdict(facts), "rows": [asdict(row) | {"met": row.met} for row in rows]}


def write(path: Path, rows: Sequence[Row], facts: Facts) -> None:
    """Writes :func:`document`; a file that is there is replaced in one step."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(document(rows, facts), indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
