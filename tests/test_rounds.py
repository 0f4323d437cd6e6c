"""Growth in rounds: a tree that has grown is grown further, and the run's best is the next base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pathnas import best, config, decisions, evaluators, networks, results, run, store
from pathnas import tree as trees
from pathnas.controllers.evolution import mutated
from pathnas.controllers.random_controller import RandomController
from pathnas.controllers.rollout import replay, rollout
from pathnas.database import Database
from pathnas.decisions import Limits
from pathnas.evaluators import Setting, Trained, Training
from pathnas.outcomes import Candidate
from pathnas.store import RECORD
from pathnas.transforms import Birth, arrange, grow, growth
from pathnas.tree import BASE_TREE, Node
from tests import stub_run


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
    further = evaluators.replace(job, start=start)
    assert store.fingerprint(job) == store.fingerprint(evaluators.replace(job, start=BASE_TREE))
    assert store.fingerprint(further) != store.fingerprint(job)


WORDS = (str(stub_run.SMOKE), "--quiet", "search.rounds=2", *stub_run.TINY)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """The trainings of runs whose trainings are made up; base networks are real ones."""
    done: list[Training] = []
    real = evaluators.train

    def train(job: Training) -> Trained:
        done.append(job)
        if job.save is not None:  # the next round reads what this one saves
            job = evaluators.replace(job, recipe=job.recipe.model_copy(update={"epochs": 0}))
            return real(job)
        return stub_run.train(job)

    monkeypatch.setattr(evaluators, "train", train)
    monkeypatch.setattr(evaluators, "score", lambda job: 0.5)
    return done


def test_the_best_network_of_a_round_is_the_base_of_the_next(
    trained: list[Training], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([*WORDS, f"runs={tmp_path}"]) == 0
    assert capsys.readouterr().out.count("best tree: ") == 2
    first, second = tmp_path / "smoke", tmp_path / "smoke-round2"
    start = best.load(first / "best").tree
    settings = config.load(second / "config.yaml")
    assert settings.base.grown == str(first / "best") and settings.search.rounds == 1
    found = best.load(second / "best")
    assert trees.unfolded(found.tree, start) is not None
    for row in results.trials(second):
        candidate = next(job for job in trained if str(job.tree) == row["key"])
        assert candidate.start == start
    summary = json.loads((second / "summary.json").read_text())
    assert summary["networks"]["base"]["tree"] == trees.key(start)
    assert summary["networks"]["base_longer"]["tree"] == trees.key(start)
    count = len(trained)
    assert run.main([*WORDS, f"runs={tmp_path}"]) == 0 and len(trained) == count


def test_rounds_that_were_broken_off_go_on_to_the_same_end(
    trained: list[Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.main([*WORDS, f"runs={tmp_path / 'whole'}"]) == 0
    number, made_up = len(trained), evaluators.train
    for at in (3, number // 2 + 4):
        trained.clear()
        runs = tmp_path / f"broken-{at}"

        def breaking(job: Training, at: int = at) -> Trained:
            if len(trained) == at:
                raise KeyboardInterrupt
            return made_up(job)

        with monkeypatch.context() as patch:
            patch.setattr(evaluators, "train", breaking)
            with pytest.raises(KeyboardInterrupt):
                run.main([*WORDS, f"runs={runs}"])
        assert run.main(["--quiet", "--resume", str(runs / "smoke")]) == 0
        assert len(trained) == number
        for name in ("smoke", "smoke-round2"):
            rows, whole = (results.trials(p / name) for p in (runs, tmp_path / "whole"))
            plain = [[{**row, "attempt": 0} for row in some] for some in (rows, whole)]
            assert plain[0] == plain[1]


def test_what_rounds_stand_on_must_not_change(
    trained: list[Training], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([*WORDS, f"runs={tmp_path}"]) == 0
    words = ["--quiet", "--resume", str(tmp_path / "smoke")]
    assert run.main([*words, "--extend", "trials=2"]) == 2
    assert "--extend: expected search.rounds=1, got 2" in capsys.readouterr().err
    database = Database(tmp_path / "smoke-round2" / RECORD)
    with database.transaction():
        database.execute("DELETE FROM meta WHERE key = 'summary'")
    database.close()
    weights = tmp_path / "smoke" / "best" / "network.safetensors"
    other = {name: tensor + 1 for name, tensor in load_file(weights).items()}
    save_file(other, weights)
    assert run.main(words) == 3
    assert "was begun with another network to grow from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("base.grown=nowhere",), "nowhere/tree.json"),
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


def test_a_tree_out_of_order_or_damaged_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = {"edges": [{"op": "conv1x1"}, {"op": "avg_pool3x3"}], **ADDED}
    tree = trees.from_dict({"edges": [{"op": "base", "child": inner}]})
    for text, error in ((trees.to_json(tree), "in canonical form"), ("{", "expected a tree")):
        (tmp_path / "tree.json").write_text(text)
        assert run.main([*WORDS, f"runs={tmp_path}", f"base.grown={tmp_path}"]) == 2
        assert error in capsys.readouterr().err
