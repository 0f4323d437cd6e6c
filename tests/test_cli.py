"""The command `pathnas`: its words, its help, its exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

from pathnas import cli, resume, run

ROOT = Path(__file__).parent.parent


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert f"\n  {name} " in shown
    assert cli.main([]) == cli.EXIT_USAGE
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == shown


@pytest.mark.parametrize("words", ["--help", "doctor --help", "doctor", "--completion bash"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_error(words: str, unbuffered: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "pathnas.cli", *words.split()],
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(write)
    assert done.stderr == b""
    # What argparse writes itself fails unseen where it is not buffered.
    assert done.returncode == cli.EXIT_PIPE or (words == "doctor --help" and unbuffered)


def test_help_loads_no_command() -> None:
    code = "import sys; from pathnas import cli; cli.main(['--help']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {
        "torch",
        "numpy",
        "pydantic",
        *(f"pathnas.{name}" for name in cli.COMMANDS),
    }


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_each_command_has_help_with_an_example_that_it_understands(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    name = f"python -m pathnas.{command}"
    assert f"usage: {name}" in shown
    parser: ArgumentParser = cli.module(command).parser()
    assert parser.epilog is not None
    examples = parser.epilog.partition(": ")[2].split("; ")
    assert examples and all(example.startswith(name) for example in examples)
    for example in examples:
        words = example.removeprefix(name).split()
        parser.parse_intermixed_args(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rum"], "unknown command 'rum'; did you mean run?"),
        (["xyzzy"], "see pathnas --help"),
        (["--completion", "tcsh"], "expected --completion bash"),
    ],
)
def test_what_is_unknown(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == cli.EXIT_USAGE
    assert message in capsys.readouterr().err


def test_completion_completes_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--completion", "bash"]) == 0
    script = capsys.readouterr().out

    def completed(*words: str) -> set[str]:
        line = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _pathnas; "
        line += 'printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", script + line], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.split())

    assert completed("pathnas", "re") == {"resume", "report"}
    assert completed("pathnas", "draw", "--w") == {"--width"}


def test_an_interrupt_is_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(words: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.module("status"), "main", interrupted)
    assert cli.main(["status"]) == cli.EXIT_INTERRUPTED


def test_resume_hands_its_words_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(run, "main", lambda words: seen.append(list(words)) or 3)
    words = ["runs/x", "workers.count=1", "--extend", "trials=5", "--verbose", "--json"]
    assert resume.main(words) == 3
    expected = ["--resume", "runs/x", "workers.count=1", "--extend", "trials=5"]
    assert seen == [[*expected, "--verbose", "--json"]]


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("digit", "experiments/digits.yaml"),
        ("experiments/smok.yaml", "experiments/smoke.yaml"),
        ("somewhere/smoke.yaml", "experiments/smoke.yaml"),
    ],
)
def test_a_file_that_is_not_there_brings_the_nearest(
    path: str, near: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(["run", path]) == run.EXIT_USAGE
    assert f"{path}: no such file; nearest: {near}" in capsys.readouterr().err


def test_modules_are_commands_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pathnas.cli", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0 and re.fullmatch(r"\d+\.\d+\.\d+\n", done.stdout)
