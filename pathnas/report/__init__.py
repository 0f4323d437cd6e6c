"""Reports: what a run found, as one HTML file that needs no server and no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pathnas import facts, files

__all__ = ["NAME", "write", "write_comparison"]

NAME = "report.html"


def write(run: str | Path, to: Path | None = None) -> Path:
    """Writes the report of a run, finished or not, and returns where.

    Args:
        run: folder of the run; it is only read, but for the report.
        to: file to write; default: ``report.html`` in that folder.

    Raises:
        RecordError: if there is no sound record.
        OSError: if a file cannot be read or written.
    """
    from pathnas.report import pages

    found = facts.read(run)
    return files.write(Path(run) / NAME if to is None else to, pages.run_page(found))


def write_comparison(runs: Sequence[str | Path], to: Path) -> Path:
    """Writes a page that puts runs side by side, and returns where.

    Args:
        runs: folders of at least two runs.
        to: file to write.

    Raises:
        RecordError: if there is no sound record of one.
        OSError: if a file cannot be read or written.
        ValueError: if there are fewer than two runs.
    """
    from pathnas.report import pages

    return files.write(to, pages.comparison_page([facts.read(run) for run in runs]))
