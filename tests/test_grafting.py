"""Grafting: any model's convolutions become cells, and its function stays."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import pathnas
from pathnas import export, growth, training
from pathnas.cell import Cell, cells, set_gates
from pathnas.specs import Conv
from pathnas.transforms import Branch, Insert, Replace, grow
from pathnas.tree import BASE_TREE
from tests.strategies import convs, growths, images, random_growth, randomize, relative_change

MODELS: dict[str, tuple[dict, str | list[str], int]] = {
    "resnet18": ({}, "layer2.*.conv*", 32),
    "mobilenet_v3_small": ({}, ["features.[135].block.[01].0", "features.4.block.2.fc1"], 32),
    "vgg11": ({"init_weights": False}, ["features.3", "features.11"], 32),
    "vgg11_bn": ({"init_weights": False}, ["features.0", "features.8"], 32),
    "densenet121": ({}, "features.denseblock2.denselayer[1-4].conv2", 32),
    "mobilenet_v2": ({}, "features.[2-5].conv.*.0", 32),
    "efficientnet_b0": ({}, "features.[23].*.block.1.0", 32),
    "googlenet": ({"init_weights": False}, "inception3?.branch[23].1.conv", 64),
    "inception_v3": ({"init_weights": False}, "Mixed_6b.branch7x7_*.conv", 80),
    "shufflenet_v2_x0_5": ({}, "stage2.*.branch2.[03]", 32),
    "convnext_tiny": ({}, "features.1.*.block.0", 32),
    "regnet_y_400mf": ({}, "trunk_output.block2.*.f.b.0", 32),
}
FAST = ("resnet18", "mobilenet_v3_small")
PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-4)]


def torchvision_model(name: str) -> nn.Module:
    options, _, size = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(torchvision.models, name)(weights=None, num_classes=10, **options)
    if name.startswith("vgg"):
        model.classifier = nn.Linear(512 * 49, 10)
    for key, parameter in model.named_parameters():
        if key.endswith("layer_scale"):  # ConvNeXt's blocks do next to nothing at first
            nn.init.constant_(parameter, 0.5)
    spread_statistics(model.eval(), size)
    return model


@torch.no_grad()
def spread_statistics(model: nn.Module, size: int) -> None:
    """Gives norms statistics near those of some images, so that a signal comes through."""
    generator = torch.Generator().manual_seed(1)

    def spread(norm: nn.BatchNorm2d, args: tuple[Tensor]) -> None:
        var, mean = torch.var_mean(args[0], (0, 2, 3))
        draws = torch.rand(4, len(mean), generator=generator)
        norm.weight.copy_(draws[0] + 0.5)
        norm.bias.copy_(draws[1] - 0.5)
        norm.running_mean.copy_(mean + (draws[2] - 0.5) * var.sqrt())
        norm.running_var.copy_(var * (draws[3] + 0.5) + 0.1)

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(spread) for norm in norms]
    model(images(3, 1, torch.float32, size=size))
    for hook in hooks:
        hook.remove()


def body(conv: Conv, before: str, after: str, inplace: bool) -> nn.Sequential:
    """A convolution among batch norms and ReLUs, read again further down."""
    relu = partial(nn.ReLU, inplace)
    layers: list[tuple[str, nn.Module]] = [("stem", nn.Conv2d(3, conv.channels_in, 1))]
    if "n" in before:
        layers.append(("norm1", nn.BatchNorm2d(conv.channels_in, eps=1e-3, momentum=0.02)))
    if "r" in before:
        layers.append(("relu1", relu()))
    layers.append(("conv", conv.build()))
    if "n" in after:
        layers.append(("norm2", nn.BatchNorm2d(conv.channels_out, eps=1e-3, momentum=0.02)))
    if "r" in after:
        layers.append(("relu2", relu()))
    layers.append(("head", nn.Conv2d(conv.channels_out, 2, 1)))
    return nn.Sequential(OrderedDict(layers))


AROUND = st.sampled_from(["", "n", "r", "nr"])


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@settings(max_examples=25)
@given(
    conv=convs(),
    before=AROUND,
    after=AROUND,
    inplace=st.booleans(),
    activation=st.sampled_from(["pre", "post"]),
    data=st.data(),
)
def test_any_convolution_among_any_norms_keeps_the_laws(
    dtype: torch.dtype,
    tolerance: float,
    conv: Conv,
    before: str,
    after: str,
    inplace: bool,
    activation: str,
    data: st.DataObject,
) -> None:
    torch.manual_seed(0)
    model = body(conv, before, after, inplace).to(dtype)
    randomize(model, 3)
    absorb = (before if activation == "pre" else after) == "nr"
    grafted = pathnas.graft(model, "conv", activation=activation, absorb=absorb)
    spec = cells(grafted)["conv"].spec
    assert spec.conv == conv and spec.bare is not absorb
    x = images(3, 4, dtype, size=9)
    training.calibrate(grafted, x)  # calibrated or not, what is born is exact in eval mode
    grown = grow(grafted, data.draw(growths(spec)))
    plain = deepcopy(model).eval()(x)
    assert torch.equal(deepcopy(grafted).eval()(x), plain)
    assert relative_change(plain, deepcopy(grown).eval()(x)) <= tolerance
    expected = model(x)
    assert torch.equal(grafted(x), expected)
    # In train mode a norm enlarges rounding where a channel hardly varies.
    assert relative_change(expected, grown(x)) <= max(tolerance, 1e-8) * 10
    for a in (1.0, 0.5, 0.0):
        set_gates(grown, a)
        grown(x).square().sum().backward()  # nothing that autograd needs is overwritten
    assert all(p.grad is not None for p in grown.parameters())


def snapshot(model: nn.Module) -> tuple:
    """All that a function must leave as it was."""
    state = {key: (tensor, tensor.clone()) for key, tensor in model.state_dict().items()}
    return state, [(name, type(m), m.training) for name, m in model.named_modules()]


def is_untouched(model: nn.Module, before: tuple) -> bool:
    state, modules = before
    now = model.state_dict()
    same = all(
        now[key].data_ptr() == old.data_ptr() and torch.equal(now[key], value)
        for key, (old, value) in state.items()
    )
    return same and modules == [(name, type(m), m.training) for name, m in model.named_modules()]


def storages(model: nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()} - {0}


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]
)
def test_a_grafted_model_computes_the_same_bits_and_grows_in_its_law(name: str) -> None:
    _, selection, size = MODELS[name]
    model = torchvision_model(name)
    for dtype, tolerance in PRECISIONS:
        model.to(dtype)
        before = snapshot(model)
        x = images(3, 2, dtype, size=size)[:2]
        grafted = pathnas.graft(model, selection)
        assert len(cells(grafted)) >= 2
        assert not storages(model) & storages(grafted)
        expected = model(x).detach()
        assert torch.equal(grafted(x), expected)
        done = random_growth((cell.spec for cell in cells(grafted).values()), seed=len(name))
        grown = grow(grafted, done)
        assert relative_change(expected, grown(x)) <= tolerance
        [tree] = {cell.tree for cell in cells(grown).values()}
        assert tree != BASE_TREE
        for cell in cells(grown).values():
            nn.init.zeros_(next(cell.parameters()))
        assert relative_change(expected, grown(x)) > 10 * tolerance
        assert {t.dtype for t in grown.parameters()} == {dtype}
        assert is_untouched(model, before)
    again = pathnas.graft(model, selection)
    randomize(again, 5)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(x), expected)


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]
)
def test_a_model_goes_from_graft_to_plain_modules_with_proof(name: str) -> None:
    _, selection, size = MODELS[name]
    grafted = pathnas.graft(torchvision_model(name), selection)
    before = growth.fingerprint(grafted)
    x = images(3, 2, torch.float32, size=size)[:3]
    seen = {"images": x} if name == "inception_v3" else {"calibrate": x}  # trains on 299 x 299
    grown, receipt = pathnas.transform(grafted, CHAIN, **seen)  # type: ignore[arg-type]
    assert growth.fingerprint(grafted) == before
    assert receipt.exact and receipt.change is not None and receipt.change.exact
    assert receipt.change.top1 == 0 and receipt.parameters[1] > receipt.parameters[0]
    assert receipt.macs is not None and receipt.macs[1] > receipt.macs[0]
    again = pathnas.replay(grafted, growth.log(grown))
    assert growth.fingerprint(again) == growth.fingerprint(grown)
    plain = export.plain(grown)
    assert not any(type(m).__module__.startswith("pathnas") for m in plain.modules())
    with torch.no_grad():
        assert relative_change(grown(x), plain.eval()(x)) <= 1e-5


CHAIN = [
    Branch((), "add", 2),
    Insert((0,)),
    Replace((0, 0), "sep_conv5x5"),
    Insert((1,)),
    Replace((1, 0), "max_pool3x3"),
]


def test_a_calibrated_resnet_keeps_its_output_in_train_mode_too() -> None:
    model = torchvision_model("resnet18").double()
    grafted = pathnas.graft(model, ["layer2.*.conv2", "layer4.1.conv1"])
    x = images(3, 7, torch.float64, size=32)
    before = deepcopy(grafted.state_dict())
    training.calibrate(grafted, x)
    after = grafted.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(module.training for module in grafted.modules())
    done = [Branch((), "concat", 2), Insert((0,)), Replace((0, 0), "sep_conv3x3"), Insert((1,))]
    done += [Branch((1,), "add", 2), Replace((1, 0), "conv1x1"), Replace((1, 1), "avg_pool3x3")]
    grown = grow(grafted, done)
    assert relative_change(model(x), grown(x)) <= 1e-10
    assert relative_change(model.train()(x), grown.train()(x)) <= 1e-8
    grown(x).sum().backward()
    assert all(p.grad is not None for p in grown.parameters())


@pytest.mark.parametrize("activation", ["pre", "post"])
def test_the_output_of_a_grown_cell_may_be_overwritten(activation: str) -> None:
    """An in-place ReLU behind a bare cell, whatever stands last in the cell."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)).double()
    grafted = pathnas.graft(model, "0", activation=activation)
    x = images(3, 0, torch.float64)
    x.requires_grad_()
    kept = x.detach().clone()
    for op in ("conv3x3", "sep_conv5x5", "max_pool3x3", "identity"):
        done: list = [Insert((0,))]
        done += [Replace((0, 0), op)] if op != "identity" else []
        grown = grow(grafted, done).train()
        assert relative_change(model(x), deepcopy(grown).eval()(x)) <= 1e-12
        for a in (1.0, 0.5, 0.0):
            set_gates(grown, a)
            grown(x).square().sum().backward()
        assert torch.equal(x, kept)


