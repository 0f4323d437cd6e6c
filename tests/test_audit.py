"""An audit finds a trial that ranks, says when none does, and goes on when it was broken off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pathnas import agreement, audit, auditing, config, evaluators, networks, verdict
from pathnas.evaluators import Trained, Training
from pathnas.limits import Limits
from pathnas.plan import Plan
from tests import stub_run

WORDS = [str(stub_run.SMOKE), "--trees", "20", "--seeds", "2", "--epochs", "1,2,4", "--quiet"]
FEW = ("--trees", "8")
NOISE = {1: 9.0, 2: 0.1, 4: 0.1, 8: 0.1}
"""By epochs, in units of what trees differ by: a trial of one epoch says nothing."""
TELLING = 3
"""Epochs of the only trials whose losses on the training images are known, and tell the quality."""


def made_up(job: Training) -> Trained:
    """A training whose accuracy is the tree's quality and the more noise the shorter it is."""
    for path in evaluators.outputs(job):
        path.write_bytes(b"weights")
    quality = sum(str(job.tree).encode()) % 97 / 97
    noise = torch.randn((), generator=torch.Generator().manual_seed(job.seed))
    epochs = job.recipe.epochs
    accuracy = 0.5 + 0.02 * (quality + NOISE.get(epochs, 0) * float(noise))
    curve = [2 - quality] * epochs if epochs == TELLING else []
    return Trained(accuracy, 3, 7 * epochs, 0.5, tuple(curve), 1 - accuracy)


@pytest.fixture
def audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, list[Training]]]:
    """Does an audit whose trainings are made up; returns its exit code and them."""

    def run(
        *words: str, train: Callable[[Training], Trained] = made_up
    ) -> tuple[int, list[Training]]:
        done: list[Training] = []

        def kept(job: Training) -> Trained:
            trained = train(job)
            done.append(job)
            return trained

        monkeypatch.setattr(evaluators, "train", kept)
        own = [f"runs={tmp_path}", *stub_run.TINY, "final.training.epochs=8", *words]
        return audit.main([*WORDS, *own]), done

    return run


def found_in(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "smoke-audit" / "audit.json").read_text())


