"""What the record of a run keeps of one search, so that it can go on as if never stopped.

Before a batch is evaluated, its episodes and new trees are committed, with the generator's state;
each outcome as it arrives; and with each update, in one transaction, what it learned and the state
of the learner.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pathnas import checkpoints, files
from pathnas import tree as trees
from pathnas.controllers import Learner
from pathnas.controllers.rollout import replay
from pathnas.database import Database, RecordError
from pathnas.decisions import Limits
from pathnas.outcomes import Candidate, Outcome
from pathnas.search import Progress, Proposal, Record, Trial, Update
from pathnas.tree import Node

KEPT_LEARNERS = 2
"""States of the learner that are kept: if the newest is damaged, the one before it serves."""


Row = dict[str, Any]


@dataclass(frozen=True)
class Resumed:
    """What the ledger holds of a search.

    Attributes:
        progress: how far it came.
        updates: all that it did, in order.
        seconds: of the search, at the end of each update.
        outcomes: by key, of trials that ended but that no update has learned from.
        lost: updates whose learner state was damaged, and which are done again.
    """

    progress: Progress
    updates: list[Update]
    seconds: list[float]
    outcomes: dict[str, Outcome]
    lost: int = 0


class Ledger:
    """The rows of one search.

    Args:
        database: of the run.
        search: name of the search.
        limits: under which its episodes were rolled out.
    """

    def __init__(self, database: Database, search: str, limits: Limits) -> None:
        self.database = database
        self.search = search
        self.limits = limits
        self._memory = io.BytesIO()

    def resume(self, learner: Learner, generator: torch.Generator) -> Resumed:
        """Brings a learner and a generator to where the search was, and returns the rest.

        Args:
            learner: as new; given its state after the last update.
            generator: as new; given its state after the last proposal.

        Raises:
            RecordError: if a row is damaged and nothing can stand in for it.
        """
        with self.database.understanding(f"the {self.search}"):
            return self._resume(learner, generator)

    def _resume(self, learner: Learner, generator: torch.Generator) -> Resumed:
        episodes, proposed, updates = map(self._whole, ("episodes", "trials", "updates"))
        lost = self._restore(learner, len(updates))
        updates = updates[: len(updates) - lost]
        trials = self._ended(proposed)
        learned = {n for update in updates for n in json.loads(update["episodes"])}
        left = [row for row in episodes if row["number"] not in learned]
        waiting = self._waiting(left, {row["key"]: row for row in proposed})
        known = {trial.candidate.key: trial for trial in trials}
        pending = {c.key for proposal in waiting for c in proposal.fresh}
        ended = {key: known[key].outcome for key in pending if key in known}
        record = Record({key: trial for key, trial in known.items() if key not in pending})
        if episodes:
            [row] = self.database.rows("generators", search=self.search)
            generator.set_state(torch.frombuffer(bytearray(row["state"]), dtype=torch.uint8))
        progress = Progress(record, proposed=len(episodes), trials=len(proposed), waiting=waiting)
        new = {row["number"]: row["key"] for row in episodes if row["fresh"]}
        done = [_update(row, record, new) for row in updates]
        for update in done:
            progress.learned(update)
        return Resumed(progress, done, [float(row["seconds"]) for row in updates], ended, lost)

    def _whole(self, table: str) -> list[Row]:
        """Returns the rows of a table in order.

        Raises:
            RecordError: if a row has been lost from between the others: they are numbered from 0.
        """
        missing = self.database.number(
            f"SELECT coalesce(max(number), -1) + 1 - count(*) FROM {table} WHERE search = ?",
            self.search,
        )
        if missing:
            raise RecordError(
                f"{self.database.path} is damaged: {table} of the {self.search} are missing"
            )
        return list(self.database.rows(table, "number", search=self.search))

    def trials(self) -> list[Trial]:
        """Returns the trials that have ended, in order of proposal.

        Raises:
            RecordError: if a row is damaged.
        """
        with self.database.understanding(f"the {self.search}"):
            return self._ended(list(self.database.rows("trials", "number", search=self.search)))

    def _ended(self, proposed: Iterable[Row]) -> list[Trial]:
        outcomes = {
            row["number"]: row for row in self.database.rows("outcomes", search=self.search)
        }
        found = []
        for row in proposed:
            if ended := outcomes.get(row["number"]):
                outcome = Outcome(**json.loads(ended["outcome"]))
                candidate = self._candidate(row)
                found.append(
                    Trial(row["number"], row["proposed"], candidate, outcome, ended["reward"])
                )
        return found

    def _candidate(self, row: Row) -> Candidate:
        """Returns the candidate of a trial; thousands of trees are not parsed to draw a few."""

        def read() -> Node:
            with self.database.understanding(f"the {self.search}"):
                return trees.from_json(row["tree"])

        return Candidate.recorded(row["key"], read)

    def _restore(self, learner: Learner, updates: int) -> int:
        """Loads the newest sound state of the learner; returns how many updates are lost."""
        for lost in range(min(updates, KEPT_LEARNERS)):
            state = self._state(updates - lost - 1)
            if state is not None:
                learner.load_state_dict(state)
                return lost
        if updates > KEPT_LEARNERS:
            raise RecordError(
                f"{self.database.path} is damaged: no sound state of the learner of the "
                f"{self.search} is left"
            )
        return updates  # the search has hardly begun: it learns again from its first update

    def _state(self, number: int) -> dict[str, Any] | None:
        """Returns the learner after an update as it was saved, or None if that is damaged."""
        try:
            [row] = self.database.rows("learners", search=self.search, number=number)
            state = self._file(number).read_bytes()
        except (RecordError, ValueError, OSError):
            return None
        if hashlib.sha256(state).hexdigest() != row["sha256"]:
            return None
        try:
            loaded: dict[str, Any] = torch.load(io.BytesIO(state), weights_only=True)
        except Exception:  # torch raises what it likes; a pickle that would run code ends here too
            return None
        return loaded

    def _file(self, number: int) -> Path:
        return self.database.path.parent / "checkpoints" / f"{self.search}-{number}.pt"

    def _waiting(self, left: Iterable[Row], proposed: Mapping[str, Row]) -> list[Proposal]:
        batches: dict[int, list[Row]] = defaultdict(list)
        for row in left:
            batches[row["batch"]].append(row)
        found = []
        for rows in batches.values():
            episodes = [replay(json.loads(row["actions"]), self.limits) for row in rows]
            fresh = [proposed[row["key"]] for row in rows if row["fresh"]]
            proposal = Proposal(
                rows[0]["number"],
                rows[0]["proposed"],
                episodes,
                fresh[0]["number"] if fresh else 0,
                [self._candidate(row) for row in fresh],
            )
            found.append(proposal)
        return found

    def propose(self, proposal: Proposal, generator: torch.Generator) -> None:
        """Commits a proposal, and the generator that made it."""
        new = {candidate.key for candidate in proposal.fresh}
        with self.database.transaction():
            for number, episode in enumerate(proposal.episodes, start=proposal.number):
                key = Candidate(episode.tree).key
                self.database.put(
                    "episodes",
                    search=self.search,
                    number=number,
                    batch=proposal.number,
                    proposed=proposal.update,
                    actions=json.dumps(episode.actions.tolist()),
                    key=key,
                    fresh=int(key in new),
                )
                new.discard(key)
            for number, candidate in enumerate(proposal.fresh, start=proposal.trial):
                self.database.put(
                    "trials",
                    search=self.search,
                    number=number,
                    proposed=proposal.update,
                    key=candidate.key,
                    tree=json.dumps(trees.to_dict(candidate.tree)),
                )
            state = bytes(generator.get_state().numpy())
            self.database.put("generators", replace=True, search=self.search, state=state)

    def start(self, number: int) -> int:
        """Marks a trial as running and returns the number of this attempt, from 1."""
        with self.database.transaction():
            self.database.execute(
                "UPDATE trials SET state = 'running', attempt = attempt + 1 "
                "WHERE search = ? AND number = ?",
                self.search,
                number,
            )
            [row] = self.database.rows("trials", search=self.search, number=number)
        return int(row["attempt"])

    def finish(self, number: int, attempt: int, outcome: Outcome, reward: float) -> None:
        """Commits what a trial brought.

        Raises:
            RecordError: if the attempt is not the one that runs: its outcome comes too late.
        """
        with self.database.transaction():
            changed = self.database.execute(
                "UPDATE trials SET state = 'done' WHERE search = ? AND number = ? "
                "AND attempt = ? AND state = 'running'",
                self.search,
                number,
                attempt,
            )
            if changed != 1:
                raise RecordError(f"trial {number}: attempt {attempt} is not the one that runs")
            self._put_outcome(number, outcome, reward, copied=False)

    def copy(self, number: int, outcome: Outcome, reward: float) -> None:
        """Commits the outcome of a trial that another search has run."""
        with self.database.transaction():
            self.database.execute(
                "UPDATE trials SET state = 'done' WHERE search = ? AND number = ?",
                self.search,
                number,
            )
            self._put_outcome(number, outcome, reward, copied=True)

    def _put_outcome(self, number: int, outcome: Outcome, reward: float, *, copied: bool) -> None:
        self.database.put(
            "outcomes",
            search=self.search,
            number=number,
            status=outcome.status,
            outcome=json.dumps(asdict(outcome)),
            reward=float(reward),
            copied=int(copied),
        )
        if outcome.status != "ok" and not copied:
            self.database.put(
                "errors",
                time=time.time(),
                job=f"{self.search} {number}",
                status=outcome.status,
                reason=outcome.error or "",
                traceback=outcome.traceback or "",
            )

    def rung(self, number: int, epochs: int) -> Outcome | None:
        """Returns what a trial's training of so many epochs brought, if it is recorded.

        Raises:
            RecordError: if the row is damaged.
        """
        name = self._rung(number, epochs)
        for row in self.database.rows("trainings", name=name):
            with self.database.understanding(f"the training {name}"):
                return Outcome(**json.loads(row["result"]))
        return None

    def rungs(self, epochs: int) -> dict[int, Outcome]:
        """Returns what all recorded trainings of so many epochs brought, by the trial's number.

        Raises:
            RecordError: if a row is damaged.
        """
        numbers = [int(row["number"]) for row in self.database.rows("trials", search=self.search)]
        found = {number: self.rung(number, epochs) for number in numbers}
        return {number: outcome for number, outcome in found.items() if outcome is not None}

    def put_rung(self, number: int, epochs: int, candidate: Candidate, outcome: Outcome) -> None:
        """Commits what a trial's training of so many epochs brought; the trial has not ended."""
        with self.database.transaction():
            self.database.put(
                "trainings",
                name=self._rung(number, epochs),
                job=candidate.key,
                result=json.dumps(asdict(outcome)),
                outputs="[]",
            )

    def _rung(self, number: int | str, epochs: int | str) -> str:
        return f"{self.search} {number}, {epochs} epochs"

    def forget(self, proposals: Iterable[Proposal]) -> None:
        """Takes the failed outcomes of proposals back, so that a resume runs these trials again."""
        with self.database.transaction():
            for proposal in proposals:
                first, last = proposal.trial, proposal.trial + len(proposal.fresh) - 1
                for statement in (
                    "DELETE FROM outcomes WHERE search = ?1 AND number BETWEEN ?2 AND ?3 "
                    "AND status <> 'ok'",
                    "UPDATE trials SET state = 'pending' WHERE search = ?1 "
                    "AND number BETWEEN ?2 AND ?3 AND number NOT IN "
                    "(SELECT number FROM outcomes WHERE search = ?1)",
                ):
                    self.database.execute(statement, self.search, first, last)
                for number in range(first, last + 1):
                    self.database.execute(
                        "DELETE FROM trainings WHERE name LIKE ? "
                        "AND json_extract(result, '$.status') <> 'ok'",
                        self._rung(number, "%"),
                    )

    def images(self) -> int:
        """Returns the training images that the trials saw, copied outcomes aside."""
        return int(self._sum("images"))

    def trial_seconds(self) -> float:
        """Returns the seconds of all trials in their workers, copied outcomes aside."""
        return self._sum("seconds")

    def _sum(self, name: str) -> float:
        query = (
            f"SELECT total(json_extract(outcome, '$.{name}')) FROM outcomes "
            "WHERE search = ? AND copied = 0"
        )
        return self.database.number(query, self.search)

    def learned(self, update: Update, learner: Learner, seconds: float) -> None:
        """Commits an update together with the state of the learner after it.

        The state stands in a file of its own, which is on the disk before the row that vouches for
        it is committed. It takes the place of the oldest: meanwhile the one before serves.
        """
        old = update.number - KEPT_LEARNERS
        with checkpoints.packed(learner.state_dict(), self._memory) as state:
            files.write(self._file(update.number), state, spare=self._file(old))
            digest = hashlib.sha256(state).hexdigest()
        with self.database.transaction():
            self.database.put(
                "updates",
                replace=True,
                search=self.search,
                number=update.number,
                episodes=json.dumps(update.episodes),
                rewards=json.dumps(update.rewards),
                metrics=json.dumps(update.metrics),
                time=time.time(),
                seconds=seconds,
            )
            self.database.put(
                "learners",
                replace=True,
                search=self.search,
                number=update.number,
                sha256=digest,
            )
            self.database.execute(
                "DELETE FROM learners WHERE search = ? AND number <= ?",
                self.search,
                old,
            )
        for path in self._file(0).parent.glob(f"{self.search}-*.pt"):
            number = path.stem.rpartition("-")[2]
            if number.isdecimal() and int(number) <= old:
                path.unlink()


def _update(row: Row, record: Record, fresh: Mapping[int, str]) -> Update:
    episodes = json.loads(row["episodes"])
    new = [record.trials[fresh[number]] for number in episodes if number in fresh]
    return Update(
        row["number"], episodes, json.loads(row["rewards"]), new, json.loads(row["metrics"])
    )
