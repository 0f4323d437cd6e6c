"""What a run prints, as far as it is asked to."""

from __future__ import annotations

import argparse
import re

import pytest

from pathnas.console import Console, add_options
from pathnas.outcomes import Candidate, Outcome
from pathnas.tree import BASE_TREE

FAILED = Outcome("failed", seed=1, error="no luck", traceback="Traceback\n  line 3\n")


def printed(console: Console, capsys: pytest.CaptureFixture[str]) -> str:
    with console.timed("phase base"), console.progress("trials", 2):
        console.line("a line")
        console.trial(1, Candidate(BASE_TREE), Outcome("ok", 0.5, seed=1, macs=1200), 0.5)
        console.trial(2, Candidate(BASE_TREE), FAILED, 0.5)
    return capsys.readouterr().out


def test_a_quiet_console_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(Console(quiet=True), capsys) == ""
    assert printed(Console(quiet=True, verbose=True), capsys) == ""


def test_a_plain_console_prints_a_line_a_trial(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(Console(), capsys).splitlines()
    assert lines == [
        "a line",
        "   1  accuracy 0.5000  best 0.5000  base",
        "   2  failed: no luck  base",
    ]


def test_a_verbose_console_prints_what_begins_and_why_it_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(Console(verbose=True), capsys)
    plain = re.sub(r"\[\d\d:\d\d:\d\d\] ", "", text)
    assert plain.startswith("phase base begins\na line\n")
    assert re.search(r"phase base took \d+\.\d s\n$", plain)
    assert "1,200 multiply-adds" in plain
    assert "base failed:\n    Traceback\n      line 3\n" in plain


def test_commands_ask_in_one_way() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert vars(parser.parse_args(["--verbose"])) == {"quiet": False, "verbose": True}
    with pytest.raises(SystemExit):
        parser.parse_args(["--quiet", "--verbose"])
