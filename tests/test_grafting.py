"""Grafting: any model's convolutions become cells, and its function stays."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from functools import partial

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pathnas
from pathnas import training
from pathnas.cell import cells, set_gates
from pathnas.ops import Conv
from pathnas.transforms import grow
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
    options, _, _ = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(torchvision.models, name)(weights=None, num_classes=10, **options)
    randomize(model, 1)
    return model.eval()


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
@settings(max_examples=40)
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
    training.calibrate(grafted, x)
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
        assert {t.dtype for t in grown.parameters()} == {dtype}
        assert is_untouched(model, before)
    again = pathnas.graft(model, selection)
    randomize(again, 5)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(x), expected)
