"""A search that is written down goes on as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pathnas import controllers
from pathnas.controllers.rollout import rollout
from pathnas.database import Database, RecordError
from pathnas.ledger import KEPT_LEARNERS, Ledger, Resumed
from pathnas.limits import Limits
from pathnas.outcomes import Outcome, Reward
from pathnas.search import Budget, Progress, Proposal, Update, search
from pathnas.surrogate import Surrogate
from tests.stub_run import plain

LIMITS = Limits(depth=2)
REWARD = Reward("accuracy")


class Broken(Exception):
    """Stands in for a kill."""


class Search:
    """A search over the surrogate that is recorded, as the experiment does it.

    Args:
        database: of the run.
        breaks: number of the trial at whose start it breaks off.
    """

    def __init__(self, database: Database, breaks: int = -1) -> None:
        self.learner = controllers.make("reinforce", LIMITS.actions, seed=1, hidden=8, head=8)
        self.generator = torch.Generator().manual_seed(2)
        self.ledger = Ledger(database, "search", LIMITS)
        self.resumed = self.ledger.resume(self.learner, self.generator)
        self.breaks, self.ran = breaks, list[int]()

    def run(self, trials: int) -> list[Update]:
        done = list(self.resumed.updates)
        for update in search(
            self.learner,
            LIMITS,
            self.evaluate,
            REWARD,
            self.resumed.progress,
            budget=Budget(trials, 20),
            episodes=3,
            generator=self.generator,
            propose=lambda proposal: self.ledger.propose(proposal, self.generator),
        ):
            self.ledger.learned(update, self.learner, 1.0)
            done.append(update)
        return done

    def evaluate(self, proposal: Proposal) -> list[Outcome]:
        found = []
        for number, candidate in enumerate(proposal.fresh, start=proposal.trial):
            if candidate.key in self.resumed.outcomes:
                found.append(self.resumed.outcomes[candidate.key])
                continue
            if number == self.breaks:
                raise Broken
            attempt = self.ledger.start(number)
            self.ran.append(number)
            outcome = Surrogate()(candidate)
            self.ledger.finish(number, attempt, outcome, REWARD(outcome))
            found.append(outcome)
        return found

    def state(self) -> Any:
        """All that the future of the search depends on."""
        return plain(self.learner.state_dict()), self.generator.get_state().tolist()


@pytest.fixture
def open_record(tmp_path: Path) -> Iterator[Any]:
    opened = []

    def open_one(name: str = "record", create: bool = True) -> Database:
        path = tmp_path / name / "record.sqlite"
        path.parent.mkdir(exist_ok=True)
        opened.append(Database(path, create=create))
        return opened[-1]

    yield open_one
    for database in opened:
        database.close()


def test_broken_off_anywhere_it_ends_the_same(open_record: Any) -> None:
    whole = Search(open_record("whole"))
    expected = whole.run(12)
    for breaks in range(0, 12, 3):
        first = Search(open_record(str(breaks)), breaks)
        with pytest.raises(Broken):
            first.run(12)
        second = Search(first.ledger.database)
        assert second.run(12) == expected
        assert second.state() == whole.state()
        assert first.ran + second.ran == whole.ran
        assert second.ledger.trials() == whole.ledger.trials()


def test_a_larger_budget_is_that_budget_at_once(open_record: Any) -> None:
    whole = Search(open_record("whole"))
    expected = whole.run(12)
    parts = Search(open_record("parts"))
    parts.run(6)
    parts = Search(parts.ledger.database)
    assert parts.run(12) == expected
    assert parts.state() == whole.state()


def test_a_damaged_state_of_the_learner_is_made_again(open_record: Any, tmp_path: Path) -> None:
    first = Search(open_record())
    expected = first.run(12)
    newest = tmp_path / "record" / "checkpoints" / f"search-{len(expected) - 1}.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    again = Search(first.ledger.database)
    assert again.resumed.lost == 1
    assert again.run(12) == expected
    assert again.ran == []
    assert again.state() == first.state()
    assert len(list(newest.parent.iterdir())) == KEPT_LEARNERS


def resume(database: Database) -> Resumed:
    learner = controllers.make("random", LIMITS.actions)
    return Ledger(database, "search", LIMITS).resume(learner, torch.Generator())


@pytest.mark.parametrize("table", ["episodes", "trials", "updates", "generators"])
def test_rows_that_are_missing_are_noticed(open_record: Any, table: str) -> None:
    database = Search(open_record()).ledger.database
    Search(database).run(6)
    database.execute(f"DELETE FROM {table} WHERE rowid = 1")
    with pytest.raises(RecordError, match="is damaged"):
        resume(database)


def proposed(database: Database) -> Ledger:
    """A ledger with a proposal that waits."""
    ledger = Ledger(database, "search", LIMITS)
    learner, generator = controllers.make("random", LIMITS.actions), torch.Generator()
    episodes = rollout(learner.controller, LIMITS, 4, generator.manual_seed(0))
    ledger.propose(Progress().propose(episodes, lambda key: False), generator)
    return ledger


def test_only_the_attempt_that_runs_is_heard(open_record: Any) -> None:
    ledger, outcome = proposed(open_record()), Outcome("ok", accuracy=0.5)
    assert ledger.start(0) == 1
    assert ledger.start(0) == 2
    with pytest.raises(RecordError, match="trial 0: attempt 1 is not the one that runs"):
        ledger.finish(0, 1, outcome, 0.5)
    ledger.finish(0, 2, outcome, 0.5)
    with pytest.raises(RecordError, match="attempt 2 is not the one that runs"):
        ledger.finish(0, 2, outcome, 0.7)
    assert [row["reward"] for row in ledger.database.rows("outcomes")] == [0.5]


def test_costs_are_those_of_trials_that_ran_here(open_record: Any) -> None:
    ledger = proposed(open_record())
    ledger.finish(0, ledger.start(0), Outcome("ok", accuracy=0.5, seconds=1.5, images=7), 0.5)
    ledger.finish(1, ledger.start(1), Outcome("diverged", seconds=2.5, images=3), 0.0)
    ledger.copy(2, Outcome("ok", accuracy=0.6, seconds=100.0, images=100), 0.6)
    assert (ledger.trial_seconds(), ledger.images()) == (4.0, 10)
    assert [row["status"] for row in ledger.database.rows("errors")] == ["diverged"]


def test_curves_are_kept_and_older_outcomes_have_none(open_record: Any) -> None:
    ledger = proposed(open_record())
    outcomes = [Outcome("ok", accuracy=0.5, curve=(1.5, 0.1 + 0.2)), Outcome("ok", accuracy=0.6)]
    ledger.finish(0, ledger.start(0), outcomes[0], 0.5)
    ledger.put_rung(0, 2, ledger.trials()[0].candidate, outcomes[0])
    older = json.dumps({"status": "ok", "accuracy": 0.6})
    row = {"search": "search", "number": 1, "status": "ok", "outcome": older}
    ledger.database.put("outcomes", **row, reward=0.5, copied=0)
    assert [trial.outcome for trial in ledger.trials()] == outcomes
    assert ledger.rung(0, 2) == outcomes[0]


def test_failures_that_are_forgotten_run_again(open_record: Any) -> None:
    ledger = proposed(open_record())
    ledger.finish(0, ledger.start(0), Outcome("failed", error="no luck"), 0.0)
    ledger.finish(1, ledger.start(1), Outcome("ok", accuracy=0.5), 0.5)
    ledger.forget(resume(ledger.database).progress.waiting)
    found = resume(ledger.database)
    assert len(found.outcomes) == 1
    states = [row["state"] for row in ledger.database.rows("trials", "number")]
    assert states[:2] == ["pending", "done"]
