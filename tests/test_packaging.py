"""What is installed: the package works outside the checkout, and puts nothing else there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMOKE = ROOT / "experiments" / "smoke.yaml"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that building leaves no trace in it."""
    copy = tmp_path_factory.mktemp("source") / "checkout"
    everywhere = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__")

    def ignored(folder: str, names: list[str]) -> set[str]:
        left = {"runs", "data", "build", "site"} if Path(folder) == ROOT else set()
        return left | set(everywhere(folder, names))

    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


def python(site: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python with a folder before its own packages, away from the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    words = [sys.executable, *arguments]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


def install(target: Path, what: str | Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), str(what)], check=True, timeout=300)


def test_an_installed_copy_runs_and_has_no_top_level_envs(source: Path, tmp_path: Path) -> None:
    site, away = tmp_path / "site", tmp_path / "away"
    away.mkdir()
    install(site, source)
    tops = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"pathnas", "bin"}  # bin holds the command
    where = python(site, "-c", "import pathnas; print(pathnas.__file__)", folder=away)
    assert where.stdout.startswith(str(site))
    for name in ("envs", "controllers"):
        assert python(site, "-c", f"import {name}", folder=away).returncode != 0
        assert python(site, "-c", f"import pathnas.{name}", folder=away).returncode == 0
    done = python(site, "-m", "pathnas.run", str(SMOKE), "--quiet", folder=away)
    assert done.returncode == 0, done.stderr
    assert (away / "runs" / "smoke" / "summary.json").is_file()
    assert (site / "pathnas" / "py.typed").is_file()
    assert (away / "runs" / "smoke" / "report.html").is_file()
    assert (site / "bin" / "pathnas").is_file()


@pytest.mark.parametrize("mode", ["", "strict", "compat"])
def test_an_editable_install_runs_away_from_the_checkout(
    source: Path, tmp_path: Path, mode: str
) -> None:
    environment = tmp_path / "environment"
    words = [sys.executable, "-m", "venv", "--system-site-packages", str(environment)]
    subprocess.run(words, check=True)
    binary = environment / "bin" / "python"
    # The new environment sees this one's packages, as `--system-site-packages` of a venv does not.
    packages = subprocess.run(
        [sys.executable, "-c", "import site; print(site.getsitepackages()[0])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    own = next((environment / "lib").glob("python*")) / "site-packages"
    # Appended by a .pth file, so that an editable install of its own comes first.
    (own / "zz_parent.pth").write_text(packages + "\n")
    settings = ["--config-settings", f"editable_mode={mode}"] if mode else []
    pip = [str(binary), "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed"]
    subprocess.run([*pip, *settings, "-e", str(source)], check=True, timeout=300)
    words = [str(binary), "-m", "pathnas.run", str(SMOKE), "--quiet"]
    overrides = ["search.trials=2", "search.control=false", "final.wider=false"]
    done = subprocess.run([*words, *overrides], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = "import pathnas, pathnas.envs; print(pathnas.__file__)"
    where = subprocess.run([str(binary), "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert str(source) in where.stdout
