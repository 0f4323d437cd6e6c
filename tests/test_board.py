"""What TensorBoard is told, read back from the event files."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from pathnas import board, drawing
from pathnas.cell import Site
from pathnas.outcomes import Candidate, Outcome
from pathnas.search import Record, Trial, Update
from pathnas.specs import CellSpec, Conv
from pathnas.tree import Edge, Node

SITES = (Site(CellSpec(Conv(12, 12)), 64),)
NETWORKS = {
    "base": {"validation": 0.5, "macs": 10},
    "best": {"validation": 0.75, "test": 0.5, "macs": 20},
    "control": {"failed": "diverged: nan", "macs": 30},
}
CONFIG = {"seed": 3, "runs": "runs", "search": {"trials": 4, "ops": ["a", "b"], "hours": None}}


def candidate(number: int) -> Candidate:
    names = sorted(drawing.STROKES)[1:]
    branches = tuple(Edge(random.Random(number + n).choice(names)) for n in range(3))
    return Candidate(Node((Edge("base", Node(branches, "add", "replicate")),)))


def write(folder: Path, updates: int, episodes: int, sites: tuple[Site, ...] = SITES) -> None:
    """Writes a search and its control; every fourth trial fails."""
    with board.Board(folder, sites) as written:
        written.begin("name: x", "go on")
        for name, learner in (("env", "controller"), ("control", "control")):
            record = Record()
            for step in range(updates):
                trials = []
                for number in range(step * episodes, (step + 1) * episodes):
                    outcome = Outcome("failed", seconds=1.0)
                    if number % 4 != 3:
                        accuracy = 1 - 1 / (number + 2)
                        curve = (2.0, 1.0, 1 - accuracy)
                        outcome = Outcome("ok", accuracy, 1000, 10, 2.0, 5, curve=curve)
                    trials.append(Trial(number, step, candidate(number), outcome, number / 10))
                record.trials.update({str(trial.number): trial for trial in trials})
                metrics = {"entropy": 1 / (step + 1), "frequency/a": 0.25, "frequency/b": 0.75}
                update = Update(step, [], [0.0, 1.0], trials, metrics)
                written.update(name, update, record, 2.0 * (step + 1), updates * episodes)
                written.learner(learner, update)
            written.searched(name, learner, record)
        written.ended({"networks": NETWORKS}, CONFIG, "export")


def read(folder: Path, name: str) -> EventAccumulator:
    return EventAccumulator(str(folder / name), {"scalars": 0, "images": 0, "tensors": 0}).Reload()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tensorboard")
    write(path, updates=3, episodes=4)
    return path


def steps(reader: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in reader.Scalars(tag)]


@pytest.mark.parametrize("name", ["env", "control"])
def test_scalars_of_a_search(folder: Path, name: str) -> None:
    reader = read(folder, name)
    tags = reader.Tags()["scalars"]
    groups = {tag.partition("/")[0] for tag in tags}
    assert groups - {"controller", "result"} == {"search", "trial", "time", "budget"}
    assert steps(reader, "search/trials") == [(0, 4), (1, 8), (2, 12)]
    assert steps(reader, "search/failed") == [(0, 1), (1, 2), (2, 3)]
    assert steps(reader, "budget/trials_left") == [(0, 8), (1, 4), (2, 0)]
    assert steps(reader, "budget/trial_seconds") == [(0, 7), (1, 14), (2, 21)]
    assert steps(reader, "budget/images") == [(0, 15), (1, 30), (2, 45)]
    assert [n for n, _ in steps(reader, "trial/accuracy")] == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert [n for n, _ in steps(reader, "time/trial")] == list(range(12))
    best = [value for _, value in steps(reader, "search/accuracy_best")]
    assert best == pytest.approx([1 - 1 / 4, 1 - 1 / 8, 1 - 1 / 12])


def test_scalars_of_learner_and_result(folder: Path) -> None:
    assert set(read(folder, "controller").Tags()["scalars"]) == {
        *("controller/entropy", "controller/frequency/a", "controller/frequency/b")
    }
    env = read(folder, "env")
    results = {tag for tag in env.Tags()["scalars"] if tag.startswith("result/")}
    assert results == {
        *("result/base_validation", "result/base_macs", "result/control_macs"),
        *("result/best_validation", "result/best_test", "result/best_macs"),
    }
    assert steps(env, "result/best_test") == [(0, 0.5)]


def test_pictures(folder: Path) -> None:
    env, control = read(folder, "env"), read(folder, "control")
    assert [image.step for image in env.Images("search/best_tree")] == [0, 1, 2]
    assert [image.step for image in env.Images("search/best_trees")] == list(range(9))
    widths = [image.width for image in env.Images("search/best_trees")]
    assert all(width < 720 for width in widths)
    assert control.Tags()["images"] == []
    [heat] = read(folder, "controller").Images("controller/actions")
    assert heat.width == 720 and heat.encoded_image_string.startswith(b"\x89PNG")


def test_learning_curves_of_trials(folder: Path) -> None:
    shown = [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert sorted(int(path.name) for path in (folder / "trials").iterdir()) == shown
    for number in shown:
        reader = read(folder, f"trials/{number}")
        assert reader.Tags()["scalars"] == ["trial/loss"]
        last = pytest.approx(1 / (number + 2), rel=1e-6)
        assert steps(reader, "trial/loss") == [(1, 2.0), (2, 1.0), (3, last)]


def test_curves_are_of_the_best_and_of_others_all_over_the_search() -> None:
    def trial(number: int, *curve: float) -> Trial:
        outcome = Outcome("ok", accuracy=0.5, curve=curve)
        return Trial(number, 0, candidate(number), outcome, float(number % 100))

    record = Record({str(n): trial(n, 1.0) for n in range(500)})
    chosen = [one.number for one in board.curved(record)]
    assert len(chosen) == board.CURVES and chosen == sorted(set(chosen))
    assert {one.number for one in record.best(board.BEST)} <= set(chosen)
    assert all(any(low <= n < low + 50 for n in chosen) for low in range(0, 500, 50))
    assert board.curved(Record({str(n): trial(n) for n in range(5)})) == []


def text(reader: EventAccumulator, tag: str) -> list[str]:
    return [e.tensor_proto.string_val[0].decode() for e in reader.Tensors(f"{tag}/text_summary")]


def test_texts_and_tables(folder: Path) -> None:
    env = read(folder, "env")
    assert text(env, "run/config") == ["    name: x"] and text(env, "run/next") == ["    export"]
    assert len(text(env, "search/best_tree")) == 3
    data: dict[str, Any] = {
        tag: env.SummaryMetadata(tag).plugin_data
        for tag in ("custom_scalars__config__", "_hparams_/session_start_info")
    }
    plugins = {tag: plugin.plugin_name for tag, plugin in data.items()}
    assert set(plugins.values()) == {"custom_scalars", "hparams"}
    settings = data["_hparams_/session_start_info"].content
    assert all(name in settings for name in (b"seed", b"search.trials", b"search.ops"))
    assert b"runs" not in settings


def test_encodings_of_trees_for_the_projector(tmp_path: Path) -> None:
    ended = [Trial(n, 0, candidate(n), Outcome("ok", 0.5 + n / 10), 0.5) for n in range(3)]
    with board.Board(tmp_path) as written:
        written.encodings("controller", ended, torch.arange(6.0).view(3, 2))
    folder = tmp_path / "controller"
    assert "trees" in (folder / "projector_config.pbtxt").read_text()
    [labels] = folder.rglob("metadata.tsv")
    lines = [line.split("\t") for line in labels.read_text().splitlines()]
    assert lines[0] == ["tree", "accuracy"]
    assert lines[1:] == [[candidate(n).key, f"{0.5 + n / 10:.4f}"] for n in range(3)]
    [vectors] = folder.rglob("tensors.tsv")
    assert [line.split("\t") for line in vectors.read_text().splitlines()][2] == ["4.0", "5.0"]


class Folded(nn.Module):
    """Two convolutions whose sum is computed in a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)


