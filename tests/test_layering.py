"""Imports point down only, and the light parts stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pathnas

ROOT = Path(__file__).parent.parent

FLOORS = [
    {"interrupts"},
    {"exits", "files", "agreement"},
    {
        *("tree", "data", "yaml_reader", "executors", "probing", "tracing", "database"),
        *("drop_path", "dotted", "scheduled", "clones", "plugins", "channels", "wrappers"),
        *("checkpoints", "parallel", "weight_average", "quick_layers", "extrapolation"),
    },
    {"config_faults", "config_networks", "treecells", "specs"},
    {"config_types"},
    {"config_recipes"},
    {"config", "datasets", "ops", "flow"},
    {"cell", "recipes"},
    {"transforms", "drawing", "comparison", "costs", "latency", "graphs", "train_settings"},
    {"flow_rules", "deepening", "board_graph"},
    {"layers"},
    {"steps"},
    {"actions"},
    {"limits"},
    {"decisions", "outcomes", "receipts", "logs", "places"},
    {"grafting"},
    {"networks", "optimizer_state", "surrogate", "training", "testing", "counting"},
    {"growth", "weight_files"},
    {"evaluators", "envs", "controllers"},
    {"search"},
    {"rounds"},
    {"asynchronous", "ledger", "board", "console", "plan"},
    {"clock"},
    {"store"},
    {"best", "folder", "jobs", "results", "trials"},
    {"finals", "train_folder", "auditing", "rungs", "facts"},
    {"experiment", "train_job", "report", "verdict"},
    {"run", "export", "trainer", "draw"},
    {"full_training", "resume", "status", "doctor"},
    {"train", "compare", "space", "audit"},
    {"cli"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
MODULES = sorted(
    path for folder in ("pathnas", "envs", "controllers") for path in (ROOT / folder).rglob("*.py")
)


def room(path: Path) -> str:
    """The name of a file's room: its module, or its package below pathnas."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "pathnas" else parts[0]


def imported(path: Path) -> set[str]:
    """The rooms that a file imports, anywhere in it but for type checkers alone."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not _is_for_types(node)]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "pathnas":
            names = [f"pathnas.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            names = [node.module]
        found |= {name.split(".")[1] for name in names if name.startswith("pathnas.")}
    return found


def _is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_only(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        assert not imported(path)
        return
    # Controllers read observations, which are the env's; all other rooms on a floor are apart.
    allowed = {here, "envs"} if here == "controllers" else {here}
    for other in imported(path) - allowed:
        assert FLOOR_OF[other] < FLOOR_OF[here], f"{here} imports {other}, which is not below it"


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_or_the_command_loads_no_torch() -> None:
    code = "import pathnas, pathnas.run, pathnas.train, pathnas.draw, pathnas.tree"
    code += ", pathnas.cli, pathnas.resume, pathnas.status, pathnas.doctor, pathnas.compare"
    code += ", pathnas.space, pathnas.audit"
    assert "torch" not in loaded_by(code)


def test_the_functions_of_the_package_have_names_that_no_module_has() -> None:
    code = "import pathnas.grafting, pathnas.places; print(all(map(callable, "
    code += "[getattr(pathnas, name) for name in pathnas.__all__])))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"
    rooms = {room(path) for path in MODULES}
    assert set(pathnas.__all__) == set(pathnas._HOMES) and not rooms & set(pathnas.__all__)
    with pytest.raises(AttributeError, match="no attribute 'grfat'"):
        _ = pathnas.grfat  # type: ignore[attr-defined]


def test_a_worker_imports_nothing_that_it_does_not_need() -> None:
    loaded = loaded_by("import pathnas.evaluators")
    heavy = {"torchvision", "sklearn", "skimage", "matplotlib", "tensorboard", "gymnasium"}
    assert not loaded & heavy
    assert "pathnas.controllers" not in loaded


def test_transforms_load_nothing_of_reinforcement_learning_and_the_env_no_training() -> None:
    rooms = loaded_by("import pathnas.transforms")
    assert not rooms & {"gymnasium", "pathnas.controllers", "pathnas.decisions"}
    rooms = loaded_by("import gymnasium; gymnasium.make('pathnas.envs:pathnas/PathLevel-v0')")
    assert not rooms & {"pathnas.training", "pathnas.evaluators", "pathnas.data"}
