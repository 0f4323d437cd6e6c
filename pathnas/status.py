"""The command line that looks at runs: ``python -m pathnas.status runs/digits``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathnas.exits import EXIT_DAMAGED, EXIT_USAGE, fail

if TYPE_CHECKING:
    from pathnas.facts import Facts


COLOURS = {"ended": 32, "running": 36, "broken off": 33}


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m pathnas.status",
        description="Show how runs are getting on. They are only read, and not disturbed.",
        epilog="examples: python -m pathnas.status; python -m pathnas.status runs/digits --json",
    )
    found.add_argument(
        "runs", nargs="*", metavar="FOLDER", help="folder of a run; default: all below runs/"
    )
    found.add_argument("--json", action="store_true", help="print JSON")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = parser().parse_args(arguments)
    from pathnas import facts
    from pathnas.database import RecordError
    from pathnas.store import RECORD

    folders = [Path(run) for run in options.runs]
    if not folders:
        folders = sorted(path.parent for path in Path("runs").glob(f"*/{RECORD}"))
    if not folders:
        return fail(EXIT_USAGE, "there is no run below runs/; give the folder of one")
    found, code = [], 0
    for folder in folders:
        try:
            found.append(status(facts.read(folder)))
        except (RecordError, OSError) as error:
            print(error, file=sys.stderr)
            code = EXIT_DAMAGED
    if options.json:
        print(json.dumps(found, indent=1))
    elif found:
        colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        print("\n\n".join(shown(one, colours=colours) for one in found))
    return code


def status(facts: Facts) -> dict[str, Any]:
    """Returns how a run is getting on, as values that JSON can hold.

    Of each search: `done`, `running`, `pending` and `failed` trials, and the `budget`; `best` is
    its best trial. `left` is what remains of the budgets of the search: `trials`, and `seconds` and
    `trial_seconds` where they are limited; `rate` is trials a minute. `ancestors` are the networks
    that the base network has grown from, and `rounds_left` is how many rounds come after this one.
    """
    search = facts.config["search"]
    searches: dict[str, dict[str, Any]] = {}
    for name, rows in facts.trials.items():
        if not rows:
            continue
        states, failed = facts.states(name), sum(facts.failures(name).values())
        # Nobody runs what a process that died had begun: it will be begun again.
        running = states["running"] if facts.state == "running" else 0
        searches[name] = {
            "budget": search["trials"] if name == "search" else len(facts.trials["search"]),
            "done": states["ok"] + failed,
            "failed": failed,
            "running": running,
            "pending": states["pending"] + states["running"] - running,
            "best": next(
                ({key: row[key] for key in SHOWN} for row in facts.best(name)),
                None,
            ),
        }
    seconds = facts.seconds.get("search", 0.0)
    rows = facts.trials["search"]
    spent = {"hours": seconds, "trial_hours": sum(row["seconds"] or 0.0 for row in rows)}
    ended = searches.get("search", {}).get("done", 0)
    left = {"trials": max(0, search["trials"] - ended)}
    for key, name in (("hours", "seconds"), ("trial_hours", "trial_seconds")):
        if search[key] is not None:
            left[name] = max(0.0, search[key] * 3600 - spent[key])
    return {
        "folder": str(facts.path),
        "name": facts.name,
        "state": facts.state,
        "owner": facts.owner,
        "phase": facts.phase,
        "ancestors": facts.ancestors,
        "rounds_left": search.get("rounds", 1) - 1,
        "seconds": facts.seconds.get("run", 0.0),
        "searches": searches,
        "left": left,
        "rate": 60 * ended / seconds if seconds and ended else None,
        "errors": len(facts.errors),
        "networks": None if facts.summary is None else facts.summary["networks"],
    }


SHOWN = ("number", "key", "accuracy", "reward", "macs", "parameters")
"""Of a best trial."""


def shown(one: dict[str, Any], *, colours: bool) -> str:
    """Returns what :func:`status` found as lines for a person."""
    state = one["state"]
    if colours:
        state = f"\033[{COLOURS[one['state']]}m{state}\033[0m"
    owner = one["owner"] if one["state"] == "running" else None
    who = f" (process {owner['pid']} on {owner['host']})" if owner else ""
    lines = [f"{one['folder']}: {state}{who}, {one['seconds']:,.0f} s of work"]
    if one["ancestors"]:
        parent = one["ancestors"][-1]
        lines.append(f"  grown    from {parent['folder']}: {parent['tree']}")
    if one["state"] != "ended":
        lines.append(f"  phase    {one['phase']}")
    for name, search in one["searches"].items():
        counts = [f"{search['done']} of {search['budget']} trees done"]
        counts += [
            f"{search[kind]} {kind}" for kind in ("running", "pending", "failed") if search[kind]
        ]
        lines.append(f"  {name:<8} {', '.join(counts)}")
        if best := search["best"]:
            cost = f", {best['macs']:,} multiply-adds" if best["macs"] else ""
            lines.append(f"           best {best['accuracy']:.4f}{cost}: {best['key']}")
    if one["networks"] is not None:
        best = one["networks"]["best"]
        lines.append(f"  result   test accuracy {best['test']:.4f}: {best['tree']}")
    elif one["phase"] in ("data", "base", "search"):
        lines.append(f"  left     {_left(one)}")
    if one["rounds_left"]:
        lines.append(f"  rounds   {one['rounds_left']} more after this one, by the same command")
    if one["state"] == "broken off":
        lines.append(f"  go on    python -m pathnas.run --resume {shlex.quote(one['folder'])}")
    return "\n".join(lines)


def _left(one: dict[str, Any]) -> str:
    left = one["left"]
    parts = [f"{left['trials']} trees"]
    if one["rate"]:
        seconds = 60 * left["trials"] / one["rate"]
        parts[0] += f" (about {seconds:,.0f} s at {one['rate']:.1f} a minute)"
    if "seconds" in left:
        parts.append(f"{left['seconds']:,.0f} s of the search")
    if "trial_seconds" in left:
        parts.append(f"{left['trial_seconds']:,.0f} s of trials")
    return ", at most ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
