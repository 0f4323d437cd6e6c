"""A search that grows a network of the user's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pathnas import best, config, data, evaluators, networks, train, weight_files
from pathnas import tree as trees
from pathnas.cell import cells
from pathnas.export import __main__ as export
from pathnas.plan import Plan
from tests import whole_run
from tests.strategies import randomize, relative_change

HERE = "tests.test_own_network"
YAML = f"""\
name: own
data: {{name: synthetic, train: 128, validation: 64, test: 64}}
base:
  model: {HERE}:small
  cells: ["blocks.?.conv"]
  options: {{width: 4}}
  training: {{epochs: 2, batch_size: 32, learning_rate: 0.1}}
search:
  trials: 3
  episodes: 2
  depth: 2
  trial: {{epochs: 1, batch_size: 32, learning_rate: 0.05}}
  controller: {{hidden: 16, head: 16}}
final:
  top: 1
  training: {{epochs: 1, batch_size: 32, learning_rate: 0.05}}
workers: {{kind: inline, count: 1}}
"""


SHAPE = (1, 4)
"""Channels and classes of the synthetic images."""


class Block(nn.Module):
    """A convolution with its norm, a shortcut and one ReLU in place behind both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm(self.conv(x)) + x)


class Small(nn.Module):
    """Two residual blocks of a user's own."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def small(channels: int, classes: int, width: int = 4, **rest: object) -> nn.Module:
    assert not rest, "only what is named is handed over"
    return Small(channels, classes, width)


def fixed(classes: int) -> nn.Module:
    torch.manual_seed(11)
    return Small(1, classes, 3)


def coloured(classes: int) -> nn.Module:
    return Small(3, classes, 4)


def twice(channels: int, classes: int) -> nn.Module:
    model = Small(channels, classes, 4)
    model.blocks = nn.Sequential(model.blocks[0], nn.ReLU(), model.blocks[0])
    return model


def pairs(channels: int, classes: int) -> nn.Module:
    class Pairs(Small):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return (y, y) if self.training else y  # type: ignore[return-value]

    return Pairs(channels, classes, 4)


def no_module(channels: int) -> int:
    return channels


def fails() -> nn.Module:
    raise KeyError("weights")


def looped(channels: int, classes: int) -> nn.Module:
    class Looped(Small):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for _ in range(2 if x.shape[0] > 0 else 0):
                x = self.blocks(x)
            return self.head(x.mean((2, 3)))

    return Looped(channels, classes, 4)


def settings(folder: Path, *overrides: str) -> config.Config:
    path = folder / "own.yaml"
    path.write_text(YAML)
    return config.load(path, [f"runs={folder}", *overrides])


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    folder = tmp_path_factory.mktemp("runs")
    yield whole_run.run(settings(folder, "seed=1"))


@pytest.mark.slow
def test_a_search_grows_the_users_network_from_end_to_end(summary: dict) -> None:
    rows = summary["networks"]
    assert set(rows) == {"base", "base_longer", "best", "control"}  # it cannot be widened
    assert summary["searches"]["search"]["failed"] == 0
    assert rows["best"]["parameters"] > rows["base"]["parameters"]
    found = best.load(Path(summary["folder"]) / "best")
    assert type(found.network) is Small
    assert {trees.key(cell.tree) for cell in cells(found.network).values()} == {
        rows["best"]["tree"]
    }
    source = data.open_source(Path(summary["folder"]) / "data" / "test")
    batches = data.batches(source, batch_size=500, normalization=found.normalization)
    network = found.network.to(memory_format=torch.channels_last)
    assert evaluators.training.accuracy(network, batches) == rows["best"]["test"]


@pytest.mark.slow
def test_what_was_found_is_exported_and_trained_by_command(summary: dict, tmp_path: Path) -> None:
    run, plain = summary["folder"], tmp_path / "plain"
    assert export.main([run, "--to", str(plain), "--name", "small_cells"]) == 0
    trained = tmp_path / "trained"
    assert train.main([run, "--to", str(trained), "--quiet"]) == 0
    assert export.main([str(trained), "--to", str(tmp_path / "again")]) == 0
    x = torch.randn(3, 1, 8, 8)
    torch.save(x, tmp_path / "x.pt")
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", ALONE, str(plain)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = best.load(Path(run) / "best")
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    with torch.no_grad():
        assert relative_change(found.network(x), logits) < 1e-5
    assert best.load(trained).tree == found.tree


ALONE = """
import pathlib, sys
sys.modules["pathnas"] = None  # importing it is an error
sys.path.insert(0, sys.argv[1])
import torch, model
folder = pathlib.Path(sys.argv[1]).parent
network = model.small_cells(pretrained=True).eval()
with torch.no_grad():
    torch.save(network(torch.load(folder / "x.pt", weights_only=True)), folder / "logits.pt")
