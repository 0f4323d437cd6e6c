"""Successive halving: who goes on, what is recorded, and that nothing is done twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pathnas import config, evaluators, facts, results, rungs
from pathnas.database import Database
from pathnas.evaluators import Trained, Training
from pathnas.ledger import Ledger
from pathnas.limits import Limits
from pathnas.outcomes import Candidate, Outcome
from pathnas.rungs import Rungs
from pathnas.search import Record, SearchError, Trial
from pathnas.store import RECORD
from pathnas.tree import BASE_TREE
from tests import stub_run

HALVING = ("search.halving={factor: 2, rungs: 3}", "search.trial.epochs=4", "search.episodes=5")
SEARCH = ("search.trials=12", *HALVING)
ASYNCHRONOUS = (*SEARCH, "search.control=false", "search.asynchronous=true")


def made_up(job: Training) -> Trained:
    """A training whose accuracy follows from seed and length, and now and then it diverges."""
    for path in evaluators.outputs(job):
        path.write_bytes(b"weights")
    epochs = job.recipe.epochs
    digest = hashlib.sha256(f"{job.seed} {epochs}".encode()).digest()
    if job.save is None and digest[0] < 20:
        raise FloatingPointError("the loss became nan")
    curve = tuple(1 / (epoch + epochs) for epoch in range(epochs))
    return Trained(digest[1] / 300 + epochs / 100, 3, 10 * epochs, 0.5, curve)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Training]]:
    """The trials' trainings that are done."""
    done: list[Training] = []

    def train(job: Training) -> Trained:
        if job.save is None:
            done.append(job)
        return made_up(job)

    monkeypatch.setattr(evaluators, "train", train)
    monkeypatch.setattr(evaluators, "score", lambda job: 0.5)
    yield done


def ledgers(folder: Path) -> dict[str, Ledger]:
    database = Database(folder / RECORD, readonly=True)
    return {name: Ledger(database, name, Limits()) for name in ("search", "control")}


def batches(ledger: Ledger) -> list[list[Trial]]:
    found: dict[int, list[Trial]] = {}
    for trial in ledger.trials():
        found.setdefault(trial.update, []).append(trial)
    return list(found.values())


