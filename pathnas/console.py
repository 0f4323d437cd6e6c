"""What a run prints: a bar with the time left, and one line for each thing that is done."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from pathnas.outcomes import Candidate, Outcome


class Console:
    """Prints lines to standard output and a progress bar to standard error.

    Args:
        quiet: print nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bar: tqdm[Any] | None = None

    def line(self, text: str = "") -> None:
        """Prints one line, above the bar if there is one."""
        if not self.quiet:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def notes(self, notes: list[str]) -> None:
        """Prints what a person should know, once: the list is emptied."""
        for note in notes:
            self.line(f"note: {note}")
        notes.clear()

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[None]:
        """Shows a bar until the block ends; :meth:`advance` moves it.

        Args:
            title: of the bar.
            total: where it ends.
            done: where it begins.
        """
        settings: dict[str, Any] = {"disable": self.quiet, "dynamic_ncols": True}
        with tqdm(total=total, initial=done, desc=title, **settings) as bar:
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    def advance(self) -> None:
        """Moves the bar by one; past its total, the total grows."""
        if self._bar is not None:
            if self._bar.total is not None and self._bar.n >= self._bar.total:
                self._bar.total = self._bar.n + 1
            self._bar.update()

    def trial(self, number: int, candidate: Candidate, outcome: Outcome, best: float) -> None:
        """Prints the line of a finished trial and moves the bar.

        Args:
            number: of trials finished, this one included.
            candidate: the tree.
            outcome: of its trial.
            best: highest validation accuracy so far.
        """
        if outcome.accuracy is None:
            what = f"{outcome.status}: {outcome.error}"
        else:
            what = f"accuracy {outcome.accuracy:.4f}  best {best:.4f}"
        self.line(f"{number:4d}  {what}  {candidate.key}")
        self.advance()
