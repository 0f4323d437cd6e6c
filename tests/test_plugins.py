"""Operations of a user's own: known here, in the config and in worker processes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pathnas import config, evaluators, executors, networks, results
from pathnas import plan as plans
from pathnas.evaluators import InheritAndTrain
from pathnas.ops import OPS
from pathnas.outcomes import Candidate
from pathnas.plugins import Plugins
from pathnas.tree import Edge, Node
from tests import whole_run

ROOT = Path(__file__).parent.parent
SMOKE = ROOT / "experiments" / "smoke.yaml"
OWN = "tests.own_ops"
TREE = Node(
    (Edge("base", Node((Edge("conv1x5", Node((Edge("scale"),))),))), Edge("base")),
    "add",
    "replicate",
)
SETTINGS = [f"plugins=[{OWN}]", "search.ops=[identity, conv1x5, scale]"]


@pytest.fixture
def clean() -> Iterator[None]:
    """Leaves the registry as it was, and the plugin to be imported again."""
    before = dict(OPS)
    sys.modules.pop(OWN, None)
    yield
    sys.modules.pop(OWN, None)
    for name in set(OPS) - set(before):
        del OPS[name]


@pytest.mark.usefixtures("clean")
def test_plugins_are_imported_where_they_are_made_and_unpickled() -> None:
    assert "scale" not in OPS
    packed = pickle.dumps(Plugins((OWN,)))
    assert "scale" in OPS
    code = (
        "import pickle, sys; pickle.loads(sys.stdin.buffer.read()); "
        "from pathnas.ops import OPS; print('scale' in OPS)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=packed, cwd=ROOT, capture_output=True, check=True)
    assert done.stdout == b"True\n"


def test_a_plugin_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_ops.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    for name, reason in [
        ("no_such.ops", "ModuleNotFoundError: No module named 'no_such'"),
        ("broken_ops", "ZeroDivisionError: division by zero"),
    ]:
        with pytest.raises(ValueError, match=f"can be imported, got '{name}': {reason}"):
            Plugins((name,))
        settings = config.load(SMOKE, [f"plugins=[{name}]"])
        with pytest.raises(ValueError, match=reason):
            plans.Plan.of(settings)


@pytest.mark.usefixtures("clean")
def test_an_operation_of_a_plugin_can_be_searched_and_others_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown operation 'conv1x5'; known: avg_pool3x3"):
        plans.Plan.of(config.load(SMOKE, SETTINGS[1:]))
    plan = plans.Plan.of(config.load(SMOKE, SETTINGS))
    assert plan.limits.ops == ("identity", "conv1x5", "scale")
    assert plan.prepare(tmp_path).plugins.modules == (OWN,)


def outcome(executor: executors.Executor, evaluator: InheritAndTrain) -> object:
    [(_, result)] = executor.run(evaluator, [Candidate(TREE)])
    assert result.failure is None, result.failure
    assert result.value is not None
    return replace(result.value, seconds=0.0)


@pytest.mark.usefixtures("clean")
def test_a_worker_process_knows_the_operations_without_preloading(tmp_path: Path) -> None:
    plan = plans.Plan.of(config.load(SMOKE, SETTINGS))
    setting = plan.prepare(tmp_path)
    base = plan.base_training(setting, tmp_path / "base.safetensors")
    evaluators.train(replace(base, recipe=base.recipe.model_copy(update={"epochs": 1})))
    evaluator = plan.evaluator(base)
    with executors.executor("processes", 1) as processes, executors.executor("inline", 1) as here:
        found = outcome(processes, evaluator)
        assert found == outcome(here, evaluator)
    assert found.status == "ok"  # type: ignore[attr-defined]
    network = networks.build(channels=1, classes=4, tree=TREE, name="chain", widths=(4, 8))
    assert "conv1x5" in repr(network)


@pytest.mark.slow
@pytest.mark.usefixtures("clean")
def test_a_whole_run_searches_a_users_operations_and_its_best_loads_anywhere(
    tmp_path: Path,
) -> None:
    settings = config.load(SMOKE, [f"runs={tmp_path}", "search.trials=4", *SETTINGS])
    summary = whole_run.run(settings)
    assert summary["searches"]["search"]["failed"] == 0
    used = [row["key"] for row in results.trials(summary["folder"])]
    assert any("conv1x5" in key or "scale" in key for key in used)
    best = json.dumps(str(Path(summary["folder"], "best")))
    code = f"from pathnas import best; print(best.load({best}).tree)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip()