def test_the_best_half_of_each_rung_goes_on(trained: list[Training], tmp_path: Path) -> None:
    stub_run.run(tmp_path, *SEARCH, "search.control=false")
    folder = tmp_path / "smoke"
    ledger = ledgers(folder)["search"]
    accuracies = {(str(job.tree), job.recipe.epochs): job for job in trained}
    assert len(accuracies) == len(trained)  # none twice
    for batch in batches(ledger):
        left = batch
        for epochs in (1, 2, 4):
            outcomes = {t.number: ledger.rung(t.number, epochs) for t in batch}
            ran = [number for number, outcome in outcomes.items() if outcome is not None]
            assert ran == [trial.number for trial in left]
            sound = [t for t in left if outcomes[t.number].status == "ok"]  # type: ignore[union-attr]
            sound.sort(key=lambda t: (-outcomes[t.number].accuracy, t.number))  # type: ignore
            left = sorted(sound[: (len(left) + 1) // 2], key=lambda t: t.number)
    lengths = Counter(job.recipe.epochs for job in trained)
    assert lengths[1] >= 12 and lengths[4] < lengths[2] < lengths[1]
    rows = results.trials(folder)
    assert {row["stopped"] for row in rows if row["status"] == "ok"} == {1, 2, None}


def test_outcomes_tell_the_last_training_and_the_cost_of_all(
    trained: list[Training], tmp_path: Path
) -> None:
    stub_run.run(tmp_path, *SEARCH, "search.control=false")
    ledger = ledgers(tmp_path / "smoke")["search"]
    for trial in ledger.trials():
        brought = [ledger.rung(trial.number, epochs) for epochs in (1, 2, 4)]
        ran = [outcome for outcome in brought if outcome is not None]
        assert trial.outcome.accuracy == ran[-1].accuracy
        assert trial.outcome.curve == ran[-1].curve
        assert trial.outcome.images == sum(one.images for one in ran)
        if trial.outcome.status == "ok":
            assert trial.outcome.stopped == {1: 1, 2: 2, 3: None}[len(ran)]
            assert trial.outcome.images == {1: 10, 2: 30, 3: 70}[len(ran)]
            assert len(trial.outcome.curve) == {1: 1, 2: 2, 3: 4}[len(ran)]
            assert trial.outcome.seconds == pytest.approx(0.5 * len(ran))
    assert ledger.images() == sum(10 * j.recipe.epochs for j in trained if not _diverges(j))


def _diverges(job: Training) -> bool:
    try:
        made_up(job)
    except FloatingPointError:
        return True
    return False


def test_readers_understand_a_halved_run(trained: list[Training], tmp_path: Path) -> None:
    stub_run.run(tmp_path, *SEARCH)
    found = facts.read(tmp_path / "smoke")
    assert set(found.trainings) >= {"base", "search-1"}
    assert not any("epochs" in name for name in found.trainings)
    ended = ledgers(tmp_path / "smoke")["search"].trials()
    record = Record({trial.candidate.key: trial for trial in ended})
    assert [row["number"] for row in found.best(count=9)] == [t.number for t in record.best(9)]


def test_a_whole_trial_is_that_without_halving(trained: list[Training], tmp_path: Path) -> None:
    """Its seed, its recipe and all else: only the name of the setting differs."""
    stub_run.run(tmp_path / "halved", *SEARCH)
    whole = {str(job.tree): job for job in trained if job.recipe.epochs == 4}
    trained.clear()
    plain = [word for word in SEARCH if "halving" not in word]
    stub_run.run(tmp_path / "plain", *plain)
    alike = 0
    for job in trained:
        if other := whole.get(str(job.tree)):
            assert (other.seed, other.recipe, other.birth) == (job.seed, job.recipe, job.birth)
            alike += 1
    assert alike >= 2


def test_every_rung_averages_and_a_full_training_does_not(
    trained: list[Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every: list[Training] = []
    train = evaluators.train
    monkeypatch.setattr(evaluators, "train", lambda job: every.append(job) or train(job))
    stub_run.run(tmp_path, *SEARCH, "search.control=false", "search.trial.average_fraction=0.5")
    assert {job.recipe.epochs for job in trained} == {1, 2, 4}
    for job in every:
        averaged = {"average_fraction": 0.5}.items() <= job.recipe.model_dump().items()
        assert averaged == (job.save is None)


def test_the_control_copies_what_the_search_has_trained(
    trained: list[Training], tmp_path: Path
) -> None:
    """In a space so small that both propose the same trees."""
    small = ("search.depth=1", "search.ops=[identity]", "search.patience=3")
    stub_run.run(tmp_path, *SEARCH, *small)
    found = {name: one.trials() for name, one in ledgers(tmp_path / "smoke").items()}
    outcomes = {trial.candidate.key: trial.outcome for trial in found["search"]}
    copied = [row for row in results.trials(tmp_path / "smoke") if row["copied"]]
    assert copied and all(row["search"] == "control" for row in copied)
    for trial in found["control"]:
        if trial.candidate.key in outcomes:
            assert trial.outcome == outcomes[trial.candidate.key]


@pytest.mark.parametrize("at", [8, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 14))])
def test_a_search_that_was_broken_off_goes_on_as_if_it_had_not(
    at: int, trained: list[Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*SEARCH, "search.control=false", "search.trials=10")
    stub_run.run(tmp_path / "whole", *words)
    number = len(trained)
    trained.clear()
    with monkeypatch.context() as patch:
        patch.setattr(evaluators, "train", _breaking(evaluators.train, trained, at))
        with pytest.raises(KeyboardInterrupt):
            stub_run.run(tmp_path / "broken", *words)
    stub_run.run(tmp_path / "broken", *words)
    assert len(trained) == number  # nothing twice
    whole, broken = (
        stub_run.contents(tmp_path / name / "smoke" / RECORD) for name in ("whole", "broken")
    )
    assert broken == whole


def _breaking(
    train: Callable[[Training], Trained], done: list[Training], at: int
) -> Callable[[Training], Trained]:
    def breaking(job: Training) -> Trained:
        if job.save is None and len(done) == at:
            raise KeyboardInterrupt
        return train(job)

    return breaking


def test_an_asynchronous_search_promotes_who_is_among_the_best_so_far(
    trained: list[Training], tmp_path: Path
) -> None:
    stub_run.run(tmp_path, *ASYNCHRONOUS)
    ledger = ledgers(tmp_path / "smoke")["search"]
    trials = {str(trial.candidate.tree): trial for trial in ledger.trials()}
    seen: dict[int, list[float]] = {1: [], 2: [], 4: []}
    lines: dict[str, list[int]] = {}
    for job in trained:  # by one worker: in this order
        key, epochs = str(job.tree), job.recipe.epochs
        lines.setdefault(key, []).append(epochs)
        outcome = ledger.rung(trials[key].number, epochs)
        assert outcome is not None
        accuracy = -1.0 if outcome.accuracy is None else outcome.accuracy
        seen[epochs].append(accuracy)
        better = sum(other > accuracy for other in seen[epochs])
        goes_on = accuracy >= 0 and better < (len(seen[epochs]) + 1) // 2
        ended = trials[key].outcome.stopped == epochs or _diverges(job)
        assert goes_on is not ended or epochs == 4
    assert len(lines) == len(trials) >= 12
    assert {tuple(line) for line in lines.values()} == {(1,), (1, 2), (1, 2, 4)}
    assert len(seen[4]) < len(seen[2]) < len(seen[1])


@pytest.mark.parametrize("at", [3, 9])
def test_an_asynchronous_search_that_was_broken_off_trains_nothing_twice(
    at: int, trained: list[Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(evaluators, "train", _breaking(evaluators.train, trained, at))
        with pytest.raises(KeyboardInterrupt):
            stub_run.run(tmp_path, *ASYNCHRONOUS)
    stub_run.run(tmp_path, *ASYNCHRONOUS)
    done = [(str(job.tree), job.recipe.epochs) for job in trained]
    assert len(set(done)) == len(done)
    rows = results.trials(tmp_path / "smoke")
    assert len(rows) >= 12 and all(row["status"] in ("ok", "diverged") for row in rows)
    images = ledgers(tmp_path / "smoke")["search"].images()
    assert images == sum(10 * j.recipe.epochs for j in trained if not _diverges(j))


def test_a_trial_that_had_gone_on_goes_on_after_a_resume() -> None:
    """Although others were better since, as with several workers."""
    kept = {(0, 1): 0.5, (0, 2): 0.6, (1, 1): 0.7, (2, 1): 0.8}
    ledger = SimpleNamespace(
        rung=lambda number, epochs: (
            Outcome("ok", accuracy=kept[number, epochs], images=10 * epochs)
            if (number, epochs) in kept
            else None
        ),
        rungs=lambda epochs: {
            n: Outcome("ok", accuracy=value)
            for (n, length), value in kept.items()
            if length == epochs
        },
        start=lambda number: 2,
    )
    trials = SimpleNamespace(
        ledger=ledger, reward=lambda outcome: outcome.accuracy, recorded={}, known={}
    )
    line = rungs._Line(Rungs(trials, (1, 2, 4), 2))  # type: ignore[arg-type]
    [job] = islice(line.jobs([(0, Candidate(BASE_TREE))], []), 1)
    assert job == (Candidate(BASE_TREE), 4)


def test_a_batch_that_fails_throughout_is_run_again_by_a_resume(
    trained: list[Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(job: Training) -> Trained:
        if job.save is None:
            raise FloatingPointError("the loss became nan")
        return made_up(job)

    with monkeypatch.context() as patch:
        patch.setattr(evaluators, "train", fails)
        with pytest.raises(SearchError, match="all failed in the same way"):
            stub_run.run(tmp_path, *SEARCH)
    stub_run.run(tmp_path, *SEARCH)
    stub_run.run(tmp_path / "sound", *SEARCH)
    found, sound = (
        stub_run.contents(folder / "smoke" / RECORD) for folder in (tmp_path, tmp_path / "sound")
    )
    assert found == sound


def test_a_disk_that_is_full_is_no_fault_of_the_tree(
    trained: list[Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(job: Training) -> Trained:
        if job.save is None and job.recipe.epochs > 1:
            raise RuntimeError("I/O error: No space left on device (os error 28)")
        return made_up(job)

    with monkeypatch.context() as patch:
        patch.setattr(evaluators, "train", full)
        with pytest.raises(OSError, match="make room and start the run again"):
            stub_run.run(tmp_path, *SEARCH)
    stub_run.run(tmp_path, *SEARCH)
    errors = [row["error"] or "" for row in results.trials(tmp_path / "smoke")]
    assert errors and not [error for error in errors if "space" in error]


def test_what_was_trained_longer_is_better_whatever_its_reward() -> None:
    def trial(number: int, stopped: int | None, reward: float) -> Trial:
        outcome = Outcome("ok", accuracy=reward, stopped=stopped)
        return Trial(number, 0, None, outcome, reward)  # type: ignore[arg-type]

    given = [trial(0, 1, 0.9), trial(1, 2, 0.5), trial(2, None, 0.4), trial(3, None, 0.6)]
    found = Record({str(one.number): one for one in given}).best(4)
    assert [one.number for one in found] == [3, 2, 1, 0]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("search.trial.epochs=3",), "at least 1 epochs, got 0 of 3 with factor 2 and 3 rungs"),
        (
            ("search.trial.birth=distilled", "search.trial.epochs=7"),
            "at least 2 epochs, got 1 of 7",
        ),
        (("search.halving={factor: 1}",), "search.halving.factor: must be >= 2, got 1"),
        (("search.halving={rungs: 1}",), "search.halving.rungs: must be >= 2, got 1"),
    ],
)
def test_what_cannot_be_halved_is_refused(words: tuple[str, ...], error: str) -> None:
    with pytest.raises(config.ConfigError, match=r"search\.halving") as raised:
        config.load(stub_run.SMOKE, [*HALVING, *words])
    assert error in str(raised.value)


def test_lengths_are_whole_epochs_that_rise_to_those_of_a_trial() -> None:
    assert config.Halving().lengths(16) == (5, 16)
    assert config.Halving(factor=2, rungs=4).lengths(20) == (2, 5, 10, 20)


@pytest.mark.slow
def test_a_real_search_is_halved_the_same_in_other_processes(tmp_path: Path) -> None:
    tiny: list[Any] = [word for word in stub_run.TINY if not word.startswith("workers")]
    tiny = [word.replace("=8", "=64").replace("=4", "=64") for word in tiny[:3]] + tiny[3:]
    found = []
    for kind in ("inline", "processes"):
        runs = tmp_path / kind
        own = [*tiny, "search.trials=3", "search.control=false", f"workers.kind={kind}"]
        halving = ["search.halving={factor: 2}", "search.trial.epochs=2"]
        halving.append("search.trial.average_fraction=0.5")
        settings = config.load(stub_run.SMOKE, [f"runs={runs}", *own, *halving])
        stub_run.whole_run.run(settings)
        rows = results.trials(runs / "smoke")
        found.append([(row["key"], row["accuracy"], row["stopped"]) for row in rows])
    assert found[0] == found[1] and {row[2] for row in found[0]} == {1, None}
