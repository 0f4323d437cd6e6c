"""Export: networks as ordinary modules, as source, weights and ONNX, equal to the source."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pathnas import best, config, export, networks, weight_files
from pathnas import tree as trees
from pathnas.cell import Cell, set_gates
from pathnas.data import Normalization
from pathnas.evaluators import Setting, Training
from pathnas.export import __main__ as command
from pathnas.export import folder, parity, source
from pathnas.ops import Gate
from pathnas.specs import CellSpec, Conv
from pathnas.transforms import Insert, Replace, grow
from pathnas.tree import Edge, Node
from tests.strategies import growths, images, randomize, relative_change, specs

ROOT = Path(__file__).parent.parent
SPLIT = Node((Edge("identity"), Edge("conv1x1", Node((Edge("max_pool3x3"),)))), "concat", "split")
TREE = Node((Edge("base", Node((Edge("sep_conv3x3"),))), Edge("base", SPLIT)), "add", "replicate")
PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-5)]


def network_of(name: str = "chain", tree: Node = TREE, **options: object) -> nn.Module:
    torch.manual_seed(0)
    options = {"widths": (4, 8), "cells": 2, **options}
    network = networks.build(name, channels=3, classes=5, tree=tree, **options)
    randomize(network, 0)
    return network.eval()


def imported(text: str, model: nn.Module) -> ModuleType:
    """The generated source as a module, in this process, with the model's weights at hand."""
    found = ModuleType("generated")
    exec(compile(text, "model.py", "exec"), found.__dict__)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found.__dict__.update(load_file=lambda path: state, __file__="model.py")
    return found


def homes(model: nn.Module) -> set[str]:
    return {type(module).__module__.split(".")[0] for module in model.modules()}


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@settings(max_examples=30)
@given(data=st.data(), seed=st.integers(0, 10**6), a=st.sampled_from([0.0, 0.3, 1.0]))
def test_a_plain_cell_computes_what_the_cell_does(
    dtype: torch.dtype, tolerance: float, fuse: bool, data: st.DataObject, seed: int, a: float
) -> None:
    spec = data.draw(specs())
    torch.manual_seed(seed)
    cell = Cell(spec).to(dtype)
    randomize(cell, seed)
    grown = grow(cell, data.draw(growths(spec))).eval()
    set_gates(grown, a)
    before = deepcopy(grown.state_dict())
    x = images(spec.conv.channels_in, seed, dtype)
    plain = export.plain(grown, fuse=fuse)
    # A fused norm is a product of weights; in float32 its rounding counts.
    assert relative_change(grown(x), plain(x)) <= tolerance * (10 if fuse else 1)
    assert homes(plain) == {"torch"}
    assert not any(isinstance(module, nn.Identity) for module in plain.modules())
    assert all(torch.equal(before[key], value) for key, value in grown.state_dict().items())
    assert not {t.data_ptr() for t in grown.state_dict().values()} & {
        t.data_ptr() for t in plain.state_dict().values()
    }
    assert deepcopy(plain)(x).equal(plain(x))


@pytest.mark.parametrize("name", ["chain", "residual"])
@pytest.mark.parametrize("activation", ["pre", "post"])
@settings(max_examples=10)
@given(data=st.data())
def test_the_source_of_a_network_computes_what_the_network_does(
    name: str, activation: str, data: st.DataObject
) -> None:
    tree = trees.BASE_TREE
    for transform in data.draw(growths(CellSpec(Conv(4, 4)))):
        tree = transform(tree)
    network = network_of(name, tree, activation=activation)
    plain = export.plain(network)
    text = source.write(plain, "found", classes=5)
    made = imported(text, plain)
    x = images(3, 0, torch.float32)
    model = made.found(pretrained=True).eval()
    assert model(x).equal(plain(x))
    assert list(model.state_dict()) == list(plain.state_dict())
    assert made.found(num_classes=7, pretrained=True)(x).shape == (4, 7)
    assert max(map(len, text.splitlines())) <= 100
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert names <= {"torch", "pathlib", "safetensors.torch"}


