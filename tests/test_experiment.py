"""A whole run: what it writes, that it repeats, and that it touches the test set once."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pathnas import best, config, data, evaluators, experiment, jobs, results
from pathnas import tree as trees
from pathnas.database import Database
from pathnas.search import SearchError
from tests import whole_run
from tests.strategies import TINY
from tests.stub_run import contents

ROOT = Path(__file__).parent.parent
SMOKE = ROOT / "experiments" / "smoke.yaml"


def run(folder: Path, *overrides: str) -> dict:
    settings = config.load(SMOKE, [f"runs={folder}", *overrides])
    return whole_run.run(settings)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return run(tmp_path_factory.mktemp("runs"))


def timeless(summary: dict) -> dict:
    """A summary without what differs between two equal runs."""
    searches = {
        name: {key: value for key, value in row.items() if key != "trial_seconds"}
        for name, row in summary["searches"].items()
    }
    varying = ("seconds", "wall_seconds", "folder", "searches")
    rest = {k: v for k, v in summary.items() if k not in varying}
    return {**rest, "searches": searches}


def test_the_summary_is_whole_and_in_the_folder(smoke: dict) -> None:
    folder = Path(smoke["folder"])
    assert json.loads((folder / "summary.json").read_text()) == smoke
    assert set(smoke["networks"]) == {"base", "base_longer", "best", "control", "wider_base"}
    assert "test" not in smoke["networks"]["base"]
    for name, row in smoke["networks"].items():
        assert 0 <= row["validation"] <= 1 and row["parameters"] > 0 and row["macs"] > 0
        assert name == "base" or 0 <= row["test"] <= 1
    for row in smoke["searches"].values():
        assert 8 <= row["distinct_trees"] < 12 and row["failed"] == 0
        assert row["trials"] == 3 * row["updates"]
    assert smoke["images"]["search"] == 256 * smoke["searches"]["search"]["distinct_trees"]
    assert set(smoke["seconds"]) == {"base", "search", "control", "full", "test"}
    assert sum(smoke["seconds"].values()) <= smoke["wall_seconds"]
    assert smoke["test_images"] == 128
    assert smoke["networks"]["wider_base"]["images"] == 256 * (3 + 2)


def test_the_limits_hold_and_the_wider_base_costs_what_the_best_costs(smoke: dict) -> None:
    rows = smoke["networks"]
    limit = 3.0 * rows["base"]["macs"]
    assert rows["best"]["macs"] <= limit and rows["control"]["macs"] <= limit
    assert abs(rows["wider_base"]["macs"] / rows["best"]["macs"] - 1) < 0.15


def test_the_run_folder_holds_config_trials_and_weights(smoke: dict) -> None:
    folder = Path(smoke["folder"])
    assert config.load(folder / "config.yaml") == config.load(SMOKE, [f"runs={folder.parent}"])
    rows = results.trials(folder)
    for name in ("search", "control"):
        found = [row for row in rows if row["search"] == name]
        assert [row["number"] for row in found] == list(range(len(found)))
        assert len(found) == smoke["searches"][name]["distinct_trees"]
    with open(folder / "trials.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["key"] for row in written] == [row["key"] for row in rows]
    assert [float(row["accuracy"]) for row in written] == [row["accuracy"] for row in rows]


def test_the_best_network_loads_and_has_the_test_accuracy_reported(smoke: dict) -> None:
    folder = Path(smoke["folder"])
    found = best.load(folder / "best")
    row = smoke["networks"]["best"]
    assert trees.to_dict(found.tree) == smoke["best_tree"]
    assert (found.validation, found.test) == (row["validation"], row["test"])
    test = data.open_source(folder / "data" / "test")
    batches = data.batches(test, batch_size=500, normalization=found.normalization)
    network = found.network.to(memory_format=torch.channels_last)
    assert evaluators.training.accuracy(network, batches) == row["test"]


def test_event_files_tell_the_story(smoke: dict) -> None:
    folder = Path(smoke["folder"]) / "tensorboard"

    def scalars(name: str) -> EventAccumulator:
        return EventAccumulator(str(folder / name)).Reload()

    env, controller, control = map(scalars, ("env", "controller", "control"))
    updates = smoke["searches"]["search"]["updates"]
    for tag in ("search/reward_mean", "search/reward_best", "search/accuracy_best", "time/seconds"):
        assert [event.step for event in env.Scalars(tag)] == list(range(updates))
        assert control.Scalars(tag)
    assert len(env.Scalars("trial/accuracy")) == smoke["searches"]["search"]["distinct_trees"]
    assert {"search/best_tree/text_summary", "run/config/text_summary"} <= set(
        env.Tags()["tensors"]
    )
    tags = set(controller.Tags()["scalars"])
    for tag in ("entropy", "gradient_norm", "baseline", "frequency/insert"):
        assert f"controller/{tag}" in tags


def test_a_run_is_a_function_of_its_config(smoke: dict, tmp_path: Path) -> None:
    again = run(tmp_path, "workers.count=1")
    assert timeless(again) == timeless(smoke)
    assert again["networks"]["best"]["test"] == smoke["networks"]["best"]["test"]


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> list[str]:
    """Overrides that say where trials run; Ray is started by whoever is first, and takes long."""
    if request.param.startswith("kind: ray"):
        request.getfixturevalue("ray_session")
    return [f"workers={{{request.param}, deadline: 60}}"]


SHORT = ("search.trials=4", "search.control=false", "final.wider=false", "final.top=1")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return run(tmp_path_factory.mktemp("short"), *SHORT)


EVERYWHERE = pytest.mark.parametrize(
    "workers", ["kind: inline", "kind: processes, count: 1", "kind: ray, count: 2"], indirect=True
)


@pytest.mark.slow
@EVERYWHERE
def test_everywhere_a_run_records_the_same(short: dict, tmp_path: Path, workers: list[str]) -> None:
    found = run(tmp_path, *SHORT, *workers)
    assert timeless(found) == timeless(short)
    record, expected = (
        contents(Path(summary["folder"]) / "record.sqlite") for summary in (found, short)
    )
    assert record.pop("meta") != expected.pop("meta")  # the workers stand in the config
    assert record == expected


@pytest.mark.slow
@EVERYWHERE
def test_asynchronous_runs_use_every_trial(tmp_path: Path, workers: list[str]) -> None:
    summary = run(tmp_path, *SHORT, *workers, "search.asynchronous=true")
    assert summary["searches"]["search"]["distinct_trees"] == 4
    assert summary["searches"]["search"]["failed"] == 0
    rows = results.trials(summary["folder"])
    assert [row["state"] for row in rows] == ["done"] * 4
    database = Database(Path(summary["folder"]) / "record.sqlite", readonly=True)
    updates = list(database.rows("updates", "number"))
    database.close()
    learned = [number for row in updates for number in json.loads(row["episodes"])]
    assert sorted(learned) == list(range(len(learned))) and len(learned) >= 4
    assert all("staleness_max" in json.loads(row["metrics"]) for row in updates)


@pytest.mark.slow
def test_another_seed_is_another_run(smoke: dict, tmp_path: Path) -> None:
    other = run(tmp_path / "other", "seed=1", "search.control=false", "final.wider=false")
    assert set(other["networks"]) == {"base", "base_longer", "best"}
    assert other["networks"]["base"] != smoke["networks"]["base"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pyramidnet", "densenet", "condensenet"])
def test_the_papers_networks_are_searched_as_any_other(name: str, tmp_path: Path) -> None:
    summary = run(
        tmp_path,
        f"base.network={json.dumps({'name': name, **TINY[name]})}",
        "workers.kind=inline",
        "search.trials=4",
        "final.training.drop_path=0.2",
    )
    assert set(summary["networks"]) == {"base", "base_longer", "best", "control", "wider_base"}
    assert all(row["failed"] == 0 for row in summary["searches"].values())
    found = best.load(Path(summary["folder"]) / "best")
    assert trees.to_dict(found.tree) == summary["best_tree"]


def test_a_saved_base_is_taken_and_the_picks_are_retrained(smoke: dict, tmp_path: Path) -> None:
    weights = Path(smoke["folder"]) / "weights" / "base.safetensors"
    summary = run(
        tmp_path,
        f"base.weights={weights}",
        "search.trials=3",
        "search.control=false",
        "final.top=1",
        "final.retrain=true",
        "workers.kind=inline",
    )
    assert summary["networks"]["base"]["validation"] == smoke["networks"]["base"]["validation"]
    assert summary["images"]["base"] == 0
    assert summary["networks"]["best"]["images"] == 2 * (256 + 128)
    best.load(Path(summary["folder"]) / "best")


DISTILLED = (
    "search.trial.birth=distilled",
    "search.trial.inherit_optimizer=true",
    "search.trial.epochs=2",
    "search.trials=3",
    "search.control=false",
    "final.top=1",
)


@pytest.mark.slow
def test_distilled_births_and_inherited_momentum_repeat_wherever_trials_run(
    smoke: dict, tmp_path: Path
) -> None:
    weights = f"base.weights={Path(smoke['folder']) / 'weights' / 'base.safetensors'}"
    inline = run(tmp_path, weights, *DISTILLED, "workers.kind=inline")
    assert timeless(inline) == timeless(run(tmp_path, weights, *DISTILLED))
    # Distillation is part of the epochs, so that all births see as many images.
    assert inline["networks"]["best"]["images"] == inline["networks"]["base_longer"]["images"]
    searched = inline["searches"]["search"]
    assert inline["images"]["search"] == 2 * 256 * searched["distinct_trees"]


def test_momentum_that_a_saved_base_lacks_is_missed_before_anything_is_made(
    smoke: dict, tmp_path: Path
) -> None:
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((Path(smoke["folder"]) / "weights" / "base.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"inherit_optimizer: .*alone\.optimizer\.safetensors"):
        run(tmp_path / "runs", f"base.weights={alone}", *DISTILLED)
    assert not (tmp_path / "runs").exists()


def test_the_test_set_is_not_there_before_every_choice_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ChoicesMade(Exception):
        pass

    def stop(*arguments: object) -> None:
        raise ChoicesMade

    monkeypatch.setattr(experiment, "test_once", stop)
    seen: list[set[str]] = []
    original = evaluators.train

    def watch(job: evaluators.Training) -> evaluators.Trained:
        seen.append({path.name for path in job.setting.folder.iterdir()})
        return original(job)

    monkeypatch.setattr(evaluators, "train", watch)
    with pytest.raises(ChoicesMade):
        run(tmp_path, "workers.kind=inline", "search.trials=2")
    assert len(seen) >= 3 and all(names == {"train", "validation"} for names in seen)


def test_a_full_training_that_fails_is_an_entry_of_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = evaluators.train

    def fragile(job: evaluators.Training) -> evaluators.Trained:
        if job.save is not None and job.save.name.startswith(("base_longer", "search-1")):
            raise FloatingPointError("the loss became nan")
        return original(job)

    monkeypatch.setattr(evaluators, "train", fragile)
    summary = run(tmp_path, "workers.kind=inline", "search.control=false")
    rows = summary["networks"]
    assert rows["base_longer"]["failed"] == "diverged: FloatingPointError: the loss became nan"
    assert "test" not in rows["base_longer"] and 0 <= rows["best"]["test"] <= 1
    best.load(Path(summary["folder"]) / "best")


def test_what_the_run_cannot_do_without_fails_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(job: evaluators.Training) -> evaluators.Trained:
        raise FloatingPointError("the loss became nan")

    monkeypatch.setattr(evaluators, "train", fails)
    with pytest.raises(jobs.JobFailed, match=r"base network: diverged: .*the loss became nan"):
        run(tmp_path, "workers.kind=inline")


def test_comparisons_are_repeated_with_other_seeds(tmp_path: Path) -> None:
    summary = run(tmp_path, "final.repeats=2", "search.trials=2", "search.control=false")
    weights = Path(summary["folder"]) / "weights"
    first, second = (
        (weights / f"base_longer-{repeat}.safetensors").read_bytes() for repeat in (1, 2)
    )
    assert first != second


def test_trials_that_all_fail_stop_the_run_with_their_reason(tmp_path: Path) -> None:
    with pytest.raises(
        SearchError, match=r"the last 3 trials all failed in the same way; .*timed_out"
    ):
        run(tmp_path, "workers.deadline=0.001")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.ops=[identity, conv9x9]", "unknown operation 'conv9x9'; known: .*conv1x1"),
        ("data.validation=100000", "100000 images held out"),
        ("base.weights=nowhere.safetensors", "nowhere.safetensors"),
        ("device=cuda:7", "that this machine has"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(
    tmp_path: Path, override: str, message: str
) -> None:
    if override.startswith("device") and torch.cuda.is_available():
        pytest.skip("this machine may have that device")
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "runs", override)
    assert not (tmp_path / "runs").exists()
