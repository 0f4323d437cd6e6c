"""Growth in rounds: a tree that has grown is grown further, and the run's best is the next base."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pathnas import (
    best,
    config,
    decisions,
    evaluators,
    facts,
    networks,
    report,
    results,
    run,
    space,
    status,
    store,
)
from pathnas import tree as trees
from pathnas.board import Board
from pathnas.controllers.evolution import mutated
from pathnas.controllers.random_controller import RandomController
from pathnas.controllers.rollout import replay, rollout
from pathnas.evaluators import Setting, Trained, Training
from pathnas.export import __main__ as export
from pathnas.files import digest
from pathnas.limits import Limits
from pathnas.outcomes import Candidate
from pathnas.store import RECORD
from pathnas.transforms import Birth, arrange, grow, growth
from pathnas.tree import BASE_TREE, Node
from tests import stub_run

ROOT = Path(__file__).parent.parent


def grown(limits: Limits, seed: int, count: int = 1) -> list[Node]:
    """Canonical trees of random episodes."""
    generator = torch.Generator().manual_seed(seed)
    rolled = rollout(RandomController(limits.actions), limits, count, generator)
    return [Candidate(episode.tree).tree for episode in rolled]


def beyond(start: Node, more: int = 1) -> Limits:
    return Limits(trees.depth(start) + more, start=start)


@settings(max_examples=6)
@given(st.integers(0, 10**6))
def test_all_that_grows_from_a_tree_holds_it_and_none_is_stuck(seed: int) -> None:
    [start] = grown(Limits(2), seed)
    limits = beyond(start)
    generator = torch.Generator().manual_seed(seed)
    for episode in rollout(RandomController(limits.actions), limits, 5, generator):
        assert episode.tree != start
        assert trees.depth(episode.tree) <= limits.depth
        unfolded = trees.unfolded(Candidate(episode.tree).tree, start)
        assert unfolded is not None and trees.canonical(unfolded) == Candidate(episode.tree).tree
        actions = episode.actions.tolist()
        assert replay(actions, limits).tree == episode.tree
        child = replay(mutated(actions, limits, generator), limits).tree
        assert trees.unfolded(Candidate(child).tree, start) is not None


def test_limits_are_kept_beyond_a_grown_tree() -> None:
    start = next(tree for tree in grown(Limits(2), 0, 9) if trees.depth(tree) == 2)
    free = beyond(start)
    limits = Limits(free.depth, start=start, macs=int(1.3 * free.cost(start)))
    found = grown(limits, 0, 30)
    assert max(map(free.cost, found)) <= 1.3 * free.cost(start) and len(set(found)) > 5
    with pytest.raises(ValueError, match="macs must be at least the base tree's"):
        Limits(free.depth, start=start, macs=free.cost(start) - 1)
    with pytest.raises(ValueError, match="has a leaf to grow from"):
        Limits(1, start=trees.from_dict({"edges": [{"op": "base"}] * 2, **ADDED}))


ADDED = {"merge": "add", "allocation": "replicate"}


def test_a_base_tree_begins_as_ever() -> None:
    assert decisions.begin(Limits()) == decisions.State()


@settings(max_examples=6)
@given(st.integers(0, 10**6))
def test_growing_further_keeps_the_function_and_ends_in_the_canonical_tree(seed: int) -> None:
    [start] = grown(Limits(2), seed)
    [tree] = grown(beyond(start), seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = networks.build("chain", channels=1, classes=3, tree=start, widths=(16,))
        images = torch.randn(3, 1, 6, 6)
    further = grow(network, growth(tree, start), Birth("gated"))
    arrange(further)
    assert {cell.tree for cell in networks.cells(further).values()} == {tree}
    network.eval(), further.eval()
    with torch.no_grad():
        torch.testing.assert_close(further(images), network(images), atol=1e-4, rtol=1e-4)


def test_no_transforms_lead_from_a_tree_to_one_that_does_not_hold_it() -> None:
    base = {"op": "base", "child": {"edges": [{"op": "conv1x1"}]}}
    first, second = BASE_TREE, trees.from_dict({"edges": [base]})
    with pytest.raises(ValueError, match="expected a tree that has grown from"):
        growth(first, second)


def test_a_training_that_begins_at_the_base_tree_has_the_fingerprint_that_it_had() -> None:
    setting = Setting(Path("data"), None, (1, 8, 8), 10)  # type: ignore[arg-type]
    job = Training(setting, {"name": "chain"}, config.Recipe(epochs=1), 3)
    start = grown(Limits(2), 0)[0]
    further = replace(job, start=start)
    assert store.fingerprint(job) == store.fingerprint(replace(job, start=BASE_TREE))
    assert store.fingerprint(further) != store.fingerprint(job)


WORDS = (str(stub_run.SMOKE), "--quiet", "search.rounds=2", "search.control=false")
WORDS += stub_run.TINY


def made_up(job: Training, done: list[Training]) -> Trained:
    """Stands in for a training, but what is saved is a real network: the next round reads it."""
    done.append(job)
    if job.save is None:
        return stub_run.train(job)
    return real(replace(job, recipe=job.recipe.model_copy(update={"epochs": 0})))


real = evaluators.train


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """The trainings done, which are made up."""
    done: list[Training] = []
    _make_up(monkeypatch, done)
    return done


def _make_up(patch: pytest.MonkeyPatch, done: list[Training]) -> None:
    patch.setattr(evaluators, "train", lambda job: made_up(job, done))
    patch.setattr(evaluators, "score", lambda job: 0.5)
    patch.setattr(run, "_report", lambda path: None)  # pictures take most of the time
    patch.setattr(Board, "_picture", lambda *_: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both rounds of a run."""
    runs = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        _make_up(patch, [])
        assert run.main([*WORDS, f"runs={runs}"]) == 0
    return runs


