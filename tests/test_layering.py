"""Imports point down only, and the light parts stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = [
    {"tree", "data", "yaml_reader", "executors", "probing"},
    {"config_faults"},
    {"config", "datasets", "ops"},
    {"cell"},
    {"transforms", "drawing"},
    {"decisions", "outcomes"},
    {"networks", "optimizer_state", "surrogate", "training"},
    {"evaluators", "envs", "controllers"},
    {"search"},
    {"store", "board", "console", "plan"},
    {"best", "jobs"},
    {"finals"},
    {"experiment"},
    {"run"},
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
    """The rooms that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
    assert "torch" not in loaded_by("import pathnas, pathnas.run, pathnas.tree")


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
