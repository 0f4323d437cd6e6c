"""What studies of many trainings share: base networks, random trees, a command, a report."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import facts
from pathnas import evaluators
from pathnas.auditing import random_candidates
from pathnas.config import Config
from pathnas.evaluators import Training
from pathnas.outcomes import Candidate, Trained
from pathnas.plan import Plan

Base = tuple[Plan, Training, Trained, list[Candidate]]
"""A trained base network, and the trees that are grown from it."""


def bases(load: Callable[[str], Config], options: argparse.Namespace) -> Iterator[Base]:
    """Yields the base networks of several seeds; their files are gone when the next one comes.

    Args:
        load: from an override that names the seed to the config.
        options: of :func:`run`; the trees are dealt out to the base networks.
    """
    each = -(-options.trees // options.bases)
    for number in range(options.bases):
        plan = Plan.of(load(f"seed={options.seed + number}"))
        candidates = random_candidates(plan.limits, options.trees, options.seed)
        with tempfile.TemporaryDirectory() as folder:
            setting = plan.prepare(Path(folder))
            base = plan.base_training(setting, Path(folder) / "base.safetensors")
            trained = evaluators.train(base)
            yield plan, base, trained, candidates[number * each : (number + 1) * each]


def run(
    name: str,
    description: str,
    names: Sequence[str],
    measure: Callable[[str, argparse.Namespace], dict[str, Any]],
    tables: Callable[[dict[str, Any]], str],
    own: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
) -> None:
    """Runs a study as a command: prints its tables and writes all that it found.

    Args:
        name: of the study, and of the file that is written.
        description: of the command.
        names: of the data sets.
        measure: runs the study on one of them; has ``bases`` and ``seconds`` among others.
        tables: of what that found.
        own: adds the study's own options.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", nargs="+", choices=names, default=list(names))
    parser.add_argument("--trees", type=int, default=24, help="random trees (default: 24)")
    parser.add_argument("--bases", type=int, default=3, help="base networks (default: 3)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the first base (default: 0)")
    parser.add_argument("--set", nargs="*", default=[], help="key=value of the experiment")
    file = Path("runs") / f"{name}.json"
    parser.add_argument("--json", type=Path, default=file, help="file to write")
    own(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(facts())
    found = {}
    for data in options.data:
        found[data] = measure(data, options)
        accuracies = ", ".join(f"{accuracy:.3f}" for accuracy in found[data]["bases"])
        print(f"\n{data}: base networks {accuracies}; {found[data]['seconds']} s\n")
        print(tables(found[data]), flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    asked = {key: str(value) for key, value in vars(options).items()}
    report = {"machine": facts(), "options": asked, "data": found}
    options.json.write_text(json.dumps(report, indent=1, default=asdict) + "\n", encoding="utf-8")