"""


@pytest.mark.slow
def test_costs_are_those_of_the_whole_network(summary: dict, tmp_path: Path) -> None:
    plan = Plan.of(settings(tmp_path))
    _, height, width = plan.splits.image_shape
    assert all(site.positions == (height // 2) * (width // 2) for site in plan.limits.sites)
    row = summary["networks"]["best"]
    tree = trees.from_dict(summary["best_tree"])
    added = plan.limits.cost(tree) - plan.limits.cost(trees.BASE_TREE)
    assert row["macs"] == plan.base_macs + added == summary["networks"]["base"]["macs"] + added


@pytest.mark.parametrize("options", ["base.absorb=false", "base.training=null"])
def test_the_users_own_weights_are_where_the_search_begins(tmp_path: Path, options: str) -> None:
    model = small(*SHAPE)
    randomize(model, 5)
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    run = settings(tmp_path, f"base.weights={tmp_path}/own.safetensors", options)
    plan = Plan.of(run)
    assert (plan.splits.image_shape[0], plan.splits.classes) == SHAPE
    job = plan.base_training(plan.prepare(tmp_path / "data"), tmp_path / "base.safetensors")
    assert job.recipe.epochs == 0
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(evaluators.build(job).eval()(x), model.eval()(x))


def test_without_weights_or_training_the_function_gives_the_weights(tmp_path: Path) -> None:
    overrides = [f"base.model={HERE}:fixed", "base.options={}", "base.training=null"]
    plan = Plan.of(settings(tmp_path, *overrides))
    job = plan.base_training(plan.prepare(tmp_path / "data"), tmp_path / "base.safetensors")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(evaluators.build(job).eval()(x), fixed(SHAPE[1]).eval()(x))


def test_a_training_with_dropout_repeats(tmp_path: Path) -> None:
    plan = Plan.of(settings(tmp_path))
    setting = plan.prepare(tmp_path / "data")
    saved = []
    for place in ("a", "b"):
        torch.rand(3)  # the global generator is somewhere else
        job = plan.base_training(setting, tmp_path / f"{place}.safetensors")
        state = torch.get_rng_state()
        evaluators.train(job)
        assert torch.equal(torch.get_rng_state(), state)
        files = (job.save, weight_files.moments_file(job.save))
        saved.append([load_file(file) for file in files])
    for first, second in zip(*saved, strict=True):
        assert all(torch.equal(first[key], second[key]) for key in first | second)


BAD = [
    ("base.model=no.such:f", "'no.such:f': cannot import 'no.such': No module named 'no'"),
    (f"base.model={HERE}:nobody", f"{HERE} has no function 'nobody'"),
    ("base.options={depth: 1}", r"small\(\*\*.* failed: AssertionError"),
    (f"base.model={HERE}:no_module", "must return a torch module, got int"),
    (f"base.model={HERE}:fails", "failed: KeyError"),
    (f"base.model={HERE}:twice", "blocks.0.conv: it is the same as blocks.2.conv"),
    (f"base.model={HERE}:looped", "expected every cell to be called once, got 2 times at bl"),
    (f"base.model={HERE}:pairs", r"expected logits \(2, 4\) in train mode .* got tuple"),
    ("base.cells=blocks.7", "no convolution is named 'blocks.7'; nearest: blocks"),
    ("base.absorb=true", "blocks.0.conv: stem is a Conv2d, no ReLU; blocks.1.conv: its in"),
    (f"base.model={HERE}:coloured", r"the network cannot take images \(1, 8, 8\): "),
]


@pytest.mark.parametrize(("override", "message"), BAD)
def test_what_cannot_be_searched_is_refused_before_anything_is_written(
    tmp_path: Path, override: str, message: str
) -> None:
    model = override.startswith("base.model")
    run = settings(tmp_path, override, *(["base.options={}"] if model else []))
    with pytest.raises((ValueError, TypeError), match=message):
        Plan.of(run)
    assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"]


def test_torchvisions_models_can_be_sketched() -> None:
    state = torch.get_rng_state()
    for name, cell, size in (
        ("resnet18", "layer2.*.conv2", 32),
        ("convnext_tiny", "*.block.0", 64),
    ):
        options = {"num_classes": 7}
        sketch = networks.sketch(
            "grafted",
            channels=3,
            classes=7,
            model=f"torchvision.models:{name}",
            cells=cell,
            options=options,
        )
        assert all(tensor.is_meta for tensor in sketch.state_dict().values())
        networks.check(sketch, (3, size, size), 7)
        assert networks.macs(sketch, (3, size, size)) > 10**7
        assert len(networks.sites(sketch, (3, size, size))) == len(cells(sketch))
    assert torch.equal(torch.get_rng_state(), state)
