"""Broken run folders: refused in one line and left as they are, or mended with the same end."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pathnas import best, controllers, evaluators, facts, folder, results, run
from pathnas.database import Database, RecordError
from pathnas.evaluators import Trained, Training
from pathnas.ledger import Ledger
from pathnas.plan import Plan
from tests import stub_run
from tests.broken import (
    Break,
    command,
    flipped,
    malicious,
    marker,
    opened,
    plain_json,
    removed,
    resealed,
    snapshots,
    sql,
    state_of,
    truncated,
    written,
)

pytestmark = pytest.mark.usefixtures("stubs")

Capture = pytest.CaptureFixture[str]
MIDDLE = 8
"""The snapshot in which the search has ended and the control waits for its second trial."""
LOG = "record.sqlite-wal"
NEWEST = "checkpoints/search-2.pt"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, stubs: object) -> Path:
    """A finished run in ``whole``; copies of it as crashes would have left it in ``crashed``."""
    root = tmp_path_factory.mktemp("folders")
    assert snapshots(root / "whole", root / "crashed") == 16
    assert (root / "crashed" / str(MIDDLE) / "smoke" / LOG).stat().st_size > 0
    return root


@pytest.fixture(scope="module")
def expected(folders: Path) -> dict[str, Any]:
    found = stub_run.contents(folders / "whole" / "smoke" / "record.sqlite")
    assert all(found.values())
    return found


@pytest.fixture
def crashed(folders: Path, tmp_path: Path) -> Path:
    """The folder of a run whose process died in the control, with its write-ahead log."""
    shutil.copytree(folders / "crashed" / str(MIDDLE), tmp_path / "runs")
    return tmp_path / "runs" / "smoke"


@pytest.fixture
def half(crashed: Path) -> Path:
    """The same, when somebody has looked at it, so that all of the record is in one file."""
    with opened(crashed) as connection:
        query = "SELECT count(*) FROM updates WHERE search = 'search'"
        assert connection.execute(query).fetchone() == (3,)
    return crashed


@pytest.fixture
def whole(folders: Path, tmp_path: Path) -> Path:
    """The folder of a finished run."""
    shutil.copytree(folders / "whole", tmp_path / "runs")
    return tmp_path / "runs" / "smoke"


def refused(folder: Path, capsys: Capture) -> tuple[int, str]:
    """The exit code and the single line with which a run is refused."""
    capsys.readouterr()
    code = command(folder.parent, "--quiet")
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.count("\n") == 1, said
    return code, said.strip()


def goes_on(folder: Path, expected: dict[str, Any], capsys: Capture) -> str:
    """What a run says that goes on and ends as if nothing had been."""
    capsys.readouterr()
    assert command(folder.parent) == 0, capsys.readouterr().err
    assert stub_run.contents(folder / "record.sqlite") == expected
    return capsys.readouterr().out


def foreign(path: Path) -> None:
    (path / "record.sqlite").unlink()
    with opened(path) as connection:
        connection.execute("CREATE TABLE trials (number INTEGER)")


def both_learners(path: Path) -> None:
    for file in (path / "checkpoints").glob("search-*.pt"):
        flipped(f"checkpoints/{file.name}")(path)


def folder_for_record(path: Path) -> None:
    (path / "record.sqlite").unlink()
    (path / "record.sqlite").mkdir()


SEARCH = "search = 'search'"
SHA = "fits not its SHA-256"
SENSE = "makes no sense"
TABLES = (
    *("trials", "outcomes", "updates", "episodes", "generators", "trainings", "meta", "clock"),
    "events",
)
# Name, how a run is broken that died half way, the message (a pattern); exit code 3 for all.
REFUSED: list[tuple[str, Break, str]] = [
    ("no record", removed("record.sqlite"),
     r"holds 'checkpoints' but no run \(record.sqlite is missing\): choose another name"),
    ("an empty record", written("record.sqlite", ""), "is no record of pathnas"),
    ("a text", written("record.sqlite", "trials\n" * 999), "is damaged: file is not a database"),
    ("zeros", written("record.sqlite", bytes(8192)), "is damaged: file is not a database"),
    ("a foreign database", foreign, "is no record of pathnas: application_id is 0"),
    ("a newer schema", sql("PRAGMA user_version = 2"), r"newer schema \(2\) than this pathnas "
     r"reads \(1\); continue it with the version of pathnas that wrote it"),
    ("an older schema", sql("PRAGMA user_version = 0"), r"older schema \(0\)"),
    ("a header", truncated("record.sqlite", 0.001), "is damaged: "),
    ("half a record", truncated("record.sqlite", 0.5), "is damaged: "),
    ("a page missing", truncated("record.sqlite", -4096), "is damaged: "),
    ("a folder for a record", folder_for_record, "record.sqlite is missing"),
    ("a tree", sql("UPDATE trials SET tree = replace(tree, 'base', 'case')"),
     rf"trials \(search, 0\) {SHA}"),
    ("a number of a trial", sql(f"UPDATE trials SET number = 9 WHERE {SEARCH} AND number = 5"),
     "trials of the search are missing"),
    ("a reward", sql("UPDATE outcomes SET reward = reward + 1"), rf"outcomes \(search, \d\) {SHA}"),
    ("an outcome", sql("UPDATE outcomes SET outcome = '{}' WHERE number = 1"),
     rf"outcomes \(search, 1\) {SHA}"),
    ("an update", sql("UPDATE updates SET rewards = '[1, 1]' WHERE number = 2"),
     rf"updates \(search, 2\) {SHA}"),
    ("an episode", sql("UPDATE episodes SET actions = '[0]' WHERE number = 3"),
     rf"episodes \(search, 3\) {SHA}"),
    ("a digest", sql(f"UPDATE episodes SET digest = '' WHERE {SEARCH} AND number = 0"),
     rf"episodes \(search, 0\) {SHA}"),
    ("a generator", sql("UPDATE generators SET state = zeroblob(16)"), rf"generators .*{SHA}"),
    ("a training", sql("UPDATE trainings SET result = '{}'"), rf"trainings \(base\) {SHA}"),
    ("the images", sql("UPDATE meta SET value = '{}' WHERE key = 'images'"),
     rf"meta \(images\) {SHA}"),
    ("the config", sql("UPDATE meta SET value = replace(value, '8', '9') WHERE key = 'config'"),
     rf"meta \(config\) {SHA}"),
    ("a text that is none", sql("UPDATE trials SET tree = CAST(x'ff' AS TEXT)"),
     "is damaged: .*UTF-8"),
    ("the clock", sql("UPDATE clock SET seconds = 'noon'"), f"the clock {SENSE}"),
    *((f"no table {name}", sql(f"DROP TABLE {name}"), f"is damaged: no such table: {name}")
      for name in TABLES),
    ("no column", sql("ALTER TABLE trials RENAME COLUMN tree TO bush"), "is damaged: "),
    ("no config", sql("DELETE FROM meta WHERE key = 'config'"), "the config is missing"),
    ("no environment", sql("DELETE FROM meta WHERE key = 'environment'"),
     f"the environment {SENSE}"),
    ("a trial lost", sql(f"DELETE FROM trials WHERE {SEARCH} AND number = 2"),
     "trials of the search are missing"),
    ("a generator lost", sql(f"DELETE FROM generators WHERE {SEARCH}"), f"the search {SENSE}"),
    ("an episode lost", sql(f"DELETE FROM episodes WHERE {SEARCH} AND number = 0"),
     "episodes of the search are missing"),
    ("an update lost", sql(f"DELETE FROM updates WHERE {SEARCH} AND number = 1"),
     "updates of the search are missing"),
    ("an outcome lost", sql(f"DELETE FROM outcomes WHERE {SEARCH} AND number = 1"),
     f"the search {SENSE}"),
    ("both learners damaged", both_learners, "no sound state of the learner of the search"),
    ("no checkpoints", removed("checkpoints"), "no sound state of the learner of the search"),
    # From here on the digests are right.
    ("a config that is no JSON", resealed("meta", "key = 'config'", value="{"),
     f"the config {SENSE}"),
    ("a config of another kind", resealed("meta", "key = 'config'", value="[1, 2]"),
     f"the config {SENSE}"),
    ("a config with another key", resealed("meta", "key = 'config'",
     value=lambda text: plain_json(text, colour="red")),
     f"the config {SENSE}: .*colour: unknown key"),
    ("an environment of another kind", resealed("meta", "key = 'environment'", value="3"),
     f"the environment {SENSE}"),
    ("an outcome that is a list", resealed("outcomes", SEARCH, outcome="[]"),
     f"the search {SENSE}"),
    ("an outcome with another key", resealed("outcomes", SEARCH,
     outcome=lambda text: plain_json(text, colour="red")), f"the search {SENSE}"),
    ("a tree that is a list", resealed("trials", SEARCH, tree="[1]"),
     rf"the search {SENSE}: .*expected a mapping, got \[1\]"),
    ("a tree without end", resealed("trials", SEARCH, tree='{"edges": [' * 9999),
     f"the search {SENSE}"),
    ("actions that cannot be", resealed("episodes", "search = 'control'", actions="[99999]"),
     f"the control {SENSE}"),
    ("actions that are words", resealed("episodes", "search = 'control'", actions='["a"]'),
     f"the control {SENSE}"),
    ("episodes that are a number", resealed("updates", SEARCH, episodes="7"),
     f"the search {SENSE}"),
    ("a generator that is short", resealed("generators", SEARCH, state=b"1"),
     f"the search {SENSE}"),
    ("a training that is a list", resealed("trainings", "name = 'base'", result="[3]"),
     f"the training base {SENSE}"),
    ("a training without value", resealed("trainings", "name = 'base'", result="{}"),
     f"the training base {SENSE}"),
    ("a training of another kind", resealed("trainings", "name = 'base'",
     result='{"value": {"colour": "red"}, "seconds": 1}'), f"the training base {SENSE}"),
    ("files of a training", resealed("trainings", "name = 'base'", outputs="[]"),
     f"the training base {SENSE}"),
    ("other images", resealed("meta", "key = 'images'",
     value=lambda text: plain_json(text, train="0" * 64)),
     "was begun with other images: train of data.name=synthetic have changed since"),
]  # fmt: skip


def named(cases: list[tuple[str, Break, str]]) -> Any:
    return pytest.mark.parametrize(
        ("change", "message"),
        [case[1:] for case in cases],
        ids=[case[0].replace(" ", "-") for case in cases],
    )


@named(REFUSED)
def test_a_broken_record_is_refused_in_one_line(
    half: Path, change: Break, message: str, capsys: Capture
) -> None:
    change(half)
    before = state_of(half)
    code, said = refused(half, capsys)
    assert re.search(message, said), said
    assert code == run.EXIT_DAMAGED and str(half) in said
    assert state_of(half).items() >= before.items()


def malicious_file(name: str) -> Break:
    return lambda path: (path / name).write_bytes(malicious(path))


def vouched_pickle(path: Path) -> None:
    content = malicious(path)
    (path / NEWEST).write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    resealed("learners", f"{SEARCH} AND number = 2", sha256=sha256)(path)


def pickled_pixels(path: Path) -> None:
    array = np.array([{"a": 1}], dtype=object)
    np.save(path / "data" / "train" / "pixels.npy", array, allow_pickle=True)


def leftovers(path: Path) -> None:
    for name in ("weights/.base.safetensors.part", "checkpoints/.search-9.pt.part", ".x.part"):
        (path / name).write_text("half")
    for name in ("data/.train.0123", ".best.part"):
        (path / name).mkdir()
        (path / name / "labels.npy").write_text("half")


def file_for_folder(path: Path) -> None:
    shutil.rmtree(path / "data" / "train")
    (path / "data" / "train").write_text("not a folder")


def link_for_folder(path: Path) -> None:
    shutil.move(path / "data" / "train", path.parent / "elsewhere")
    (path / "data" / "train").symlink_to(path.parent / "elsewhere")


BEFORE = "note: the search's latest learner is damaged; the one before it serves"
BASE = "weights/base.safetensors"
MOMENTS = "weights/base.moments.safetensors"
# Name, how a run is broken that died half way, what is said of it (a pattern).
MENDED: list[tuple[str, Break, str]] = [
    ("nothing", lambda path: None, "resumed after 3 updates"),
    ("a state of a trial", sql("UPDATE trials SET state = 'odd', attempt = 'x'"), "resumed"),
    ("texts for people", sql("UPDATE events SET text = 'x'"), "resumed"),
    ("newest learner missing", removed(NEWEST), BEFORE),
    ("newest learner flipped", flipped(NEWEST), BEFORE),
    ("newest learner cut", truncated(NEWEST, 0.7), BEFORE),
    ("newest learner empty", truncated(NEWEST, 0), BEFORE),
    ("newest learner a pickle", malicious_file(NEWEST), BEFORE),
    ("newest learner a vouched pickle", vouched_pickle, BEFORE),
    ("row of a learner", sql("UPDATE learners SET sha256 = 'x' WHERE number = 2"), BEFORE),
    ("row of a learner lost", sql("DELETE FROM learners WHERE number = 2"), BEFORE),
    ("weights missing", removed(BASE), f"{BASE} is missing: base is done again"),
    ("weights cut", truncated(BASE, 0.5), f"{BASE} is damaged: base is done again"),
    ("weights flipped", flipped(BASE), f"{BASE} is damaged: base is done again"),
    ("weights a pickle", malicious_file(BASE), f"{BASE} is damaged: base is done again"),
    ("moments flipped", flipped(MOMENTS), f"{MOMENTS} is damaged: base is done again"),
    ("pixels flipped", flipped("data/train/pixels.npy"), "resumed"),
    ("pixels cut", truncated("data/train/pixels.npy", 0.5), "resumed"),
    ("pixels empty", truncated("data/train/pixels.npy", 0), "resumed"),
    ("pixels pickled", pickled_pixels, "resumed"),
    ("pixels a pickle", malicious_file("data/train/pixels.npy"), "resumed"),
    ("labels cut", truncated("data/train/labels.npy", -8), "resumed"),
    ("list of files", written("data/train/files.json", "[1]"), "resumed"),
    ("images missing", removed("data/validation"), "resumed"),
    ("all images missing", removed("data"), "resumed"),
    ("images a file", file_for_folder, "resumed"),
    ("images a link", link_for_folder, "resumed"),
    ("leftovers", leftovers, "resumed"),
    ("config for people", written("config.yaml", "!!python/name:os.system"), "resumed"),
    ("table for people", written("trials.csv", b"\xff"), "resumed"),
    ("owner", written(".owner.json", "[3"), "resumed"),
]


@named(MENDED)
def test_what_can_be_made_again_is_and_the_run_ends_the_same(
    half: Path, expected: dict[str, Any], change: Break, message: str, capsys: Capture
) -> None:
    change(half)
    assert re.search(message, goes_on(half, expected, capsys))
    assert not marker(half).exists()
    assert not [path for path in half.rglob(".*") if path.name != ".lock"]
    assert (half / "config.yaml").read_text().startswith("name: smoke\n")


def test_an_older_learner_is_not_needed(
    half: Path, expected: dict[str, Any], capsys: Capture
) -> None:
    (half / "checkpoints" / "search-1.pt").write_bytes((half / NEWEST).read_bytes())
    learners = expected["checkpoints"]
    learners = {**learners, "search-1.pt": learners["search-2.pt"]}
    assert BEFORE not in goes_on(half, {**expected, "checkpoints": learners}, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("snapshot", [3, 8, 12])
@pytest.mark.parametrize("size", [0.0, 0.3, 0.55, 0.8, -1.0])
def test_a_log_that_was_cut_loses_the_end_of_the_run_at_most(
    folders: Path,
    expected: dict[str, Any],
    tmp_path: Path,
    snapshot: int,
    size: float,
    capsys: Capture,
) -> None:
    shutil.copytree(folders / "crashed" / str(snapshot), tmp_path / "runs")
    path = tmp_path / "runs" / "smoke"
    truncated(LOG, size)(path)
    (path / f"{LOG.removesuffix('wal')}shm").unlink()
    code = command(path.parent, "--quiet")
    said = capsys.readouterr().err
    if code == run.EXIT_DAMAGED:  # the record speaks of learners that are no longer kept
        assert "no sound state of the learner" in said and said.count("\n") == 1
    else:
        assert code == 0 and stub_run.contents(path / "record.sqlite") == expected


def all_that_decides(record: Path, plan: Plan) -> tuple[list[Any], int]:
    """What a resume reads from a record, and how many learners it found damaged."""
    found: list[Any] = []
    lost = 0
    with closing(Database(record)) as database:
        for name, kind in (("search", "reinforce"), ("control", "random")):
            small = {"hidden": 4, "head": 4, "embedding": 2}
            learner = controllers.make(kind, plan.limits.actions, seed=0, **small)
            generator = torch.Generator()
            resumed = Ledger(database, name, plan.limits).resume(learner, generator)
            trials = list(resumed.progress.record.trials.values())
            found += [resumed.updates, trials, generator.get_state().tolist()]
            lost += resumed.lost
    return found, lost


def test_flipped_bits_of_a_record_are_noticed_or_change_nothing(whole: Path) -> None:
    record = whole / "record.sqlite"
    sound, plan = record.read_bytes(), Plan.of(folder.config_of(whole))
    expected, lost = all_that_decides(record, plan)
    assert lost == 0
    random, noticed = np.random.default_rng(0), 0
    for place in random.integers(len(sound), size=80):
        broken = bytearray(sound)
        broken[place] ^= 1 << random.integers(8)
        record.write_bytes(broken)
        try:
            found, lost = all_that_decides(record, plan)
        except RecordError as error:
            assert str(record) in str(error)
            noticed += 1
        else:
            assert lost or found == expected, place
    assert noticed > 15


def test_a_finished_run_that_is_begun_again_says_its_result_and_changes_nothing(
    whole: Path, capsys: Capture
) -> None:
    before = state_of(whole)
    assert command(whole.parent, "--quiet") == 0
    assert "best tree:" in capsys.readouterr().out
    assert state_of(whole) == before


@pytest.mark.parametrize("value", ["3", "{}", '{"networks": {"best": 3}}', "{"])
def test_a_summary_that_is_none_is_refused(whole: Path, value: str, capsys: Capture) -> None:
    resealed("meta", "key = 'summary'", value=value)(whole)
    code, said = refused(whole, capsys)
    assert code == run.EXIT_DAMAGED and f"the summary {SENSE}" in said


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1", "was begun with seed=0, not 1"),
        ("search.depth=3", "was begun with search.depth=2, not 3"),
        ("search.controller.hidden=5", "was begun with search.controller.hidden=4, not 5"),
        ("search.trials=4", r"search.trials=5, not 4 \(a budget can only grow\)"),
    ],
)
def test_a_run_goes_on_under_its_own_settings_only(
    half: Path, override: str, message: str, capsys: Capture
) -> None:
    before = state_of(half)
    assert command(half.parent, override) == run.EXIT_USAGE
    said = capsys.readouterr().err
    assert re.search(message, said) and "Traceback" not in said
    assert state_of(half) == before


def test_a_budget_that_grows_in_the_control_ends_as_one_that_was_large_at_once(
    half: Path, tmp_path: Path
) -> None:
    assert command(tmp_path / "large", "--quiet", "search.trials=10") == 0
    assert command(half.parent, "--quiet", "search.trials=10") == 0
    large = stub_run.contents(tmp_path / "large" / "smoke" / "record.sqlite")
    assert stub_run.contents(half / "record.sqlite") == large


def test_a_folder_that_was_renamed_asks_for_its_name(
    half: Path, expected: dict[str, Any], capsys: Capture
) -> None:
    moved = half.rename(half.with_name("other"))
    assert run.main(["--resume", str(moved)]) == run.EXIT_DAMAGED
    said = capsys.readouterr().err
    assert "holds the run 'smoke': give the folder that name back to continue it" in said
    assert command(moved.parent, "name=other") == run.EXIT_USAGE
    assert "was begun with name='smoke' (a string), not 'other'" in capsys.readouterr().err
    (moved.parent / "elsewhere").mkdir()
    goes_on(moved.rename(moved.parent / "elsewhere" / "smoke"), expected, capsys)


def test_what_is_no_folder_is_left_alone(half: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "others" / "smoke"
    path.parent.mkdir()
    path.write_text("mine")
    code, said = refused(path, capsys)
    assert code == run.EXIT_FAILED and "is there already, and is no folder" in said
    assert path.read_text() == "mine"
    path.unlink()
    path.symlink_to(half)
    code, said = refused(path, capsys)
    assert code == run.EXIT_FAILED and "is there already, and is no folder" in said


def test_a_folder_that_holds_something_else_is_left_without_a_trace(
    tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "runs" / "smoke"
    path.mkdir(parents=True)
    (path / "thesis.tex").write_text("mine")
    code, said = refused(path, capsys)
    assert code == run.EXIT_DAMAGED and "holds 'thesis.tex' but no run" in said
    assert [entry.name for entry in path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["", "-journal", "-wal", "-shm"])
def test_a_record_that_was_only_begun_is_begun_again(
    tmp_path: Path, name: str, expected: dict[str, Any], capsys: Capture
) -> None:
    path = tmp_path / "runs" / "smoke"
    path.mkdir(parents=True)
    (path / f".record.sqlite.part{name}").write_text("half a record")
    goes_on(path, expected, capsys)


HOLD = """
import json, os, socket, sys, time
from filelock import FileLock
folder, owner = sys.argv[1:]
lock = FileLock(folder + "/.lock")
lock.acquire(timeout=0)
with open(folder + "/.owner.json", "w") as file:
    file.write(owner or json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("owner", ["", "[1]", '{"pid": 3}'])
def test_a_run_in_use_names_its_owner_and_is_free_when_that_was_killed(
    half: Path, expected: dict[str, Any], owner: str, capsys: Capture
) -> None:
    words = [sys.executable, "-c", HOLD, str(half), owner]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"held\n"
            code, said = refused(half, capsys)
            assert len(results.trials(half)) == 8  # readers are not shut out
        finally:
            process.send_signal(signal.SIGKILL)
    who = "another process" if owner else f"process {process.pid} on {socket.gethostname()}"
    assert (code, said) == (run.EXIT_IN_USE, f"{half} is in use by {who}")
    goes_on(half, expected, capsys)


def test_a_write_that_fails_leaves_a_record_that_goes_on(
    crashed: Path, expected: dict[str, Any], capsys: Capture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (crashed / LOG).stat().st_size + 20_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        code, said = refused(crashed, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == run.EXIT_FAILED and re.search("disk I/O error|full|too large", said), said
    assert len(results.trials(crashed)) >= 8
    goes_on(crashed, expected, capsys)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts something and returns where; skips where that is not allowed."""
    made: list[Path] = []

    def mount(*options: str) -> Path:
        path = tmp_path / "mount"
        path.mkdir()
        done = subprocess.run(["mount", *options, str(path)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs to mount, which is not allowed here: {done.stderr.strip()}")
        made.append(path)
        return path

    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("needs to mount a file system, which only root may")
    yield mount
    for path in made:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("kilobytes", [64, 140, 240, 320, 400])
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_space(
    mounted: Callable[..., Path], expected: dict[str, Any], kilobytes: int, capsys: Capture
) -> None:
    runs = mounted("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs")
    code, said = refused(runs / "smoke", capsys)
    assert code == run.EXIT_FAILED
    assert re.search("database or disk is full|No space left|os error 28", said), said
    if (runs / "smoke" / "record.sqlite").exists():
        results.trials(runs / "smoke")
    subprocess.run(["mount", "-o", "remount,size=64m", str(runs)], check=True)
    goes_on(runs / "smoke", expected, capsys)


@pytest.mark.parametrize("saving", [False, True], ids=["trial", "full training"])
def test_a_disk_that_is_full_in_a_job_is_no_fault_of_its_tree(
    crashed: Path,
    expected: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    saving: bool,
) -> None:
    def train(job: Training) -> Trained:
        if (job.save is not None) == saving:
            raise RuntimeError("I/O error: No space left on device (os error 28)")
        return stub_run.train(job)

    with monkeypatch.context() as patch:
        patch.setattr(evaluators, "train", train)
        code, said = refused(crashed, capsys)
    assert code == run.EXIT_FAILED
    assert re.search(r"No space left on device.*make room and start the run again", said), said
    goes_on(crashed, expected, capsys)


def test_a_folder_that_cannot_be_written_can_be_read(
    half: Path, mounted: Callable[..., Path], expected: dict[str, Any], capsys: Capture
) -> None:
    runs = mounted("--bind", str(half.parent))
    subprocess.run(["mount", "-o", "remount,bind,ro", str(runs)], check=True)
    code, said = refused(runs / "smoke", capsys)
    assert code == run.EXIT_FAILED and "Read-only file system" in said
    assert len(results.trials(runs / "smoke")) == 8
    goes_on(half, expected, capsys)


WEIGHTS = "expected the weights of this network"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("about.json", None, "about.json is damaged"),
        ("about.json", b"[" * 99_999, "about.json is damaged"),
        ("about.json", b"[]", "about.json is damaged"),
        ("about.json", b'{"image_shape": [1]}', "about.json is damaged"),
        ("about.json", b"", "about.json is damaged"),
        ("tree.json", None, "codec can't decode"),
        ("tree.json", b"[" * 99_999, "a tree is at most 64 edges deep"),
        ("tree.json", b"{", "Expecting"),
        ("config.yaml", None, r"config\.yaml"),
        ("config.yaml", b"!!python/object/apply:os.mkdir [x]", r"tags .* are not allowed"),
        ("network.safetensors", None, WEIGHTS),
        ("network.safetensors", b"", WEIGHTS),
        ("network.safetensors", b"\xff" * 64, WEIGHTS),
    ],
)
def test_a_best_network_from_strangers_is_read_without_harm(
    whole: Path, name: str, content: bytes | None, message: str
) -> None:
    (whole / "best" / name).write_bytes(malicious(whole) if content is None else content)
    with pytest.raises(ValueError, match=message):
        best.load(whole / "best")
    assert not marker(whole).exists()


@pytest.mark.parametrize(
    "values",
    [
        {"classes": 10**12},
        {"image_shape": [10**9, 8, 8]},
        {"image_shape": [1, 8]},
        {"image_shape": ["a", "b", "c"]},
        {"classes": 0},
        {"normalization": {"mean": ["x"], "std": [1]}},
        {"normalization": 3},
        {"test": None},
    ],
)
def test_sizes_from_strangers_are_checked_before_tensors_are_made(
    whole: Path, values: dict[str, Any]
) -> None:
    about = whole / "best" / "about.json"
    about.write_text(plain_json(about.read_text(), **values))
    with pytest.raises(ValueError, match=r"about\.json is damaged"):
        best.load(whole / "best")


def test_the_malicious_pickle_of_these_tests_is_one(tmp_path: Path) -> None:
    pickle.loads(malicious(tmp_path / "runs"))
    assert marker(tmp_path / "runs").exists()


# What executes what it reads, and the one module that may: for what our own workers send.
UNSAFE = {
    r"\bpickle\.loads?\(": {"executors/worker.py"},
    r"torch\.load\((?!.*weights_only=True)": set(),
    r"yaml\.(load|load_all|unsafe_load|full_load)\(": set(),
    r"(?<![\w.])(eval|exec|compile|__import__)\(": set(),
    r"np\.load\((?!.*allow_pickle=False)": set(),
    r"allow_pickle=True": set(),
    r"shell=True|os\.system|os\.popen": set(),
}


@pytest.mark.parametrize("pattern", UNSAFE)
def test_nothing_in_the_library_executes_what_it_reads(pattern: str) -> None:
    root = Path(run.__file__).parent
    sources = {path: path.relative_to(root).as_posix() for path in root.rglob("*.py")}
    for name in ("envs", "controllers"):
        beside = (root.parent / name).rglob("*.py")
        sources |= {path: path.relative_to(root.parent).as_posix() for path in beside}
    assert len(sources) > 60
    found = {name for path, name in sources.items() if re.search(pattern, path.read_text())}
    assert found == UNSAFE[pattern]


def test_a_record_of_version_1_opens(tmp_path: Path) -> None:
    path = tmp_path / "smoke"
    path.mkdir()
    text = (Path(__file__).parent / "records" / "version-1.sql").read_text()
    with closing(sqlite3.connect(path / "record.sqlite")) as connection:
        connection.executescript(text)
    found = results.trials(path)
    assert [row["number"] for row in found] == [0, 1, 2, 3, 4, 5]
    assert facts.read(path).curves == {}  # that version kept none
    settings = folder.resumed(path)
    assert settings.name == "smoke" and settings.search.trials == 5
    with folder.open_run(settings) as store:
        assert store.meta("summary")["networks"]["best"]["test"] > 0
