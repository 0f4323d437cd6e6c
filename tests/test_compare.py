"""Controllers are compared by one command, which goes on where it was broken off."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pathnas import compare, comparison, evaluators
from pathnas.comparison import Curve
from tests import stub_run

ROOT = Path(__file__).parent.parent
SURROGATE = ROOT / "experiments" / "surrogate.yaml"


def test_figures_by_hand() -> None:
    curve = Curve([1.0, 3.0, 2.0], [0.5, 1.0, 1.5])
    assert curve.best_so_far(5).tolist() == [1, 3, 3, 3, 3]
    assert curve.figures(5) == {"best": 3, "last": 2, "area": 2.6, "trials": 3, "seconds": 1.5}
    assert curve.figures(1) == {"best": 1, "last": 1, "area": 1, "trials": 1, "seconds": 0.5}
    better, worse = Curve([9.0] * 3, [1, 2, 3]), Curve([0.0] * 3, [1, 2, 3])
    found = comparison.summary({"evolution": [better, worse], "random": [curve, curve]}, 3)
    assert found["random_95"] == pytest.approx(np.percentile([1, 3, 2] * 2, 95))
    assert found["last_above"]["evolution"] == found["area_ahead"]["evolution"] == 1
    assert "4.5000 ± 4.5000" in comparison.table(found)


def test_the_surrogate_answers_and_both_results_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(SURROGATE), "--surrogate", "--seeds", "2", "--controllers", "random,evolution"]
    small = ["search.trials=12", "search.controller.population=5", "search.episodes=4"]
    assert compare.main([*words, "--to", str(tmp_path), *small]) == 0
    found = json.loads((tmp_path / "comparison.json").read_text())
    assert found["trials"] == 12 and len(found["controllers"]["evolution"]) == 2
    assert (tmp_path / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    assert "evolution: last 50 above it for" in capsys.readouterr().out


def test_runs_are_compared_and_read_again_without_another_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[object] = []

    def train(job: evaluators.Training) -> evaluators.Trained:
        trained.append(job)
        return stub_run.train(job)

    monkeypatch.setattr(evaluators, "train", train)
    monkeypatch.setattr(evaluators, "score", stub_run.score)
    words = [str(stub_run.SMOKE), "--seeds", "1", "--controllers", "reinforce,random"]
    words += [f"runs={tmp_path}", *stub_run.TINY, "final.wider=true"]
    assert compare.main(words) == 0
    first = (tmp_path / "smoke-compare" / "comparison.json").read_text()
    once = len(trained)
    assert once > 0 and compare.main(words) == 0 and len(trained) == once
    assert (tmp_path / "smoke-compare" / "comparison.json").read_text() == first
    assert {"test", "base", "wider"} <= set(json.loads(first)["controllers"]["random"][0])


def test_a_setting_that_is_refused_leaves_no_run_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(stub_run.SMOKE), "--seeds", "1", "--controllers", "random", f"runs={tmp_path}"]
    assert compare.main([*words, "data.validation=999999"]) == compare.EXIT_USAGE
    assert "999999" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("--seeds", "0"), ("--controllers", "magic")])
def test_bad_input_is_one_message_and_exit_code_2(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main([str(SURROGATE), *words]) == 2
    assert "expected --seeds >= 1 and distinct --controllers" in capsys.readouterr().err


def test_the_surrogate_refuses_a_metric_that_it_does_not_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(stub_run.SMOKE), "--surrogate", "search.reward.metric=likelihood"]
    assert compare.main(words) == 2
    assert "search.reward.metric: the surrogate knows accuracy alone" in capsys.readouterr().err
