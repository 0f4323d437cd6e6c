"""The command line that continues a run: ``python -m pathnas.resume runs/digits``."""

# Worker processes import this module again as their main module: it imports no torch.
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pathnas import console, run


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m pathnas.resume",
        description="Continue a run that was broken off, or enlarge its budget.",
        epilog="example: python -m pathnas.resume runs/digits --extend trials=50",
    )
    found.add_argument("folder", metavar="FOLDER", help="folder of the run")
    found.add_argument(
        "overrides", nargs="*", metavar="key=value", help="override of a key that may change"
    )
    found.add_argument("--extend", metavar="trials=N", help="enlarge the budget")
    console.add_options(found)
    found.add_argument("--json", action="store_true", help="print the summary alone, as JSON")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = parser().parse_intermixed_args(arguments)
    words = ["--resume", options.folder, *options.overrides]
    if options.extend is not None:
        words += ["--extend", options.extend]
    words += [f"--{name}" for name in ("quiet", "verbose", "json") if getattr(options, name)]
    return run.main(words)


if __name__ == "__main__":
    sys.exit(main())
