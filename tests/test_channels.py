"""Channel index maps, and the surgery of single layers that they serve."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pathnas.channels import Channels, rewire, wider
from tests.strategies import images, relative_change


@st.composite
def maps(draw: st.DrawFn, width: int | None = None) -> Channels:
    """Maps that keep every channel, in any order and number."""
    width = width or draw(st.integers(1, 5))
    extra = draw(st.lists(st.integers(0, width - 1), max_size=5))
    return Channels(tuple(draw(st.permutations([*range(width), *extra]))), width)


@given(channels=maps(), seed=st.integers(0, 100))
def test_what_reads_replicas_computes_what_it_computed(channels: Channels, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, channels.width, dtype=torch.float64, generator=generator)
    x = torch.randn(channels.width, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(channels.inputs(weight) @ channels.outputs(x), weight @ x)


@given(channels=maps(), n=st.integers(1, 4))
def test_a_channel_keeps_its_features_together(channels: Channels, n: int) -> None:
    x = torch.arange(channels.width * n).view(channels.width, n)
    spread = channels.spread(n)
    assert torch.equal(spread.outputs(x.flatten()), channels.outputs(x).flatten())
    assert spread.groups(n) == channels.index


def test_a_map_knows_its_replicas_and_whether_it_changes_anything() -> None:
    assert Channels((0, 1, 1, 0), 2).replicas == (2, 3)
    assert Channels.selected(0, 3, 3).unchanged
    assert not Channels.selected(1, 3, 3).unchanged
    assert Channels((2, 3, 0, 1), 4).groups(2) == (1, 0)
    assert Channels((1, 2), 4).groups(2) is None
    assert Channels((0, 1, 2), 4).groups(2) is None


@pytest.mark.parametrize("index", [(), (0, 3), (-1, 0)])
def test_a_map_outside_of_its_channels_is_refused(index: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"all in \[0, 3\), got"):
        Channels(index, 3)


@given(data=st.data(), kind=st.sampled_from(["conv", "transposed", "linear", "norm", "prelu"]))
def test_a_rewired_layer_computes_the_mapped_channels(data: st.DataObject, kind: str) -> None:
    torch.manual_seed(0)
    module = {
        "conv": lambda: nn.Conv2d(3, 4, 3),
        "transposed": lambda: nn.ConvTranspose2d(3, 4, 3),
        "linear": lambda: nn.Linear(3, 4),
        "norm": lambda: nn.BatchNorm2d(4).eval(),
        "prelu": lambda: nn.PReLU(4),
    }[kind]().double()
    one_side = kind in ("norm", "prelu")
    outputs, inputs = data.draw(maps(4)), None if one_side else data.draw(maps(3))
    x = images(4 if one_side else 3, 0, torch.float64)
    x = x.mean((2, 3)) if kind == "linear" else x
    expected = outputs.outputs(module(x), 1)
    rewire(module, outputs, inputs)
    assert relative_change(expected, module((inputs or outputs).outputs(x, 1))) < 1e-12
    assert all(p.shape[0] for p in module.parameters())


def test_groups_are_replicated_whole_or_widened_alike() -> None:
    torch.manual_seed(0)
    x = images(6, 0, torch.float64)
    conv = nn.Conv2d(6, 4, 3, groups=2).double()
    whole = nn.Conv2d(6, 4, 3, groups=2).double()
    whole.load_state_dict(conv.state_dict())
    outs, ins = Channels((2, 3, 0, 1, 2, 3), 4), Channels((3, 4, 5, 0, 1, 2, 3, 4, 5), 6)
    rewire(whole, outs, ins)
    assert (whole.groups, whole.in_channels, whole.out_channels) == (3, 9, 6)
    torch.testing.assert_close(whole(ins.outputs(x, 1)), outs.outputs(conv(x), 1))
    wide = nn.Conv2d(6, 4, 3, groups=2).double()
    wide.load_state_dict(conv.state_dict())
    outs, ins = Channels((0, 1, 0, 2, 3, 3), 4), Channels((0, 1, 2, 1, 3, 4, 5, 5), 6)
    rewire(wide, outs, ins)
    assert (wide.groups, wide.in_channels, wide.out_channels) == (2, 8, 6)
    torch.testing.assert_close(wide(ins.outputs(x, 1)), outs.outputs(conv(x), 1))
    with pytest.raises(ValueError, match=r"2 groups of 4 -> 3 channels must stay equally wide"):
        rewire(wide, Channels((0, 1, 2, 3, 4, 5, 0), 6), None)


def test_surgery_keeps_what_the_tensors_are() -> None:
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    conv.weight.requires_grad_(False)
    rewire(conv, Channels((0, 1, 2, 3, 0), 4), None)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not conv.weight.requires_grad and conv.bias.requires_grad
    norm = nn.BatchNorm2d(2, affine=False)
    rewire(norm, Channels((1, 0, 1), 2), None)
    assert norm.num_features == 3 and norm(images(3, 0, torch.float32)).shape[1] == 3


def test_layers_that_cannot_be_rewired_say_so() -> None:
    with pytest.raises(ValueError, match=r"expected a convolution, .*got LayerNorm"):
        rewire(nn.LayerNorm(3), None, None)
    with pytest.raises(ValueError, match="transposed convolution with groups"):
        rewire(nn.ConvTranspose2d(2, 2, 1, groups=2), None, None)
    with pytest.raises(ValueError, match=r"expected 3 channels along dimension 0, got \(4, 5\)"):
        rewire(nn.Linear(5, 4), Channels((0, 1, 2), 3), None)


def test_replicas_are_drawn_block_by_block() -> None:
    drawn = wider(6, 4, 2, torch.Generator().manual_seed(0))
    assert all(c < 3 for c in drawn[:2]) and all(3 <= c < 6 for c in drawn[2:])
    assert drawn == wider(6, 4, 2, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="multiples of 4 groups, got 6 channels and 4 more"):
        wider(6, 4, 4, torch.Generator())