def contents(runs: Path) -> list[dict[str, Any]]:
    """All that the records of both rounds hold, but for where they stand."""
    found = [stub_run.contents(runs / name / RECORD) for name in ("smoke", "smoke-round2")]
    for one in found:
        for row in one["meta"]:
            row.pop("digest", None)
        one["meta"] = repr(one["meta"]).replace(str(runs), "")
    return found


def test_the_best_network_of_a_round_is_the_base_of_the_next(whole: Path) -> None:
    first, second = whole / "smoke", whole / "smoke-round2"
    parent, found = best.load(first / "best"), best.load(second / "best")
    for row in results.trials(second):
        tree = facts.read(second).trees[row["key"]]
        assert trees.unfolded(trees.from_json(tree), parent.tree) is not None
    assert trees.unfolded(found.tree, parent.tree) is not None
    assert trees.depth(found.tree) > trees.depth(parent.tree)
    inherited = load_file(second / "weights" / "base.safetensors")
    for name, tensor in load_file(first / "best" / "network.safetensors").items():
        torch.testing.assert_close(inherited[name], tensor, rtol=0, atol=0)
    summary = json.loads((second / "summary.json").read_text())
    assert summary["networks"]["base"]["tree"] == trees.key(parent.tree)
    assert summary["networks"]["base_longer"]["tree"] == trees.key(parent.tree)