def test_the_mode_and_the_dtype_of_every_part_are_kept() -> None:
    model = body(Conv(4, 6), "nr", "nr", True).to(torch.bfloat16).train()
    model.norm2.eval()
    model.conv.weight.requires_grad_(False)
    model.to(memory_format=torch.channels_last)
    for absorb in (False, True):
        grafted = pathnas.graft(model, "conv", activation="post", absorb=absorb)
        cell = cells(grafted)["conv"]
        assert cell.training and cell.edge_at((0,)).op.training
        norms = [m for m in grafted.modules() if isinstance(m, nn.BatchNorm2d)]
        assert [norm.training for norm in norms] == [True, False]
        weight = cell.edge_at((0,)).op.convs[0].weight
        assert weight.dtype == torch.bfloat16 and not weight.requires_grad
        assert weight.is_contiguous(memory_format=torch.channels_last)
        grown = grow(grafted, [Insert((0,)), Replace((0, 0), "conv1x1")])
        assert {p.dtype for p in grown.parameters()} == {torch.bfloat16}
        # The base can be built from tree and spec alone.
        built = Cell(cell.spec).to(torch.bfloat16)
        built.load_state_dict(cell.state_dict())
        x = images(4, 1, torch.bfloat16)
        torch.testing.assert_close(built.eval()(x), deepcopy(cell).eval()(x))


