"""The code in the documents runs, and what they say of keys and commands is so."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import pathnas
from pathnas import cli, config, ops
from tests import whole_run

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("pathnas", "envs", "controllers")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "__init__.py"
)


PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


def blocks(name: str) -> list[str]:
    return BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))


CODE = [
    pytest.param(code, id=f"{page}-{number}")
    for page in PAGES
    for number, code in enumerate(blocks(page), start=1)
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `runs/digits` is a run that has ended, though of other images."""
    folder = tmp_path_factory.mktemp("run")
    overrides = [f"runs={folder}/runs", "name=digits", "search.trials=2", "workers.kind=inline"]
    whole_run.run(config.load(ROOT / "experiments" / "smoke.yaml", overrides))
    return folder


@pytest.mark.parametrize("code", CODE)
def test_the_code_in_the_documents_runs(
    code: str, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sb3_contrib" in code:
        pytest.importorskip("sb3_contrib")
    monkeypatch.chdir(digits)
    known = dict(ops.OPS)
    exec(compile(code, "document", "exec"), {})
    for name in set(ops.OPS) - set(known):
        del ops.OPS[name]


def test_links_between_the_documents_lead_somewhere() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
            if not target.startswith("http"):
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_the_citation_has_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == pathnas.__version__


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").is_file() and (tmp_path / "api" / "index.html").is_file()


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module: str) -> None:
    name = module if module.startswith("pathnas") else f"pathnas.{module}"
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_documents_name_commands_and_files_that_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", text, re.MULTILINE):
            assert f"\n{''.join(target)}:" in makefile, target
        for path in re.findall(r"experiments/\w+\.yaml", text):
            assert (ROOT / path).is_file()
        for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for name in re.findall(r"^(?:\.venv/bin/)?pathnas ([a-z]+)", block, re.MULTILINE):
                assert name in cli.COMMANDS, f"{page}: {name}"


def test_summary_and_event_tags_are_documented(digits: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = digits / "runs" / "digits"
    summary = json.loads((folder / "summary.json").read_text())
    page = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
    keys = {*summary, *summary["searches"]["search"], *summary["networks"]["best"]}
    assert [key for key in keys if f"`{key}`" not in page and f".{key}`" not in page] == []
    for name in ("env", "controller", "control"):
        reader = EventAccumulator(str(folder / "tensorboard" / name)).Reload()
        for tag in reader.Tags()["scalars"]:
            shown = "controller/frequency/<action>" if "/frequency/" in tag else tag
            shown = "result/<network>_<what>" if tag.startswith("result/") else shown
            assert f"`{shown}`" in page, tag
        for tag in reader.Tags()["images"]:
            assert f"`{tag}`" in page, tag
