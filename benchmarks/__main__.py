"""All benchmarks and one table of what they found: ``python -m benchmarks [name ...]``.

Each module runs in a process of its own with one thread, one after another, as it does alone, and
hands its rows over. The table stands at the end and is written as JSON; what fails is named, the
others go on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import table
from benchmarks.machine import Facts
from benchmarks.table import Row

NAMES = ("controller", "rollout", "environment", "trials", "growth", "executors", "record", "run")
"""Modules that hand over rows; ``birth`` and ``inheriting`` are studies that take long, and
``latency`` asks how far a table can be trusted."""


def run(name: str) -> list[Row] | None:
    """Runs a benchmark; returns its rows, or None if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--rows", str(rows)]
        done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
        return table.load(rows) if done.returncode == 0 and rows.exists() else None


def main() -> int:
    """Runs what is asked for; returns 1 if a benchmark failed, else 0."""
    parser = argparse.ArgumentParser(description="all benchmarks, and one table")
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, default=Path("runs/bench.json"), help="of the table")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"expected names out of {', '.join(NAMES)}, got {', '.join(sorted(unknown))}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    load, rows, failed = os.getloadavg()[0], [], []
    for name in options.names or NAMES:
        print(f"\n== {name}", flush=True)
        found = run(name)
        rows += found or []
        failed += [name] if found is None else []
    facts = Facts.now(load)
    table.write(options.json, rows, facts)
    print("", *table.lines(rows, facts), f"also in {options.json}", sep="\n")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
