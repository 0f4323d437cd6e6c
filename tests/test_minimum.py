"""The oldest releases that are claimed: each library has one, and the extras agree."""

from __future__ import annotations

import configparser
import importlib.metadata
from pathlib import Path

import pytest
from packaging.version import Version

from tests import minimum


def test_every_library_has_a_lower_bound() -> None:
    config = configparser.ConfigParser()
    config.read(minimum.SETUP)
    libraries = config["options"]["install_requires"].split()
    assert [one.replace(">=", "==") for one in libraries] == minimum.constraints()[: len(libraries)]


def test_what_is_installed_here_is_not_older() -> None:
    for line in minimum.constraints():
        name, _, oldest = line.partition("==")
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # of an extra that is not installed
            continue
        assert Version(found) >= Version(oldest), name


def test_an_extra_with_another_bound_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = minimum.SETUP.read_text().replace("    scipy>=1.11", "    scipy>=1.11\n    pydantic>=9")
    (tmp_path / "setup.cfg").write_text(lines)
    monkeypatch.setattr(minimum, "SETUP", tmp_path / "setup.cfg")
    with pytest.raises(ValueError, match="pydantic: expected one lower bound, got 9 too"):
        minimum.constraints()
