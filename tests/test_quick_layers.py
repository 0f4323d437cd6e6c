"""Quick layers compute what torch's own compute, and leave nothing behind."""

from __future__ import annotations

from copy import deepcopy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

from pathnas import cell, networks, quick_layers, training
from pathnas.tree import Edge, Node


def outcome(layer: nn.Module, x: torch.Tensor, pull: torch.Tensor) -> list[torch.Tensor]:
    """The output and the gradients of input and weights."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    layer.zero_grad()
    y = layer(x)
    (y * pull).sum().backward()
    gradients = [x.grad, *(p.grad for p in layer.parameters())]
    return [y.detach(), *(g.clone() for g in gradients if g is not None)]


def same(layer: nn.Module, x: torch.Tensor) -> None:
    pull = torch.randn_like(layer(x))
    expected = outcome(layer, x, pull)
    with quick_layers.used(layer):
        assert type(layer) not in (nn.Conv2d, nn.AdaptiveAvgPool2d)
        found = outcome(layer, x, pull)
    assert type(layer) in (nn.Conv2d, nn.AdaptiveAvgPool2d)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def images(size: int, channels: int, height: int, width: int, last: bool) -> torch.Tensor:
    x = torch.randn(size, channels + 1, height, width)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    return x[:, :channels]  # as a split gives it


sizes = st.integers(1, 9)


@given(sizes, sizes, sizes, sizes, sizes, st.booleans(), st.booleans())
def test_pointwise(b: int, i: int, o: int, h: int, w: int, last: bool, bias: bool) -> None:
    torch.manual_seed(0)
    same(nn.Conv2d(i, o, 1, bias=bias), images(b, i, h, w, last))


@given(sizes, st.integers(1, 8), st.sampled_from((3, 5, 7)), sizes, sizes, st.booleans())
def test_depthwise(b: int, c: int, kernel: int, h: int, w: int, last: bool) -> None:
    torch.manual_seed(0)
    c = min(c, kernel + 1)
    layer = nn.Conv2d(c, c, kernel, padding=kernel // 2, groups=c, bias=False)
    same(layer, images(b, c, h, w, last))


@given(sizes, sizes, sizes, sizes, st.booleans())
def test_mean(b: int, c: int, h: int, w: int, last: bool) -> None:
    same(nn.AdaptiveAvgPool2d(1), images(b, c, h, w, last))


def test_the_gradient_of_the_mean_has_the_layout_of_its_input() -> None:
    x = torch.randn(4, 6, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    seen = []
    y = x * 2
    y.register_hook(lambda gradient: seen.append(gradient.stride()))
    pool = nn.AdaptiveAvgPool2d(1)
    with quick_layers.used(pool):
        pool(y).sum().backward()
    assert seen == [x.stride()]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 1, stride=2),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Conv2d(4, 4, 1, padding=1),
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False, padding_mode="reflect"),
        nn.Conv2d(4, 4, (3, 1), padding=(1, 0), groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, dilation=2, groups=4, bias=False),
        nn.Conv2d(9, 9, 7, padding=3, groups=9, bias=False),
        nn.AdaptiveAvgPool2d(2),
    ],
    ids=str,
)
def test_other_layers_stay_as_they_are(layer: nn.Module) -> None:
    own = type(layer)
    with quick_layers.used(layer):
        assert type(layer) is own


@pytest.mark.parametrize("shape", [(1, 4, 9, 9), (4, 8, 8), (2**10, 4, 8, 8)])
def test_larger_images_and_single_ones_go_torchs_own_way(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    if len(shape) == 3:
        x = x[:4]
    for layer in (nn.Conv2d(4, 8, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)):
        expected = layer(x)
        with quick_layers.used(layer):
            torch.testing.assert_close(layer(x), expected)


def test_an_error_restores_the_network() -> None:
    layer = nn.Conv2d(2, 2, 1)
    with pytest.raises(RuntimeError, match="by hand"), quick_layers.used(layer):
        raise RuntimeError("by hand")
    assert type(layer) is nn.Conv2d


def test_training_uses_them_and_hands_the_network_back_as_it_was() -> None:
    torch.manual_seed(0)
    tree = Node((Edge("base", Node((Edge("sep_conv5x5"),))),))
    network = networks.build(name="chain", channels=1, classes=3, tree=tree, widths=[4])
    cell.set_gates(network, 0.0)
    plain = deepcopy(network)
    kinds = [type(module) for module in network.modules()]
    batch = torch.randn(8, 1, 6, 6), torch.randint(3, (8,))
    seen: list[type[nn.Module]] = []
    conv = next(m for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups == 4)
    conv.register_forward_hook(lambda module, *_: seen.append(type(module)))
    for one, precision in ((network, "float32"), (plain, "bfloat16")):
        training.fit(one, [batch], epochs=2, learning_rate=0.1, precision=precision)  # type: ignore[arg-type]
    assert len(seen) == 2 and nn.Conv2d not in seen
    assert [type(module) for module in network.modules()] == kinds
    assert network.state_dict().keys() == plain.state_dict().keys()