def test_cells_of_one_tree_are_one_class_of_several_widths() -> None:
    text = source.write(export.plain(network_of()), "found", classes=5)
    assert text.count("\nclass ") == 2
    assert "Cell(4, 4, stride=1)," in text and "Cell(4, 8, stride=2)," in text
    assert "nn.Conv2d(out_channels // 2, out_channels // 2, 1, bias=False)" in text
    assert "branch_0 = self.branch_0(x)" in text and "return (branch_0 + y) / 2" in text


def test_the_source_is_laid_out_as_by_ruff(tmp_path: Path) -> None:
    text = source.write(export.plain(network_of("residual", groups=2)), "found", classes=5)
    (tmp_path / "model.py").write_text(text)
    words = [sys.executable, "-m", "ruff"]
    rules = ["--isolated", "--line-length", "100", str(tmp_path / "model.py")]
    for command_ in (["format", "--check"], ["check", "--select", "E,F,I"]):
        done = subprocess.run([*words, *command_, *rules], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_fusing_removes_every_norm_behind_a_convolution_and_no_other() -> None:
    def norms(model: nn.Module) -> int:
        return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())

    x = images(3, 0, torch.float32)
    for activation, name, left in (("post", "chain", 0), ("pre", "residual", 13)):
        network = network_of(name, activation=activation)
        fused = export.plain(network, fuse=True)
        assert norms(fused) == left < norms(network)
        assert relative_change(network(x), fused(x)) < 1e-5
        made = imported(source.write(fused, "found", classes=5), fused)
        assert made.found(pretrained=True).eval()(x).equal(fused(x))


class Block(nn.Module):
    """A block of anybody's: a shared activation in place, functions, a scale, a cell."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        conv = Conv(channels_in, channels_out, stride=stride)
        self.conv1 = Cell(CellSpec(conv, "post", bare=True), TREE)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, padding_mode="reflect")
        self.scale = nn.Parameter(torch.rand(channels_out, 1, 1))
        self.register_buffer("order", torch.randperm(channels_out), persistent=False)

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.scale * F.dropout(self.conv2(y), 0.5, self.training)
        y = torch.index_select(y, 1, self.order)
        if extra is not None:
            y = y + extra
        size = y.size()
        pooled = F.adaptive_avg_pool2d(x, 1).mean(1, keepdim=True)
        y += pooled.view(size[0], 1, 1, 1)
        return self.relu(y)


class Own(nn.Module):
    """A network of anybody's with cells in it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(3, 4, 2), Block(4, 4, 1), Block(4, 6, 1)])
        self.unused = nn.Linear(3, 3)
        self.head = nn.Sequential()
        self.head.add_module("drop", nn.Dropout(0.5))
        self.head.add_module("fc", nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean((2, 3)))


def own() -> nn.Module:
    torch.manual_seed(0)
    model = Own().eval()
    randomize(model, 1)
    return model


@pytest.mark.parametrize("fuse", [False, True])
def test_any_model_that_holds_cells_becomes_plain(fuse: bool) -> None:
    model, x = own(), images(3, 0, torch.float32)
    plain = export.plain(model, fuse=fuse)
    assert homes(plain) == {"torch"}
    assert relative_change(model(x), plain(x)) < 1e-6
    assert not any(name.startswith("unused") for name in plain.state_dict())
    text = source.write(plain, "own", classes=5)
    made = imported(text, plain)
    assert made.own(pretrained=True).eval()(x).equal(plain(x))
    assert made.own(num_classes=2)(x).shape == (4, 2)
    if not fuse:
        kept = {"layers_1.conv2.weight", "layers_1.scale", "layers_1.order", "head.fc.weight"}
        assert kept <= set(plain.state_dict())
        assert "OrderedDict" in text and 'padding_mode="reflect"' in text