def test_a_meta_model_is_grafted_without_memory() -> None:
    with torch.device("meta"):
        model = body(Conv(4, 6), "nr", "nr", True)
    grown = grow(pathnas.graft(model, "conv"), [Insert((0,)), Replace((0, 0), "conv3x3")])
    assert all(tensor.is_meta for tensor in grown.state_dict().values())


def test_names_globs_lists_and_predicates_select() -> None:
    model = torchvision_model("resnet18")

    def names(selection: object) -> list[str]:
        return list(cells(pathnas.graft(model, selection)))  # type: ignore[arg-type]

    assert names("conv1") == ["conv1"]
    assert names("layer2.*.conv2") == ["layer2.0.conv2", "layer2.1.conv2"]
    assert names(["layer2.1.conv?", "conv1"]) == ["conv1", "layer2.1.conv1", "layer2.1.conv2"]
    assert names(lambda name, conv: conv.stride == (2, 2) and conv.kernel_size == (3, 3)) == [
        f"layer{stage}.0.conv1" for stage in (2, 3, 4)
    ]
    first = pathnas.graft(model, "layer1.*.conv1")
    both = pathnas.graft(first, "layer1.*")
    assert len(cells(both)) == 4 and len(cells(first)) == 2
    both.load_state_dict(model.state_dict())
    nested = nn.Sequential(OrderedDict(inner=both))
    nested.load_state_dict({f"inner.{key}": value for key, value in model.state_dict().items()})


