"""The command line of a full training: ``python -m pathnas.train runs/digits --to trained``.

Several processes: ``torchrun --standalone --nproc-per-node 2 -m pathnas.train ...``.
"""

# Threads are set before torch is imported: so the rest of the library is imported inside `main`.
from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathnas import console
from pathnas.executors import THREADS
from pathnas.exits import EXIT_DAMAGED, EXIT_FAILED, EXIT_IN_USE, EXIT_USAGE
from pathnas.interrupts import Interrupted, Interrupts

if TYPE_CHECKING:
    from pathnas.data import Source
    from pathnas.train_job import Job

_DONE = -1


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m pathnas.train",
        description="Train a found tree in full. The same command goes on with what was begun.",
        epilog="example: python -m pathnas.train runs/digits --to trained recipe.epochs=100",
    )
    found.add_argument("tree", help="run folder, best folder, a tree's JSON file or name")
    found.add_argument(
        "overrides", nargs="*", metavar="key=value", help="override of a setting, dotted"
    )
    found.add_argument("--recipe", help="name of a recipe, such as cifar10_300")
    found.add_argument("--config", type=Path, help="YAML file of settings")
    found.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write")
    console.add_options(found)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = parser().parse_intermixed_args(arguments)
    os.environ.update(THREADS)
    try:
        with Interrupts():
            return _command(options)
    except Interrupted as interrupted:
        message = f"interrupted by {interrupted}; the same command goes on where it stood"
        return _end(message, interrupted.exit_code)


def _command(options: argparse.Namespace) -> int:
    import torch

    from pathnas import evaluators, parallel, train_job, train_settings
    from pathnas.plugins import Plugins
    from pathnas.train_folder import TrainFolder

    torch.set_num_threads(1)
    try:
        found = train_settings.tree_of(options.tree)
        settings = train_settings.load(found, options.recipe, options.config, options.overrides)
        Plugins(settings.plugins)
        device = parallel.own_device(evaluators.resolve_device(settings.device))
    except (ValueError, OSError) as error:
        return _end(error, EXIT_USAGE)
    with parallel.joined(device) as group:
        job = train_job.Job(settings, found.tree, TrainFolder(options.to), group)
        quiet = options.quiet or not group.first
        return _train(job, console.Console(quiet=quiet, verbose=options.verbose))


def _train(job: Job, shown: console.Console) -> int:
    """Prepares in the first process, and trains in all."""
    from pathnas import full_training
    from pathnas.checkpoints import Damaged

    with ExitStack() as stack:
        code, test = _prepare(job, stack) if job.group.first else (0, None)
        code = job.group.told(code)
        if code:
            return 0 if code == _DONE else code
        try:
            found = full_training.run(job, test, console=shown)
        except Damaged as error:
            return _end(error, EXIT_DAMAGED)
        except (RuntimeError, FloatingPointError, OSError, ValueError) as error:
            shown.failed("the training", traceback.format_exc())
            return _end(f"the training failed: {error}", EXIT_FAILED)
    if job.group.first:
        print(result(found))
    return 0


def _prepare(job: Job, stack: ExitStack) -> tuple[int, Source | None]:
    """Checks everything, then writes; returns what to end with, or 0 and the test images."""
    from pathnas import train_job
    from pathnas.folder import FolderInUse

    folder = job.folder
    try:
        folder.check(job.settings, job.tree)
        known = folder.result()
        if known is not None:
            print(f"already trained\n{result(known)}")
            return _DONE, None
        splits = train_job.checked_splits(job)
        stack.enter_context(folder.locked())
        folder.begin(job.settings, job.tree, splits)
    except FolderInUse as error:
        return _end(error, EXIT_IN_USE), None
    except (ValueError, FileNotFoundError, ImportError) as error:
        return _end(error, EXIT_USAGE), None
    except OSError as error:
        return _end(error, EXIT_FAILED), None
    return 0, splits.test


def _end(message: object, code: int) -> int:
    """Says in the first process why the command ends; returns the exit code."""
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr)
    return code


def result(found: dict[str, Any]) -> str:
    """Returns the result of a training as lines for a person."""
    return "\n".join(
        [
            f"tree {found['tree']}",
            f"validation {found['validation']:.4f}  test {found['test']:.4f} "
            f"(once, {found['test_images']:,} images)  {found['parameters']:,} parameters  "
            f"{found['macs']:,} multiply-adds",
            f"all in {found['folder']}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