class Twice(nn.Module):
    """Calls a layer twice, as torchvision's blocks call their activation."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.act(x) + x)


def test_a_layer_that_is_called_twice_is_two_nodes(tmp_path: Path) -> None:
    with board.Board(tmp_path) as written:
        written.network(Twice())
    graph = read(tmp_path, "env").Graph()
    assert [(node.name, list(node.input)) for node in graph.node] == [
        ("x", []),
        ("act", ["x"]),
        ("add", ["act", "x"]),
        ("act_1", ["add"]),
        ("output", ["act_1"]),
    ]


class Restless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_the_graph_of_the_best_network(tmp_path: Path) -> None:
    with board.Board(tmp_path) as written:
        written.network(nn.Sequential(Folded(), nn.ReLU()))
    graph = read(tmp_path, "env").Graph()
    assert [(node.name, node.op, list(node.input)) for node in graph.node] == [
        ("input_1", "placeholder", []),
        ("0/left", "Conv2d", ["input_1"]),
        ("0/right", "Conv2d", ["input_1"]),
        ("0/add", "add", ["0/left", "0/right"]),
        ("1", "ReLU", ["0/add"]),
        ("output", "output", ["1"]),
    ]
    assert graph.node[1].attr["layer"].s.startswith(b"Conv2d(3, 4")


def test_a_network_that_cannot_be_traced_is_no_graph_and_says_so(tmp_path: Path) -> None:
    with board.Board(tmp_path) as written:
        written.network(Restless())
    env = read(tmp_path, "env")
    assert not env.Tags()["graph"]
    assert "cannot trace" in text(env, "run/graph")[0]


def test_trees_can_be_drawn_without_places(tmp_path: Path) -> None:
    write(tmp_path, updates=1, episodes=1, sites=())
    assert read(tmp_path, "env").Images("search/best_tree")


@pytest.mark.slow
def test_five_hundred_trials_take_less_than_20_mb(tmp_path: Path) -> None:
    write(tmp_path, updates=167, episodes=3)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 20e6
    assert len(read(tmp_path, "env").Images("search/best_tree")) == board.NEW_BEST


@pytest.mark.slow
def test_tensorboard_shows_scalars_and_pictures(folder: Path, tmp_path: Path) -> None:
    import urllib.request

    words = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "6123"]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address, seen = "http://localhost:6123", ""
        for _ in range(120):
            try:
                seen = urllib.request.urlopen(f"{address}/data/plugin/scalars/tags").read().decode()
                if "search" in seen:
                    break
            except OSError:
                pass
            time.sleep(0.5)
        assert "search/accuracy_best" in seen
        query = "data/plugin/images/images?run=env&tag=search/best_tree&sample=0"
        images = urllib.request.urlopen(f"{address}/{query}").read()
        assert images.count(b"blob_key") == 3
        browser = shutil.which("chromium") or shutil.which("chromium-browser")
        if browser is None:
            pytest.skip("chromium is not installed")
        words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        words += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=15000"]
        done = subprocess.run(
            [*words, f"{address}/#timeseries"], capture_output=True, text=True, timeout=90
        )
        assert "search" in done.stdout and "controller" in done.stdout
    finally:
        server.terminate()
        server.wait(timeout=20)
