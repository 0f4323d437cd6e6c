"""The command line: what it prints, its exit codes, and every way of running it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pathnas import results, run
from pathnas.exits import EXIT_DAMAGED

ROOT = Path(__file__).parent.parent
QUICK = ("search.trials=2", "search.control=false", "final.top=1", "final.wider=false")


def command(*arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "pathnas.run", *map(str, arguments)]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)


def test_a_run_from_the_checkout_shows_its_trials_and_ends_with_a_table(tmp_path: Path) -> None:
    done = command("experiments/smoke.yaml", f"runs={tmp_path}", *QUICK)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"run folder {tmp_path}/smoke"
    trials = [line for line in lines if " best 0." in line]
    assert len(trials) >= 2 and all("accuracy 0." in line and "base" in line for line in trials)
    assert lines[-1] == f"all in {tmp_path}/smoke"
    names = [line.split()[0] for line in lines[-6:-2]]
    assert names == ["network", "base", "base_longer", "best"]
    assert "search" in done.stderr and "it/s" in done.stderr  # the bar


def test_quiet_prints_the_result_only(tmp_path: Path) -> None:
    done = command("experiments/smoke.yaml", f"runs={tmp_path}", "--quiet", *QUICK)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split()[0] == "network" and done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("experiments/smok.yaml",), "experiments/smok.yaml"),
        (("experiments/smoke.yaml", "search.trails=3"), "did you mean 'trials'?"),
        (("experiments/smoke.yaml", "data.name=nowhere"), "unknown dataset 'nowhere'"),
        (("experiments/cifar10.yaml", "data.root=/nowhere"), "cifar-10-python.tar.gz"),
        (("experiments/smoke.yaml", "device=cuda:99"), "device must be one that this machine has"),
        (("experiments/smoke.yaml", "base.weights=none.safetensors"), "none.safetensors"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    runs = tmp_path / "runs"
    assert run.main([*arguments, f"runs={runs}"]) == run.EXIT_USAGE
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not runs.exists()


def test_a_folder_that_cannot_be_made_is_said_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "file").write_text("in the way")
    code = run.main(["experiments/smoke.yaml", f"runs={tmp_path / 'file'}"])
    assert code == run.EXIT_FAILED
    assert "the run failed" in capsys.readouterr().err


def test_a_run_that_fails_says_why_and_exits_with_1(tmp_path: Path) -> None:
    done = command("experiments/smoke.yaml", f"runs={tmp_path}", "workers.deadline=0.001")
    assert done.returncode == run.EXIT_FAILED
    assert "timed_out" in done.stderr and "Traceback" not in done.stderr


def group_lives(leader: int) -> bool:
    """Whether a process of the group is there that is not merely waiting to be reaped."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rsplit(")", 1)[1].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(group) == leader and state != "Z":
            return True
    return False


def ended_trials(folder: Path) -> list[dict]:
    """The trials of a live run that have ended."""
    if not (folder / "record.sqlite").exists():
        return []
    return [row for row in results.trials(folder) if row["status"]]


def start(words: list[str], output: Path) -> subprocess.Popen[bytes]:
    with open(output, "w") as file:
        return subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process_and_goes_on(tmp_path: Path, number: int) -> None:
    folder, output = tmp_path / "smoke", tmp_path / "output"
    words = [sys.executable, "-m", "pathnas.run", "experiments/smoke.yaml", f"runs={tmp_path}"]
    process = start([*words, "search.trials=1000", "search.patience=1000"], output)
    assert wait_for(lambda: bool(ended_trials(folder)))
    os.kill(process.pid, number)
    assert process.wait(timeout=15) == 128 + number
    assert wait_for(lambda: not group_lives(process.pid), 20)
    said = output.read_text()
    assert "Traceback" not in said
    assert f"to continue: python -m pathnas.run --resume {folder}" in said
    before = ended_trials(folder)
    process = start([*words[:3], "--resume", str(folder)], output)
    assert wait_for(lambda: len(ended_trials(folder)) > len(before) + 2)
    os.kill(process.pid, number)
    os.kill(process.pid, number)  # the second leaves at once
    assert process.wait(timeout=15) == 128 + number
    assert wait_for(lambda: not group_lives(process.pid), 20)
    after = ended_trials(folder)
    assert all(row in after for row in before)


def test_a_file_in_the_place_of_a_folder_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no folder")
    assert run.main(["--resume", str(file)]) == EXIT_DAMAGED
    assert "holds no run" in capsys.readouterr().err