def test_a_plain_model_is_in_the_mode_of_its_source_and_trains() -> None:
    model = network_of().train()
    plain = export.plain(model)
    assert plain.training and model.training
    plain(images(3, 0, torch.float32)).sum().backward()
    assert all(parameter.grad is not None for parameter in plain.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not export.plain(model.eval()).training
    assert export.plain(plain.eval()).state_dict().keys() == plain.state_dict().keys()


def test_data_parallel_is_taken_off() -> None:
    network, x = network_of(), images(3, 0, torch.float32)
    assert export.plain(nn.DataParallel(network))(x).equal(network(x))


@pytest.mark.slow  # the first use of torch.compile takes seconds
def test_torch_compile_is_taken_off() -> None:
    network, x = network_of(), images(3, 0, torch.float32)
    assert export.plain(torch.compile(network))(x).equal(network(x))


def test_a_module_that_stands_in_two_places_is_called_in_both() -> None:
    act = nn.ReLU()
    cells = [Cell(CellSpec(Conv(3, 3), "pre", bare=True), TREE) for _ in range(2)]
    model = nn.Sequential(cells[0], act, cells[1], act, cells[0]).eval()
    x = images(3, 0, torch.float32)
    plain = export.plain(model, fuse=True)
    assert relative_change(model(x), plain(x)) < 1e-5
    assert plain[0] is plain[4] and plain[1] is plain[3]
    once = export.plain(nn.Sequential(cells[0], act, cells[1], act).eval())
    made = imported(source.write(once, "found", classes=5), once)
    assert made.found(pretrained=True).eval()(x).equal(once(x))


def leaves(model: nn.Module) -> list[str]:
    """The kinds of the modules that compute something, in order."""
    return [type(part).__name__ for part in model.modules() if not list(part.children())]


def test_a_gate_is_folded_into_what_it_computes_now() -> None:
    cell = Cell(CellSpec(Conv(3, 3), "post", bare=True)).eval()
    grown = grow(cell, [Insert((0,)), Replace((0, 0), "conv1x1")])
    kinds = {}
    for a in (1.0, 0.25, 0.0):
        set_gates(grown, a)
        kinds[a] = leaves(export.plain(grown))
    assert kinds[1.0] == ["Conv2d", "Conv2d", "BatchNorm2d"]
    assert kinds[0.25] == [*kinds[1.0], "LeakyReLU"]
    assert kinds[0.0] == [*kinds[1.0], "ReLU"]
    assert not any(isinstance(module, Gate) for module in grown.modules())


class Fickle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_an_example_decides_what_depends_on_shapes() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fickle = Fickle()
            self.wide = nn.Linear(3, 5)
            self.scale = nn.Parameter(torch.ones(5))

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] > 3:
                return x
            x = self.wide(self.fickle(x).mean((2, 3)))
            return x * (self.scale * len(self.scale) if x.size(1) == 5 else 0)

    model = Asks().eval()
    for sign in (1, -1):
        x = sign * torch.rand(2, 3, 4, 4)
        plain = export.plain(model, example=x)
        assert plain(x[:1]).equal(model(x[:1]))
        made = imported(source.write(plain, "asks", classes=5), plain)
        assert made.asks(pretrained=True)(x).equal(model(x))
        assert {name for name, _ in plain.named_parameters()} == {
            "wide.weight",
            "wide.bias",
            "weight",
        }


def test_what_cannot_be_made_plain_is_refused_with_its_name() -> None:
    model = nn.Sequential(nn.Identity(), Fickle())
    with pytest.raises(ValueError, match=r"module 1 \(Fickle\): its forward cannot be traced"):
        export.plain(model)
    hooked = network_of()
    hooked.stem.register_forward_hook(lambda module, inputs, output: output)
    with pytest.raises(ValueError, match="module stem: expected no forward hooks"):
        export.plain(hooked)


