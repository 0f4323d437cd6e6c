"""A run's folder: begun once, continued under its own settings, by one process at a time."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from pathnas import config, folder
from pathnas.config import Config, ConfigError
from pathnas.folder import FolderInUse, open_run
from tests.stub_run import SMOKE


def settings(runs: Path, *overrides: str) -> Config:
    return config.load(SMOKE, [f"runs={runs}", *overrides])


def test_a_folder_is_begun_then_continued(tmp_path: Path) -> None:
    with open_run(settings(tmp_path)) as store:
        assert not store.resumed
        store.note(a=1)
    assert config.load(tmp_path / "smoke" / "config.yaml") == settings(tmp_path)
    with open_run(settings(tmp_path)) as store:
        assert store.resumed and store.meta("a") == 1 and store.notes == []
        assert [row["kind"] for row in store.database.rows("events")] == ["begun", "resumed"]


def test_one_process_at_a_time_and_its_place_is_free_afterwards(tmp_path: Path) -> None:
    with open_run(settings(tmp_path)):
        who = f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(FolderInUse, match=f"smoke is in use by {who}"):
            open_run(settings(tmp_path))
        assert folder.config_of(tmp_path / "smoke") == settings(tmp_path)  # who reads may
    open_run(settings(tmp_path)).__exit__()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=7", "was begun with seed=0, not 7"),
        ("search.depth=2", "was begun with search.depth="),
        ("search.trials=7", r"search.trials=8, not 7 \(a budget can only grow\)"),
        ("base.network.widths=[4, 6]", r"base.network.widths"),
    ],
)
def test_other_settings_are_refused_by_name_and_change_nothing(
    tmp_path: Path, override: str, message: str
) -> None:
    open_run(settings(tmp_path)).__exit__()
    with pytest.raises(ConfigError, match=message) as caught:
        open_run(settings(tmp_path, override))
    assert "or choose another name=..., or begin anew by --new" in str(caught.value)
    assert config.load(tmp_path / "smoke" / "config.yaml") == settings(tmp_path)
    open_run(settings(tmp_path)).__exit__()


@pytest.mark.parametrize(
    "override",
    ["search.trials=9", "search.hours=null", "workers.count=1", "workers.kind=inline"],
)
def test_workers_and_larger_budgets_may_change(tmp_path: Path, override: str) -> None:
    open_run(settings(tmp_path, "search.hours=1")).__exit__()
    with open_run(settings(tmp_path, "search.hours=1", override)) as store:
        assert store.config == settings(tmp_path, "search.hours=1", override)
    assert folder.resumed(tmp_path / "smoke") == store.config


def test_new_begins_beside_what_is_there(tmp_path: Path) -> None:
    for name in ("smoke", "smoke-2", "smoke-3"):
        with open_run(folder.another(settings(tmp_path, "seed=3"))) as store:
            assert (store.path.name, store.config.name, store.resumed) == (name, name, False)


def test_a_moved_run_goes_on_where_it_stands(tmp_path: Path) -> None:
    open_run(settings(tmp_path / "a")).__exit__()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "smoke").rename(tmp_path / "b" / "smoke")
    found = folder.resumed(tmp_path / "b" / "smoke", ["workers.count=1"], extend=5)
    assert found == settings(tmp_path / "b", "workers.count=1", "search.trials=13")
    with open_run(found) as store:
        assert store.resumed


def test_another_environment_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_run(settings(tmp_path)).__exit__()
    now = folder.environment()
    monkeypatch.setattr(folder, "environment", lambda: {**now, "torch": "9.9", "cpu": "ABACUS"})
    with open_run(settings(tmp_path)) as store:
        [torch, cpu] = store.notes
    assert "begun with torch" in torch and "goes on with 9.9" in torch
    assert "goes on with ABACUS: what it finds may differ" in cpu


def test_an_owner_that_is_being_written_does_not_hide_the_lock(tmp_path: Path) -> None:
    with open_run(settings(tmp_path)) as store:
        for text in ("", json.dumps([1]), json.dumps({"pid": 1})):
            (store.path / ".owner.json").write_text(text)
            with pytest.raises(FolderInUse, match="is in use by another process"):
                open_run(settings(tmp_path))
