"""The size of a search space and its costs: ``python -m pathnas.space experiments/x.yaml``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pathnas.exits import EXIT_USAGE, fail

if TYPE_CHECKING:
    from pathnas.counting import Space
    from pathnas.limits import Limits

SAMPLES = 1000
SEED = 0


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m pathnas.space",
        description="Print how many trees an experiment searches, what they cost, and whether its "
        "limits can be met. Nothing is trained.",
        epilog="example: python -m pathnas.space experiments/digits.yaml search.max_macs=1.5",
    )
    found.add_argument("config", help="YAML file of the experiment")
    found.add_argument("overrides", nargs="*", metavar="key=value", help="override of a key")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code; a limit below the base network's is bad input."""
    options = parser().parse_intermixed_args(arguments)
    import torch

    from pathnas import config, counting
    from pathnas.plan import Plan

    try:
        plan = Plan.of(config.load(options.config, options.overrides))
        limits = (plan.timed(plan.measured()) if plan.untimed else plan).limits
        generator = torch.Generator().manual_seed(SEED)
        found = counting.measure(limits, counting.random_trees(limits, SAMPLES, generator))
    except (ValueError, FileNotFoundError, ImportError) as error:
        return fail(EXIT_USAGE, error)
    print(report(found, limits))
    return 0


def report(space: Space, limits: Limits) -> str:
    """Returns what is known of a space as lines for a person."""
    stages = len(limits.stages)
    how = f"distinct choices of a tree for each of {stages} stages" if stages else "distinct trees"
    lines = [f"depth up to {depth}: {n:,} {how}" for depth, n in enumerate(space.counts, start=1)]
    timed = limits.latencies is not None
    titles = f"{'all cells together':<20}{'multiply-adds':>18}{'parameters':>16}"
    lines.append(titles + f"{'microseconds':>16}" * timed)
    for name, cost in (
        ("smallest (base)", space.smallest),
        ("median, random", space.median),
        ("largest", space.largest),
    ):
        line = f"{name:<20}{cost.macs:>18,}{cost.parameters:>16,}"
        lines.append(line + f"{cost.latency / 1000:>16,.1f}" * timed)
    bounds = [f"{n:,}" if n is not None else "-" for n in (limits.macs, limits.parameters)]
    line = f"{'limit':<20}{bounds[0]:>18}{bounds[1]:>16}"
    most = limits.nanoseconds
    lines.append(line + (f"{most / 1000:>16,.1f}" if most is not None else ""))
    lines.append(
        f"the limits can be met: the base tree does, and {space.within:.1%} of {SAMPLES} random "
        "trees drawn without them"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
