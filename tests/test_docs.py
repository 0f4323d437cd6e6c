"""The code in the documents runs, and what they say of keys and commands is so."""

from __future__ import annotations

import doctest
import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("pathnas", "envs", "controllers")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "__init__.py"
)


def blocks(name: str) -> list[str]:
    return BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("code", [b for b in blocks("README.md") if "runs/" not in b])
def test_the_readmes_code_runs(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {})


def test_the_readme_loads_the_best_network_as_it_is_loaded() -> None:
    [code] = [b for b in blocks("README.md") if "runs/" in b]
    assert 'best.load("runs/digits/best")' in code
    from pathnas.best import Best

    for name in re.findall(r"found\.(\w+)", code):
        assert name in Best.__dataclass_fields__


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module: str) -> None:
    name = module if module.startswith("pathnas") else f"pathnas.{module}"
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_readme_names_every_file_and_command_that_it_speaks_of() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z-]+)`?", readme):
        if target not in ("here",):
            assert f"\n{target}:" in makefile, target
    for path in re.findall(r"experiments/\w+\.yaml", readme):
        assert (ROOT / path).is_file()


def test_summary_and_event_tags_are_documented(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from pathnas import config
    from tests import whole_run

    overrides = [f"runs={tmp_path}", "search.trials=2", "workers.kind=inline"]
    settings = config.load(ROOT / "experiments" / "smoke.yaml", overrides)
    summary = whole_run.run(settings)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    keys = {*summary, *summary["searches"]["search"], *summary["networks"]["best"]}
    assert [key for key in keys if f"`{key}`" not in readme and f".{key}`" not in readme] == []
    assert json.dumps(summary)
    for name in ("env", "controller", "control"):
        reader = EventAccumulator(str(tmp_path / "smoke" / "tensorboard" / name)).Reload()
        for tag in reader.Tags()["scalars"]:
            shown = "controller/frequency/<action>" if "/frequency/" in tag else tag
            assert f"`{shown}`" in readme, tag
