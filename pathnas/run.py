"""The command line of a search: ``python -m pathnas.run experiments/digits.yaml key=value``."""

# Worker processes import this module again as their main module, and threads are set before torch
# is imported: so the rest of the library is imported inside `main`.
from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathnas import console
from pathnas.executors import THREADS
from pathnas.exits import EXIT_DAMAGED, EXIT_FAILED, EXIT_IN_USE, EXIT_USAGE, fail

if TYPE_CHECKING:
    from pathnas.config import Config


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m pathnas.run",
        description="Search for a better network by growing one that works. The same command "
        "again continues a run that was broken off.",
        epilog="examples: python -m pathnas.run experiments/digits.yaml search.trials=40 seed=1; "
        "python -m pathnas.run --resume runs/digits --extend trials=50",
    )
    found.add_argument("config", nargs="?", help="YAML file of the experiment")
    found.add_argument(
        "overrides", nargs="*", metavar="key=value", help="override of a key, dotted"
    )
    found.add_argument("--resume", metavar="FOLDER", help="continue the run of this folder")
    found.add_argument("--extend", metavar="trials=N", help="with --resume: enlarge the budget")
    found.add_argument(
        "--new", action="store_true", help="begin another run beside those of the same name"
    )
    console.add_options(found)
    found.add_argument("--json", action="store_true", help="print the summary alone, as JSON")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = parser().parse_intermixed_args(arguments)
    os.environ.update(THREADS)
    import torch

    from pathnas.interrupts import Interrupted, Interrupts

    torch.set_num_threads(1)
    try:
        with Interrupts():
            return _command(options)
    except Interrupted as interrupted:
        return fail(interrupted.exit_code, "interrupted")


def _command(options: argparse.Namespace) -> int:
    from pathnas import rounds
    from pathnas.database import RecordError

    try:
        settings = rounds.settings(_config(options))
    except RecordError as error:
        return fail(EXIT_DAMAGED, error)
    except (ValueError, FileNotFoundError) as error:
        return fail(EXIT_USAGE, error)
    except OSError as error:
        return fail(EXIT_FAILED, error)
    codes = (_round(config, options, last=config is settings[-1]) for config in settings)
    return next((code for code in codes if code), 0)


def _round(config: Config, options: argparse.Namespace, *, last: bool) -> int:
    """Does a run, or what is left of it, and returns the exit code."""
    from pathnas import experiment, folder, plan

    shown = console.Console(quiet=options.quiet or options.json, verbose=options.verbose)
    try:
        planned = plan.Plan.of(config)
    except (ValueError, FileNotFoundError, ImportError) as error:
        return fail(EXIT_USAGE, error)
    try:
        with folder.open_run(config) as store:
            try:
                summary = experiment.run(planned, store, shown)
            except KeyboardInterrupt:
                place = shlex.quote(str(store.path))
                print(f"to continue: python -m pathnas.run --resume {place}", file=sys.stderr)
                raise
            with store.database.understanding("the summary"):
                text = json.dumps(summary) if options.json else result(summary)
            _report(store.path)
    except (RuntimeError, OSError, ValueError) as error:
        shown.failed("the run", traceback.format_exc())
        return stopped(error, "run")
    if last or not options.json:
        print(text)
    return 0


def stopped(error: Exception, what: str) -> int:
    """Says what ended the work in a run's folder, and returns the exit code for it."""
    from pathnas.config import ConfigError
    from pathnas.database import RecordError
    from pathnas.folder import FolderInUse

    codes = {FolderInUse: EXIT_IN_USE, RecordError: EXIT_DAMAGED, ConfigError: EXIT_USAGE}
    for kind, code in codes.items():
        if isinstance(error, kind):
            return fail(code, error)
    return fail(EXIT_FAILED, f"the {what} failed: {error}")


def _report(path: Path) -> None:
    """Writes the report of a run that has ended, unless it has one; a fault ends no run."""
    from pathnas import report

    try:
        written, summary = path / report.NAME, path / "summary.json"
        if not written.exists() or written.stat().st_mtime < summary.stat().st_mtime:
            report.write(path)
    except Exception as error:  # whatever it is, the run itself has its result
        again = f"python -m pathnas.report {shlex.quote(str(path))}"
        print(
            f"warning: the report could not be written: {type(error).__name__}: {error}; "
            f"to try again: {again}",
            file=sys.stderr,
        )


def _config(options: argparse.Namespace) -> Config:
    from pathnas import config, folder

    if options.resume is None:
        if options.extend is not None:
            raise ValueError("--extend needs --resume FOLDER")
        if options.config is None:
            raise ValueError("expected a YAML file or --resume FOLDER; see --help")
        begun = config.load(options.config, options.overrides)
        return folder.another(begun) if options.new else begun
    if options.new:
        raise ValueError("--new begins a run and --resume continues one: give one of them")
    extend = 0
    if options.extend is not None:
        found = re.fullmatch(r"trials=([1-9][0-9]{0,5})", options.extend)
        if found is None:
            raise ValueError(f"--extend: expected trials=N with N >= 1, got {options.extend!r}")
        extend = int(found[1])
    # Without a file, the first override stands where the file would.
    overrides = [*([options.config] if options.config else []), *options.overrides]
    continued = folder.resumed(Path(options.resume), overrides, extend)
    if extend and continued.search.rounds > 1:
        raise ValueError(
            f"--extend: expected the last round's folder, got {options.resume}, on whose network "
            f"others stand"
        )
    return continued


def result(summary: dict[str, Any]) -> str:
    """Returns the summary as a table for a person."""
    lines = [f"{'network':<12}{'validation':>11}{'test':>9}{'parameters':>12}{'macs':>15}"]
    for name, row in summary["networks"].items():
        if "failed" in row:
            lines.append(f"{name:<12} {row['failed']}")
            continue
        test = f"{row['test']:.4f}" if "test" in row else "-"
        lines.append(
            f"{name:<12}{row['validation']:>11.4f}{test:>9}"
            f"{row['parameters']:>12,}{row['macs']:>15,}"
        )
    tree = f"best tree: {summary['networks']['best']['tree']}"
    return "\n".join([*lines, tree, f"all in {summary['folder']}"])


if __name__ == "__main__":
    sys.exit(main())