def test_the_record_keeps_the_family_tree(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(whole, runs)
    assert run.main([*WORDS, f"runs={runs}", "search.rounds=3"]) == 0
    third = json.loads((runs / "smoke-round3" / "summary.json").read_text())
    names = ("smoke", "smoke-round2")
    assert [Path(one["folder"]).parent.name for one in third["ancestors"]] == list(names)
    for one, name in zip(third["ancestors"], names, strict=True):
        assert one["tree"] == str(best.load(runs / name / "best").tree)
        assert one["weights"] == digest(runs / name / "best" / "network.safetensors")
    about = json.loads((runs / "smoke-round3" / "best" / "about.json").read_text())
    assert about["ancestors"] == third["ancestors"]
    capsys.readouterr()
    assert status.main([str(runs / "smoke"), str(runs / "smoke-round3")]) == 0
    shown = capsys.readouterr().out
    assert "2 more after this one" in shown
    assert f"from {runs / 'smoke-round2' / 'best'}: {third['ancestors'][1]['tree']}" in shown
    page = report.write(runs / "smoke-round3").read_text()
    assert str(runs / "smoke-round2" / "best") in page


def test_what_a_later_round_has_found_is_exported(whole: Path, tmp_path: Path) -> None:
    found = best.load(whole / "smoke-round2" / "best")
    to = tmp_path / "net"
    assert export.main([str(whole / "smoke-round2"), "--to", str(to)]) == 0
    assert json.loads((to / "arch.json").read_text())["tree"] == trees.to_dict(found.tree)


@pytest.mark.parametrize("number", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_rounds_that_were_broken_off_go_on_to_the_same_end(
    whole: Path,
    trained: list[Training],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    trials = [len(results.trials(whole / name)) for name in ("smoke", "smoke-round2")]
    at = 3 if number == 1 else sum(trials)  # besides trials there are the networks that are saved

    def breaking(job: Training) -> Trained:
        if len(trained) == at:
            raise KeyboardInterrupt
        return made_up(job, trained)

    with monkeypatch.context() as patch:
        patch.setattr(evaluators, "train", breaking)
        with pytest.raises(KeyboardInterrupt):
            run.main([*WORDS, f"runs={tmp_path}"])
    assert (tmp_path / "smoke-round2").exists() == (number == 2)
    assert run.main(["--quiet", "--resume", str(tmp_path / "smoke")]) == 0
    assert contents(tmp_path) == contents(whole)


def test_a_finished_run_elsewhere_goes_on_without_a_training(
    whole: Path,
    trained: list[Training],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(whole, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    for words in ([*WORDS, "runs=runs"], ["--quiet", "--resume", "runs/smoke"]):
        assert run.main(words) == 0
        assert capsys.readouterr().out.count("best tree: ") == 2
    assert run.main(["--json", "--resume", "runs/smoke"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "smoke-round2"
    assert trained == []


def test_only_the_last_round_is_extended_and_what_others_stand_on_must_not_change(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(whole, runs)
    words = ["--quiet", "--resume", str(runs / "smoke")]
    assert run.main([*words, "--extend", "trials=2"]) == 2
    assert "--extend: expected the last round's folder" in capsys.readouterr().err
    last = str(runs / "smoke-round2")
    before = len(results.trials(last))
    grown = f"base.grown={runs / 'smoke' / 'best'}"  # the folders have been moved
    assert run.main(["--quiet", "--resume", last, "--extend", "trials=2", grown]) == 0
    assert len(results.trials(last)) > before
    weights = runs / "smoke" / "best" / "network.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    assert run.main(["--quiet", "--resume", last]) == 3
    assert "was begun with another network to grow from" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_killed_in_its_second_round_ends_bit_for_bit_the_same(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pathnas.run", str(stub_run.SMOKE), "--quiet"]
    words += ["search.rounds=2", "search.trials=4", "search.episodes=2", "final.top=1"]
    words += ["final.wider=false", "data.train=64"]

    def begin(runs: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*words, f"runs={runs}"], cwd=ROOT, start_new_session=True)

    assert begin(tmp_path / "whole").wait(300) == 0
    runs = tmp_path / "killed"
    process = begin(runs)
    try:
        deadline = time.monotonic() + 300
        while not done(runs / "smoke-round2") and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (runs / "smoke-round2" / "summary.json").exists()
    assert begin(runs).wait(300) == 0
    assert contents(runs) == contents(tmp_path / "whole")
    for name in ("smoke", "smoke-round2"):
        file = Path(name) / "best" / "network.safetensors"
        assert (runs / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def done(folder: Path) -> int:
    """Trials of a run that have ended; 0 while it has no record."""
    if not (folder / RECORD).exists():
        return 0
    return sum(row["state"] == "done" for row in results.trials(folder))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("base.grown=nowhere",), "nowhere/tree.json"),
        ((f"base.grown={__file__}",), "expected the folder of a network"),
        (
            ("base.grown=nowhere", "base.weights=x"),
            "must be absent beside base.weights",
        ),
    ],
)
def test_a_base_that_cannot_be_grown_further_is_bad_input(
    words: tuple[str, ...], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([*WORDS, f"runs={tmp_path}", *words]) == 2
    assert error in capsys.readouterr().err


def test_a_space_is_counted_from_the_base_tree_alone(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(stub_run.SMOKE), f"base.grown={whole / 'smoke' / 'best'}"]
    assert space.main(words) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_tree_out_of_order_or_damaged_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = {"edges": [{"op": "conv1x1"}, {"op": "avg_pool3x3"}], **ADDED}
    tree = trees.from_dict({"edges": [{"op": "base", "child": inner}]})
    for text, error in ((trees.to_json(tree), "in canonical form"), ("{", "expected a tree")):
        (tmp_path / "tree.json").write_text(text)
        assert run.main([*WORDS, f"runs={tmp_path}", f"base.grown={tmp_path}"]) == 2
        assert error in capsys.readouterr().err


def test_a_tree_with_an_operation_that_is_not_searched_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = trees.from_dict({"edges": [{"op": "base", "child": {"edges": [{"op": "conv1x1"}]}}]})
    with pytest.raises(ValueError, match=r"ops must hold those of the tree.*conv1x1"):
        Limits(ops=("identity", "max_pool3x3"), start=tree)


def test_a_network_that_has_learned_the_validation_images_is_no_base(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole / "smoke" / "best", tmp_path / "best")
    about = json.loads((tmp_path / "best" / "about.json").read_text())
    assert about["everything"] is False
    (tmp_path / "best" / "about.json").write_text(json.dumps({**about, "everything": True}))
    words = [*WORDS, f"runs={tmp_path}", f"base.grown={tmp_path / 'best'}"]
    assert run.main(words) == 2
    assert "was trained on the validation images too" in capsys.readouterr().err


def test_another_base_is_refused_and_the_record_is_left_as_it_was(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "runs")
    second = tmp_path / "runs" / "smoke-round2"
    other = tmp_path / "runs" / "smoke-round2" / "best"
    before = facts.read(second).config
    assert run.main(["--resume", str(second), f"base.grown={other}", "--quiet"]) == 3
    assert "was begun with another network" in capsys.readouterr().err
    assert facts.read(second).config == before


def test_settings_that_rounds_cannot_have(capsys: pytest.CaptureFixture[str]) -> None:
    for word, error in (
        ("search.trial.inherit_optimizer=true", "between rounds only weights go on"),
        (f"name={'a' * 60}", "at most 64"),
        ("final.retrain=true", "would be trained on the images that reward the next round"),
    ):
        assert run.main([*WORDS, word]) == 2
        assert error in capsys.readouterr().err
