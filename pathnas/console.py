"""What a run prints: a bar with the time left, and one line for each thing that is done."""

# Commands make their parsers with it before threads are set: it imports no torch.
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from pathnas.outcomes import Candidate, Outcome


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--quiet`` and ``--verbose`` to the options of a command."""
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("--quiet", action="store_true", help="print only the result")
    how_much.add_argument(
        "--verbose",
        action="store_true",
        help="print, with the time, also what begins, how long it took, what each update of the "
        "controller did, and the tracebacks of what failed",
    )


class Console:
    """Prints lines to standard output and a progress bar to standard error.

    Args:
        quiet: print nothing.
        verbose: print details too, unless it is quiet.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose and not quiet
        self._bar: tqdm[Any] | None = None

    def line(self, text: str = "") -> None:
        """Prints one line, above the bar if there is one."""
        if not self.quiet:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def detail(self, text: str) -> None:
        """Prints a line with the time of day, if the console is verbose."""
        if self.verbose:
            self.line(f"[{time.strftime('%H:%M:%S')}] {text}")

    def failed(self, what: str, traceback: str | None) -> None:
        """Prints where something failed, as far as that is known, if the console is verbose."""
        if self.verbose and traceback:
            self.detail(f"{what} failed:")
            self.line("    " + traceback.rstrip().replace("\n", "\n    "))

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Prints when a block begins and how long it took, if the console is verbose."""
        self.detail(f"{what} begins")
        start = time.perf_counter()
        try:
            yield
        finally:
            self.detail(f"{what} took {time.perf_counter() - start:.1f} s")

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
        if not sys.stderr.isatty():
            settings["mininterval"] = 10.0  # in a file every step is a line
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
        self.failed(candidate.key, outcome.traceback)
        if outcome.macs is not None:
            self.detail(
                f"{outcome.seconds:.1f} s, {outcome.images:,} images, {outcome.macs:,} "
                f"multiply-adds, training loss {outcome.curve[-1] if outcome.curve else '?':.4}"
            )
        self.advance()
