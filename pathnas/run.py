"""The command line of a search: ``python -m pathnas.run experiments/digits.yaml key=value``."""

# Worker processes import this module again as their main module, and threads are set before torch
# is imported: so the rest of the library is imported inside `main`.
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from pathnas.executors import THREADS

EXIT_USAGE = 2
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m pathnas.run",
        description="Search for a better network by growing one that works.",
        epilog="example: python -m pathnas.run experiments/digits.yaml search.trials=40 seed=1",
    )
    found.add_argument("config", help="YAML file of the experiment")
    found.add_argument(
        "overrides", nargs="*", metavar="key=value", help="override of a key, dotted"
    )
    found.add_argument("--quiet", action="store_true", help="print only the result")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = parser().parse_intermixed_args(arguments)
    os.environ.update(THREADS)
    import torch

    from pathnas import config, experiment, plan
    from pathnas.console import Console

    torch.set_num_threads(1)
    try:
        planned = plan.Plan.of(config.load(options.config, options.overrides))
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    try:
        summary = experiment.run(planned, Console(quiet=options.quiet))
    except (RuntimeError, OSError, ValueError) as error:
        print(f"the run failed: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(result(summary))
    return 0


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
