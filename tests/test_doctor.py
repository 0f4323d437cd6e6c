"""What the doctor finds, and what it advises."""

from __future__ import annotations

import configparser
import json
import re
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from pathnas import doctor


def found(tmp_path: Path, ray: str | None = None) -> dict[str, doctor.Finding]:
    return {one.what: one for one in doctor.findings(tmp_path / "data", tmp_path / "runs", ray)}


def test_this_machine_can_run_and_every_lack_has_an_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--runs", str(tmp_path), "--data", str(tmp_path), "--json"]
    assert doctor.main(arguments) == 0
    findings = json.loads(capsys.readouterr().out)
    assert {"Python", "torch", "processor", "disk", "digits"} <= {one["what"] for one in findings}
    assert all(one["advice"] for one in findings if one["state"] != "ok")


def test_for_people_advice_stands_below(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--runs", str(tmp_path), "--data", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "-> put cifar-10-python.tar.gz there" in shown and "\033" not in shown
    one = doctor.Finding("x", "fault", "y", "z")
    assert doctor.shown(one, colours=True).startswith("\033[31m!!\033[0m x")


def test_all_that_is_required_is_looked_at() -> None:
    settings = configparser.ConfigParser()
    settings.read(Path(__file__).parent.parent / "setup.cfg")
    required = settings["options"]["install_requires"].split()
    assert set(doctor.NEEDED) == {re.split("[<>=]", one)[0] for one in required}


def test_elsewhere_than_on_linux_it_says_so_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.delattr("os.sched_getaffinity")
    [one] = found(tmp_path).values()
    assert one.state == "fault" and "Linux" in one.advice


@pytest.mark.parametrize("address", ["", "auto", None])
def test_without_an_address_of_ray_nothing_is_wrong(tmp_path: Path, address: str | None) -> None:
    assert found(tmp_path, address)["Ray cluster"].state == "note"


def test_images_are_found(tmp_path: Path) -> None:
    assert found(tmp_path)["cifar10"].state == "note"
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)
    assert found(tmp_path)["cifar10"].state == "ok"


def test_what_is_needed_and_missing_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    findings = found(tmp_path)
    assert findings["gymnasium"].state == "fault"
    assert findings["gymnasium"].advice == "pip install gymnasium"
    assert findings["onnx"].state == "note" and "pathnas[onnx]" in findings["onnx"].advice
    assert doctor.main(["--runs", str(tmp_path)]) == doctor.EXIT_FAILED


def test_a_full_disk_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage(10))
    assert found(tmp_path)["disk"].state == "fault"


def test_a_cluster_is_asked(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert found(tmp_path, f"127.0.0.1:{port}")["Ray cluster"].state == "ok"
    for address in (f"127.0.0.1:{port}", "nowhere", "127.0.0.1:99999999"):
        assert found(tmp_path, address)["Ray cluster"].state == "fault"
