"""Reading the record of a run, finished or not, without disturbing it.

``pandas.DataFrame(results.trials("runs/digits"))`` is the table of all trials.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from pathnas.database import Database, look
from pathnas.store import RECORD

COLUMNS = (
    *("search", "number", "update", "key", "state", "attempt", "status", "accuracy", "loss"),
    *("reward", "macs", "parameters", "seconds", "images", "stopped", "seed", "copied", "error"),
)
"""Of the table of trials; what is not known yet is None."""


def trials(run: str | Path) -> list[dict[str, Any]]:
    """Returns one row for each trial of a run's searches, with the keys of :data:`COLUMNS`.

    Args:
        run: folder of the run.

    Raises:
        RecordError: if there is no sound record.
        OSError: if it cannot be read.
    """
    return look(Path(run) / RECORD, rows)


def rows(database: Database) -> list[dict[str, Any]]:
    """Returns what :func:`trials` does, from an open record."""
    ended = {(row["search"], row["number"]): row for row in database.rows("outcomes")}
    found = []
    for trial in database.rows("trials", "search DESC, number"):
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row |= {name: trial[name] for name in ("search", "number", "key", "state", "attempt")}
        row["update"] = trial["proposed"]
        if outcome := ended.get((trial["search"], trial["number"])):
            values = json.loads(outcome["outcome"])
            row |= {name: values[name] for name in COLUMNS if name in values}
            row |= {"reward": outcome["reward"], "copied": bool(outcome["copied"])}
        found.append(row)
    return found


def csv_text(database: Database) -> str:
    """Returns the table of trials as comma-separated values, with a line of names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(database))
    return text.getvalue()
