"""The scripts in examples/ run, and what they print is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def output(script: str, *arguments: object) -> str:
    words = [sys.executable, f"examples/{script}", *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_torchvision_network_grows(tmp_path: Path) -> None:
    said = output("grow_torchvision.py", "--steps", 5, "--to", tmp_path / "weights.pt")
    changes = [float(found) for found in re.findall(r"largest change .*: (\S+)", said)]
    assert len(changes) == 2 and max(changes) < 1e-4
    assert "4 cells hold add(base > sep_conv5x5, base > max_pool3x3)" in said
    assert (tmp_path / "weights.pt").is_file()


@pytest.mark.slow
def test_an_agent_trains(tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    said = output("agent.py", "--steps", 512, "--picture", tmp_path / "tree.png")
    assert "random decisions" in said and "cell" in said
    assert (tmp_path / "tree.png").read_bytes().startswith(b"\x89PNG")


def test_every_example_is_run_here() -> None:
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert names == set(re.findall(r'output\("(\w+\.py)"', Path(__file__).read_text()))
