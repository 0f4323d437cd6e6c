"""Notes, events and trainings of a run, and fingerprints of jobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pathnas import config, files
from pathnas import tree as trees
from pathnas.folder import open_run
from pathnas.store import Store, fingerprint
from tests.stub_run import SMOKE


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_run(config.load(SMOKE, [f"runs={tmp_path}"])) as found:
        yield found


def test_notes_are_kept_and_replaced(store: Store) -> None:
    assert store.meta("a") is None
    store.note(a=1, b=[0.1, None])
    store.note(a={"x": "ü"})
    assert (store.meta("a"), store.meta("b")) == ({"x": "ü"}, [0.1, None])


def test_a_training_counts_for_its_job_while_its_files_are_whole(store: Store) -> None:
    path = files.write(store.path / "weights" / "base", b"weights")
    store.put_training("base", "job", {"value": 0.1}, [path])
    assert store.trained("base", "job", [path]) == {"value": 0.1}
    assert store.trained("base", "another job", [path]) is None
    assert store.trained("best", "job", [path]) is None
    assert store.notes == []
    path.write_bytes(b"weightz")
    assert store.trained("base", "job", [path]) is None
    assert store.notes.pop() == f"{path} is damaged: base is done again"
    path.unlink()
    assert store.trained("base", "job", [path]) is None
    assert store.notes.pop() == f"{path} is missing: base is done again"


def test_events_are_told_in_order(store: Store) -> None:
    store.event("paused", "for lunch")
    told = [(row["kind"], row["text"]) for row in store.database.rows("events")]
    assert told == [("begun", ""), ("paused", "for lunch")]


@dataclass(frozen=True)
class Job:
    tree: trees.Node
    save: Path
    epochs: int = 3
    learning_rate: float = 0.1
    threads: int = field(default=1, metadata={"decides": False})


def test_a_fingerprint_tells_jobs_apart_but_not_where_their_files_stand() -> None:
    job = Job(trees.BASE_TREE, Path("/runs/a/weights/base"))
    first = fingerprint(job)
    assert fingerprint(replace(job, threads=2)) == first
    assert fingerprint(replace(job, save=Path("/moved/weights/base"))) == first
    others = [
        replace(job, save=Path("/runs/a/weights/other")),
        replace(job, epochs=4),
        replace(job, learning_rate=0.1 + 1e-12),
    ]
    assert len({first, *map(fingerprint, others)}) == 4


@dataclass(frozen=True)
class Trial:
    recipe: config.TrialRecipe


def test_a_setting_that_came_later_is_no_part_of_a_fingerprint_by_its_default() -> None:
    recipe = config.TrialRecipe()
    before = {"recipe": recipe.model_dump(exclude={"average_fraction"})}
    text = json.dumps(before, sort_keys=True)
    assert fingerprint(Trial(recipe)) == hashlib.sha256(text.encode()).hexdigest()
    averaged = Trial(recipe.model_copy(update={"average_fraction": 0.5}))
    assert fingerprint(averaged) != fingerprint(Trial(recipe))