BAD: list[tuple[object, str]] = [
    ("layer2.0.con2", "no convolution is named 'layer2.0.con2'; nearest: layer2.0.conv2"),
    ("layer9.*", r"no convolution is named 'layer9.\*'; nearest: "),
    ("fc", "expected the name of a convolution, got 'fc', which is Linear"),
    ("", "expected the name of a convolution, got '', which is ResNet"),
    ([], "expected at least one name or glob, got none"),
    (["conv1", 3], "expected names or globs of convolutions, got 3"),
    (lambda name, conv: False, "expected a predicate that holds for a convolution"),
]


@pytest.mark.parametrize(("selection", "message"), BAD)
def test_a_selection_of_nothing_is_refused(selection: object, message: str) -> None:
    model = torchvision_model("resnet18")
    with pytest.raises(ValueError, match=message):
        pathnas.graft(model, selection)  # type: ignore[arg-type]


def test_bad_settings_are_refused_with_what_was_expected() -> None:
    model = torchvision_model("resnet18")
    with pytest.raises(ValueError, match=r"one of \('pre', 'post'\), got 'mid'"):
        pathnas.graft(model, "conv1", activation="mid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="conv1: groups must divide the cell's 64 channels, got 3"):
        pathnas.graft(model, "conv1", groups=3)
    assert cells(pathnas.graft(model, "conv1", groups=4))["conv1"].spec.group_width == 16
    with pytest.raises(ValueError, match="expected a torch module, got str"):
        pathnas.graft("resnet18", "conv1")  # type: ignore[arg-type]
    inside = pathnas.graft(model, "conv1")
    with pytest.raises(ValueError, match="'conv1', which is a part of the cell 'conv1'"):
        pathnas.graft(inside, "conv1")
    inner = "conv1.root.edges.0.op.convs.0"
    with pytest.raises(ValueError, match=f"'{inner}', which is a part of the cell 'conv1'"):
        pathnas.graft(inside, inner)
    model.hold = torch.ones(1, requires_grad=True) * 2
    with pytest.raises(ValueError, match="expected a model that deepcopy can copy"):
        pathnas.graft(model, "conv1")


def test_wrappers_are_taken_off_and_scripts_refused(tmp_path: Path) -> None:
    model = body(Conv(4, 6), "nr", "nr", True).eval()
    x = images(3, 0, torch.float32)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = [
            nn.DataParallel(model),
            nn.parallel.DistributedDataParallel(model),
            torch.compile(model),
            torch.compile(nn.DataParallel(model)),
        ]
        for one in wrapped:
            grafted = pathnas.graft(one, "conv")
            assert type(grafted) is nn.Sequential and list(cells(grafted)) == ["conv"]
            assert torch.equal(grafted(x), model(x))
    finally:
        dist.destroy_process_group()
    model.compile()
    assert torch.equal(pathnas.graft(model, "conv")(x), body_forward(model, x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripts are on their way out of torch
        scripted = torch.jit.trace(body(Conv(4, 6), "", "", False), x)
    with pytest.raises(ValueError, match="expected a model in Python, got a ScriptModule"):
        pathnas.graft(scripted, "conv")


def body_forward(model: nn.Module, x: Tensor) -> Tensor:
    """The output without a compiler."""
    return model.forward(x)


def test_a_symbolic_graph_module_can_be_grafted() -> None:
    model = torchvision_model("resnet18")
    graph = fx.symbolic_trace(model)
    x = images(3, 0, torch.float32, size=32)
    assert torch.equal(pathnas.graft(graph, "layer1.*.conv2")(x), model(x))
