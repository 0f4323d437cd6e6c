"""A whole run in this process, as `python -m pathnas.run` does it."""

from __future__ import annotations

from typing import Any

from pathnas import experiment
from pathnas.config import Config
from pathnas.console import Console
from pathnas.folder import open_run
from pathnas.plan import Plan


def run(settings: Config) -> dict[str, Any]:
    """Begins or continues a run, quietly, and returns its summary."""
    plan = Plan.of(settings)
    with open_run(settings) as store:
        return experiment.run(plan, store, Console(quiet=True))