def test_the_cheapest_trial_that_ranks_is_recommended(
    audited: Callable[..., tuple[int, list[Training]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, done = audited()
    assert code == 0 and len(done) == 1 + 20 * 2 * (2 * 3 + 2)
    found = found_in(tmp_path)
    assert found["recommended"][0] in ("gated, 2 epochs", "hard, 2 epochs")
    rows = found["rows"]
    assert rows["gated, 4 epochs"]["images"] == 28 and rows["hard, 1 epoch"]["seconds"] == 0.5
    assert rows["gated, 1 epoch"]["seeds"] > 5 * rows["gated, 4 epochs"]["seeds"]
    scores = np.array(rows[auditing.INHERITED]["scores"]["accuracy"])
    assert scores.shape == (20, 2)
    assert rows[auditing.INHERITED]["tau"][auditing.INHERITED]["accuracy"]["tau"] == pytest.approx(
        agreement.within(scores, seed=0).tau
    )
    text = capsys.readouterr().out
    assert "recommended: " in text and "multiply-adds" in text and "full, from scratch" in text


def test_a_metric_that_ranks_makes_a_trial_trustworthy(
    audited: Callable[..., tuple[int, list[Training]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(NOISE, TELLING, 50.0)
    assert audited("--epochs", f"1,{TELLING}", "--births", "gated")[0] == 0
    found = found_in(tmp_path)
    assert found["recommended"] == ["gated, 3 epochs", "fit"]
    tau = found["rows"]["gated, 3 epochs"]["tau"][auditing.INHERITED]
    assert tau["accuracy"]["tau"] == tau["likelihood"]["tau"] < 0.5 < tau["fit"]["tau"]
    assert tau["extrapolated_fit"] == tau["fit"]  # a curve that does not fall stays where it is
    assert set(found["rows"]["gated, 1 epoch"]["scores"]) == {"accuracy", "likelihood"}
    assert "recommended: gated, 3 epochs, by its fit" in capsys.readouterr().out


def test_every_learning_rate_is_audited(
    audited: Callable[..., tuple[int, list[Training]]], tmp_path: Path
) -> None:
    words = ("--epochs", "2", "--births", "gated", "--learning-rates")
    usual = config.load(stub_run.SMOKE, stub_run.TINY).search.trial.learning_rate
    _, done = audited(*FEW, *words, f"{usual},0.5")
    assert len(done) == 1 + 8 * 2 * (2 + 2)
    assert {"gated, 2 epochs", "gated, 2 epochs, rate 0.5"} < set(found_in(tmp_path)["rows"])
    rates = [job.recipe.learning_rate for job in done if job.recipe.epochs == 2]
    assert sorted(set(rates)) == [usual, 0.5]
    _, more = audited(*FEW, *words, f"{usual},0.25")
    assert {job.recipe.learning_rate for job in more} == {0.25}


def test_every_average_is_audited_and_a_full_training_has_none(
    audited: Callable[..., tuple[int, list[Training]]], tmp_path: Path
) -> None:
    words = ("--epochs", "2", "--births", "gated")
    _, done = audited(*FEW, *words)
    _, more = audited(*FEW, *words, "--averages", "0,0.25", "--learning-rates", "0.5")
    assert len(more) == 8 * 2 * 2  # no full training, since that is what it was
    averages = [job.recipe.average_fraction for job in more]
    assert sorted(set(averages)) == [0.0, 0.25] and averages.count(0.25) == 16
    rows = set(found_in(tmp_path)["rows"])
    assert {"gated, 2 epochs, rate 0.5", "gated, 2 epochs, rate 0.5, average 0.25"} < rows
    full = [job for job in done if job.recipe.epochs == 8]
    assert len(full) == 8 * 2 * 2 and not any("average" in str(job.recipe) for job in full)


def test_seeds_are_a_trials_own_and_nothing_is_inherited_from_scratch(
    audited: Callable[..., tuple[int, list[Training]]], tmp_path: Path
) -> None:
    _, done = audited(*FEW)
    settings = config.load(stub_run.SMOKE, [f"runs={tmp_path}", *stub_run.TINY])
    trials = [job for job in done if job.recipe.epochs == 2 and job.birth == "gated"]
    first = trials[0]
    of_search = evaluators.trial_seed(settings.seed, auditing.Candidate(first.tree))
    assert first.seed == of_search
    assert len({job.seed for job in trials}) == len(trials) == 16
    fresh = [job for job in done if job.birth == "scratch"]
    assert len(fresh) == 16 and all(job.weights is None for job in fresh)
    assert all(job.weights is not None for job in trials)


def test_no_trial_is_recommended_where_full_trainings_do_not_agree(
    audited: Callable[..., tuple[int, list[Training]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(NOISE, 8, 50.0)
    assert audited(*FEW)[0] == 0 and found_in(tmp_path)["recommended"] is None
    assert "no trial can be recommended: two full trainings" in capsys.readouterr().out


def test_none_is_recommended_where_trials_are_too_short(
    audited: Callable[..., tuple[int, list[Training]]], tmp_path: Path
) -> None:
    assert audited("--epochs", "1")[0] == 0
    found = found_in(tmp_path)
    assert found["recommended"] is None and "no trial's tau" in found["reason"]


def test_an_audit_that_was_broken_off_goes_on_to_the_same_figures(
    audited: Callable[..., tuple[int, list[Training]]], tmp_path: Path
) -> None:
    count = 0

    def breaking(job: Training) -> Trained:
        nonlocal count
        count += 1
        if count == 100:
            raise KeyboardInterrupt
        return made_up(job)

    with pytest.raises(KeyboardInterrupt):
        audited(*FEW, train=breaking)
    code, rest = audited(*FEW)
    assert code == 0 and len(rest) == 1 + 8 * 2 * 8 - 99
    broken = found_in(tmp_path)
    assert audited(*FEW) == (0, []) and found_in(tmp_path) == broken
    _, more = audited(*FEW, "--epochs", "1,2,3,4")  # trains only what is new
    assert len(more) == 8 * 2 * 2 and {job.recipe.epochs for job in more} == {3}


def test_a_tree_whose_training_fails_is_left_out_and_named(
    audited: Callable[..., tuple[int, list[Training]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad: set[str] = set()

    def failing(job: Training) -> Trained:
        if job.birth == "scratch":
            bad.update([str(job.tree)] if not bad else [])
            if str(job.tree) in bad:
                raise FloatingPointError("the loss became nan")
        return made_up(job)

    assert audited(*FEW, train=failing)[0] == 0
    found = found_in(tmp_path)
    assert len(found["trees"]) == 7 and set(found["failed"]) == bad
    assert "left out: full, from scratch, seed 0" in capsys.readouterr().out

    def hopeless(job: Training) -> Trained:
        if job.recipe.epochs == 8:
            raise FloatingPointError("the loss became nan")
        return made_up(job)

    assert audited(*FEW, "name=other", train=hopeless)[0] == 1
    error = capsys.readouterr().err
    assert "at least 4 trees whose trainings all succeed, got 0; full" in error


def test_counting_costs_is_named_where_it_ranks_as_well() -> None:
    rows = {
        name: {
            "images": images,
            "tau": {auditing.INHERITED: {metric: {"tau": tau, "low": low, **ends}}},
        }
        for name, metric, images, tau, low, ends in [
            ("gated, 4 epochs", "accuracy", 40, 0.5, 0.3, {"high": 0.7, "strict": 0.2}),
            ("gated, 2 epochs", "fit", 20, 0.4, 0.1, {"high": 0.6, "strict": -0.1}),
            (auditing.INHERITED, "accuracy", 80, 0.6, 0.4, {"high": 0.8, "strict": 0.3}),
            (verdict.CONTROL, "count", 0, 0.55, 0.4, {"high": 0.7, "strict": 0.3}),
        ]
    }
    best, reason = verdict.recommended(rows, 0.5)
    assert (
        best == ("gated, 4 epochs", "accuracy") and "counting multiply-adds ranks as well" in reason
    )
    assert verdict.recommended(rows, 0.9)[0] is None


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--trees", "3"), "expected --trees >= 4, --seeds >= 2"),
        (("--seeds", "1"), "expected --trees >= 4, --seeds >= 2"),
        (("--share", "0"), "--share in (0, 1]"),
        (("--epochs", "1,x"), "--epochs: expected distinct whole numbers"),
        (("--epochs", "0"), "--epochs: expected distinct whole numbers"),
        (("--learning-rates", "0.1,0.1"), "--learning-rates: expected distinct numbers > 0"),
        (("--learning-rates", "nan"), "--learning-rates: expected distinct numbers > 0"),
        (("--averages", "0,1.5"), "--averages: expected distinct numbers in [0, 1] with commas"),
        (("--averages", "0,0"), "--averages: expected distinct numbers in [0, 1] with commas"),
        (("--averages", "0,nan"), "--averages: expected distinct numbers in [0, 1] with commas"),
        (("--averages", "half"), "--averages: expected distinct numbers in [0, 1] with commas"),
        (("--births", "gated,soft"), "--births: expected distinct names of gated, hard, distilled"),
        (("search.depth=1", "search.ops=[identity]"), "the space is too small"),
        (("search.depht=1",), "did you mean"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    words: tuple[str, ...], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main([*WORDS, f"runs={tmp_path}", *stub_run.TINY, *words]) == 2
    assert error in capsys.readouterr().err
    assert not (tmp_path / "smoke-audit").exists()


def test_a_trial_too_short_for_its_distillation_is_bad_input(
    audited: Callable[..., tuple[int, list[Training]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert audited("--births", "distilled", "--epochs", "1")[0] == 2
    assert not (tmp_path / "smoke-audit").exists()
    assert "epochs must be below those of the training, 1" in capsys.readouterr().err


def test_halving_does_not_bound_the_lengths_of_an_audit(tmp_path: Path) -> None:
    words = [f"runs={tmp_path}", "search.halving={factor: 4, rungs: 2}", "search.trial.epochs=8"]
    plan = Plan.of(config.load(stub_run.SMOKE, words))
    base = plan.base_training(plan.prepare(tmp_path / "data"), tmp_path / "base.safetensors")
    found = auditing.stages(plan, base, auditing.Ways(["gated"], [2, 4, 8]))
    assert [stage.training.recipe.epochs for stage in found[:3]] == [2, 4, 8]


def test_other_settings_in_the_same_folder_are_refused(
    audited: Callable[..., tuple[int, list[Training]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert audited(*FEW)[0] == 0 and audited(*FEW, "search.trial.learning_rate=0.5")[0] == 2
    assert "search.trial.learning_rate" in capsys.readouterr().err


def test_random_candidates_are_distinct_and_of_their_seed() -> None:
    first, again, other = (auditing.random_candidates(Limits(), 5, seed) for seed in (0, 0, 1))
    assert len({candidate.key for candidate in first}) == 5
    assert first == again != other


def test_from_scratch_is_the_network_of_the_tree_with_weights_of_its_seed(tmp_path: Path) -> None:
    plan = Plan.of(config.load(stub_run.SMOKE, stub_run.TINY))
    base = plan.base_training(plan.prepare(tmp_path), tmp_path / "base.safetensors")
    fresh = auditing.stages(plan, base, auditing.Ways(["gated"], [1]))[-1]
    candidate = auditing.random_candidates(plan.limits, 1, 0)[0]
    job = fresh.job(candidate, 0, 0)
    network = evaluators.build(job)
    with torch.random.fork_rng():
        torch.manual_seed(evaluators.seed_of(job.seed, "weights"))
        shape = job.setting.image_shape
        expected = networks.build(
            channels=shape[0], classes=job.setting.classes, tree=job.tree, **job.network
        )
    for name, tensor in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)
    with pytest.raises(ValueError, match="birth 'scratch' inherits nothing"):
        evaluators.build(auditing.replace(job, weights=tmp_path / "base.safetensors"))


@pytest.mark.slow
def test_the_command_audits_with_real_trainings(tmp_path: Path) -> None:
    words = ["--trees", "6", "--seeds", "2", "--epochs", "1,2", "--quiet"]
    own = [f"runs={tmp_path}", "data.train=64", "data.validation=64", "data.test=8"]
    assert audit.main([str(stub_run.SMOKE), *words, *own]) == 0
    found = found_in(tmp_path)
    assert len(found["rows"]) == 2 * 2 + 2 + 1 and found["failed"] == {}
    for name, row in found["rows"].items():
        for tau in (tau for by_metric in row["tau"].values() for tau in by_metric.values()):
            assert -1 <= tau["low"] <= tau["high"] <= 1
        if name != verdict.CONTROL:
            assert row["seconds"] > 0 and row["images"] in (64, 128)
            assert all(len(np.unique(scores)) > 1 for scores in row["scores"].values())
