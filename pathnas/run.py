"""The command line of a search: ``python -m pathnas.run experiments/digits.yaml key=value``."""

# Worker processes import this module again as their main module, and threads are set before torch
# is imported: so the rest of the library is imported inside `main`.
from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathnas.executors import THREADS

if TYPE_CHECKING:
    from pathnas.config import Config

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DAMAGED = 3
EXIT_IN_USE = 4


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
    found.add_argument("--quiet", action="store_true", help="print only the result")
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
        return _fail(interrupted.exit_code, "interrupted")


def _command(options: argparse.Namespace) -> int:
    from pathnas.database import RecordError

    try:
        config = _config(options)
    except RecordError as error:
        return _fail(EXIT_DAMAGED, error)
    except (ValueError, FileNotFoundError) as error:
        return _fail(EXIT_USAGE, error)
    for number in range(1, config.search.rounds + 1):
        code, config = _round(config, options, number)
        if code:
            return code
    return 0


def _round(config: Config, options: argparse.Namespace, number: int) -> tuple[int, Config]:
    """Does a run, or what is left of it; returns the exit code and the config of the next round."""
    from pathnas import experiment, folder, plan
    from pathnas.config import ConfigError
    from pathnas.console import Console
    from pathnas.database import RecordError

    try:
        planned = plan.Plan.of(config)
    except (ValueError, FileNotFoundError, ImportError) as error:
        return _fail(EXIT_USAGE, error), config
    try:
        with folder.open_run(config, new=options.new and number == 1) as store:
            try:
                summary = experiment.run(planned, store, Console(quiet=options.quiet))
            except KeyboardInterrupt:
                print(f"to continue: python -m pathnas.run --resume {store.path}", file=sys.stderr)
                raise
            with store.database.understanding("the summary"):
                text = result(summary)
            print(text)
            return 0, folder.next_round(store.config, store.path, number + 1)
    except folder.FolderInUse as error:
        return _fail(EXIT_IN_USE, error), config
    except RecordError as error:
        return _fail(EXIT_DAMAGED, error), config
    except ConfigError as error:
        return _fail(EXIT_USAGE, error), config
    except (RuntimeError, OSError, ValueError) as error:
        return _fail(EXIT_FAILED, f"the run failed: {error}"), config


def _fail(code: int, why: object) -> int:
    print(why, file=sys.stderr)
    return code


def _config(options: argparse.Namespace) -> Config:
    from pathnas import config, folder

    if options.resume is None:
        if options.extend is not None:
            raise ValueError("--extend needs --resume FOLDER")
        if options.config is None:
            raise ValueError("expected a YAML file or --resume FOLDER; see --help")
        return config.load(options.config, options.overrides)
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
    found = folder.resumed(Path(options.resume), overrides, extend)
    if extend and found.search.rounds > 1:
        raise ValueError(
            f"--extend: expected search.rounds=1, got {found.search.rounds}: later rounds stand on "
            f"the network that the first has found"
        )
    return found


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