def test_what_cannot_be_written_is_refused() -> None:
    shared = nn.Linear(5, 5)
    twice = export.plain(nn.Sequential(shared, nn.ReLU(), shared))
    with pytest.raises(ValueError, match=r"the same one as 0\.weight and 2\.weight"):
        source.write(twice, "found", classes=5)
    plain = export.plain(network_of())
    for name in ("1x", "a-b", "class", "x\n", "__init__", "é", "torch", "print", "num_classes", ""):
        with pytest.raises(ValueError, match="name must"):
            source.write(plain, name, classes=5)
    fixed = imported(source.write(plain, "found", classes=9), plain)
    with pytest.raises(ValueError, match="num_classes must be 9, got 5"):
        fixed.found(num_classes=5)


def test_no_name_gets_into_the_source_as_code() -> None:
    evil = '"""); raise SystemExit  # \n'
    kind = type(evil, (Block,), {"__doc__": evil})
    model = nn.Sequential()
    model.add_module(evil, kind(3, 5, 1))
    model.add_module("forward x", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    plain = export.plain(model.eval())
    graph = next(module for module in plain.modules() if hasattr(module, "graph"))
    graph.meta["doc"] = evil
    text = source.write(plain, "found", classes=5, about=evil)
    made = imported(text, plain)
    x = images(3, 0, torch.float32)
    assert relative_change(model(x), made.found(pretrained=True).eval()(x)) < 1e-6
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Raise)]
    assert len(calls) == 1  # the check of num_classes: the network has no linear layer


def best_folder(run: Path) -> Path:
    """The `best` folder of a run that never was, with a network of the smoke experiment."""
    chosen = config.load(ROOT / "experiments" / "smoke.yaml")
    options = chosen.base.network.model_dump()
    torch.manual_seed(0)
    network = networks.build(channels=1, classes=4, tree=TREE, **options)
    randomize(network, 0)
    weights = run / "weights" / "best.safetensors"
    weights.parent.mkdir(parents=True)
    weight_files.save_weights(network, weights)
    setting = Setting(run / "data", Normalization((100.0,), (50.0,)), (1, 8, 8), 4)
    job = Training(setting, options, chosen.final.training, 0, TREE, save=weights)
    best.save(run / "best", job, settings=chosen, validation=0.75, test=0.5)
    return run / "best"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return best_folder(tmp_path_factory.mktemp("runs") / "smoke").parent


def test_the_command_writes_a_folder_that_needs_nothing_of_pathnas(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out" / "tiny"
    assert command.main([str(run), "--to", str(target), "--name", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert "plain" in printed and "model.py" in printed and "8 of 8" in printed
    files = {path.name for path in target.iterdir()}
    assert files == {"model.py", "model.safetensors", "arch.json", "README.md"}
    assert [path.name for path in target.parent.iterdir()] == ["tiny"]
    for path in target.glob("*.[pj]*"):
        assert str(run) not in path.read_text()
    arch = json.loads((target / "arch.json").read_text())
    assert trees.from_dict(arch["tree"]) == TREE and arch["test"] == 0.5
    card = (target / "README.md").read_text()
    for said in ("synthetic", "0.5000", "tiny(pretrained=True)", "mean (100.0000)", "sep_conv3x3"):
        assert said in card, said


def test_an_export_replaces_only_an_earlier_one_and_only_when_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "logits_of_source", lambda f, n, x, s: logits(run, x))
    target = tmp_path / "tiny"
    words = [str(run / "best"), "--to", str(target)]
    assert command.main(words) == 0
    (target / "arch.json").write_text("{}")
    assert command.main(words) == 2
    assert "exists; --force replaces" in capsys.readouterr().err
    assert (target / "arch.json").read_text() == "{}"
    assert command.main([*words, "--force", "--fuse"]) == 0
    assert json.loads((target / "arch.json").read_text())["fused"] is True
    (tmp_path / "mine").mkdir()
    assert command.main([str(run), "--to", str(tmp_path / "mine"), "--force"]) == 2
    assert "is no earlier export" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "tiny"]


def logits(run: Path, x: Tensor) -> Tensor:
    return parity.logits(best.load(run / "best").network, x)


def test_an_export_that_computes_something_else_fails_and_leaves_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "logits_of_source", lambda f, n, x, s: logits(run, x) * 1.001)
    assert command.main([str(run), "--to", str(tmp_path / "tiny")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("the export failed: expected the logits of the source within 1e-04")
    assert "model.py 1.0e-03 8 of 8" in line
    monkeypatch.setattr(parity, "logits_of_source", lambda f, n, x, s: logits(run, x) * torch.nan)
    assert command.main([str(run), "--to", str(tmp_path / "tiny")]) == 1
    assert list(tmp_path.iterdir()) == []


def test_source_that_does_not_run_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import pathnas\n")
    with pytest.raises(RuntimeError, match=r"does not run: .*pathnas"):
        parity.logits_of_source(tmp_path, "tiny", images(1, 0, torch.float32), tmp_path)


def test_bad_input_is_one_line_that_names_what_is_missing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*words: str) -> str:
        assert command.main([*words, "--to", str(tmp_path / "out")]) == 2
        [line] = capsys.readouterr().err.splitlines()
        return line

    assert "it lacks tree.json, network.safetensors" in said(str(tmp_path / "nowhere"))
    for damage, text, message in (
        ("tree.json", "{]", "Expecting property name"),
        ("tree.json", '{"edges": []}', "a leaf cannot change"),
        ("about.json", "{}", "about.json is damaged"),
        ("network.safetensors", "x", "expected the weights of this network"),
        ("config.yaml", "name: smoke", "data: missing"),
    ):
        copy = best_folder(tmp_path / damage / text[:1] / str(len(text)))
        (copy / damage).write_text(text)
        assert message in said(str(copy)), damage
    assert "name must be a Python identifier" in said(str(run), "--name", "import os")
    monkeypatch.setattr(folder, "find_spec", lambda name: None)
    assert "pip install 'pathnas[onnx]'" in said(str(run), "--onnx")
    assert not (tmp_path / "out").exists()


CHILD = """
import sys
sys.modules["pathnas"] = None
sys.path.insert(0, sys.argv[1])
import torch
from model import tiny
model = tiny(pretrained=True).eval()
torch.manual_seed(3)
print(model(torch.randn(2, 1, 8, 8)).double().tolist())
"""


@pytest.mark.slow
def test_an_interpreter_without_pathnas_loads_the_folder(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny"
    assert command.main([str(run), "--to", str(target), "--name", "tiny"]) == 0
    words = [sys.executable, "-I", "-B", "-c", CHILD, str(target)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    torch.manual_seed(3)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        expected = logits(run, x).double()
    assert relative_change(expected, torch.tensor(json.loads(done.stdout))) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("fuse", [[], ["--fuse"]])
def test_the_onnx_file_computes_what_the_network_does(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fuse: list[str]
) -> None:
    import onnxruntime

    target = tmp_path / "tiny"
    assert command.main([str(run), "--to", str(target), "--onnx", *fuse]) == 0
    assert "model.onnx" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(target / "model.onnx"))
    for count in (1, 5):
        x = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))
        [found] = session.run(["logits"], {"images": x.numpy()})
        assert relative_change(logits(run, x), torch.from_numpy(found)) < 1e-4


MODELS = (
    *("resnet18", "vgg11_bn", "densenet121", "mobilenet_v2", "mobilenet_v3_small", "googlenet"),
    *("efficientnet_b0", "shufflenet_v2_x0_5", "convnext_tiny", "regnet_y_400mf", "squeezenet1_1"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_models_of_torchvision_become_plain_and_readable(name: str) -> None:
    import torchvision

    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    model = getattr(torchvision.models, name)(**options).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        plain = export.plain(model)
        assert homes(plain) == {"torch"}
        assert plain(x).equal(model(x))
        made = imported(source.write(plain, "found", classes=1000), plain)
        assert made.found(pretrained=True).eval()(x).equal(plain(x))
        assert relative_change(model(x), export.plain(model, fuse=True)(x)) < 1e-4
