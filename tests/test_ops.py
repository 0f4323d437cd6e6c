"""The registry of operations, and the surgery of single modules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from torch import nn

from pathnas import ops
from pathnas.ops import OPS, Gate, Identity, Op, Pool, Primitive
from pathnas.probing import counted
from pathnas.specs import CellSpec, Conv, Moments, Range
from tests.strategies import convs, images

SPEC = CellSpec(Conv(6, 6, groups=3))


def free(i: int, o: int, spec: CellSpec) -> int:
    return 0


def test_the_registry_is_a_plain_dictionary_and_a_decorator_that_refuses_doubles() -> None:
    for taken in ("conv1x1", "base"):
        with pytest.raises(ValueError, match="exists already"):
            ops.register(taken, macs=free, parameters=free)
    with pytest.raises(ValueError, match=r"must be an identifier, got 'add\(a\)'"):
        ops.register("add(a)", macs=free, parameters=free)

    @ops.register("a_users_own", macs=free, parameters=free, splits=True)
    def build(i: int, o: int, spec: CellSpec) -> Identity:
        return Identity()

    try:
        assert ops.get("a_users_own") == OPS["a_users_own"] == Op(build, free, free, splits=True)
    finally:
        del OPS["a_users_own"]
    with pytest.raises(ValueError, match=r"unknown operation 'a_users_own'; known: avg_pool3x3"):
        ops.get("a_users_own")
    with pytest.raises(TypeError, match="parameters"):
        ops.register("a_users_own", macs=free)(build)


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.blank])
@pytest.mark.parametrize("activation", ["pre", "post"])
def test_a_blank_unit_born_as_an_identity_is_a_drawn_one_and_draws_nothing(
    name: str, activation: str
) -> None:
    spec = CellSpec(Conv(6, 6, groups=3), activation)  # type: ignore[arg-type]
    drawn = OPS[name].build(6, 6, spec)
    before = torch.get_rng_state()
    blank = OPS[name].blank(6, 6, spec)  # type: ignore[misc]
    assert torch.equal(before, torch.get_rng_state())
    for unit in (drawn, blank):
        unit.become_identity(None, "gated")
    state = drawn.state_dict()
    assert list(state) == list(blank.state_dict()) and repr(drawn) == repr(blank)
    assert all(torch.equal(state[key], value) for key, value in blank.state_dict().items())
    assert [type(m) for m in drawn.modules()] == [type(m) for m in blank.modules()]


@pytest.mark.parametrize("name", sorted(OPS))
def test_operations_keep_the_shape_and_count_their_weights(name: str) -> None:
    module = OPS[name].build(6, 6, SPEC)
    x = images(6, 0, torch.float32)
    assert module(x).shape == x.shape
    assert OPS[name].parameters(6, 6, SPEC) == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if not op.splits])
def test_selecting_outputs_yields_those_channels_of_the_whole(name: str) -> None:
    for activation in ("pre", "post"):
        module = OPS[name].build(6, 6, CellSpec(Conv(6, 6), activation)).eval()  # type: ignore[arg-type]
        x = images(6, 1, torch.float32)
        torch.testing.assert_close(module.select(Range(2, 5), None)(x), module(x)[:, 2:5])


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.splits])
def test_selecting_inputs_and_outputs_of_an_operation_that_splits(name: str) -> None:
    module = OPS[name].build(6, 6, SPEC).eval()
    x = images(6, 1, torch.float32)
    part = Range(2, 6)  # two of the three groups
    torch.testing.assert_close(module.select(part, part)(x[:, 2:6]), module(x)[:, 2:6])


def test_pooling_does_not_count_padding() -> None:
    ones = torch.ones(1, 2, 5, 5)
    torch.testing.assert_close(Pool("avg")(ones), ones)
    torch.testing.assert_close(Pool("max")(-ones), -ones)


@pytest.mark.parametrize("inner", [nn.ReLU(), nn.MaxPool2d(3, 1, 1)])
def test_a_gate_goes_from_the_identity_to_its_function(inner: nn.Module) -> None:
    gate, x = Gate(inner), images(3, 2, torch.float64)
    assert torch.equal(gate(x), x)
    gate.a = 0.25
    torch.testing.assert_close(gate(x), 0.25 * x + 0.75 * inner(x))
    gate.a = 0.0
    torch.testing.assert_close(gate(x), inner(x))


def test_groups_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="2 groups with 6 -> 3 channels"):
        Conv(6, 3, groups=2)
    with pytest.raises(ValueError, match="groups must divide"):
        Conv(0, 3)
    with pytest.raises(ValueError, match="divide the cell's 6 channels, got 4"):
        _ = CellSpec(Conv(6, 6), groups=4).group_width
    with pytest.raises(ValueError, match="splits between its groups of 2"):
        Conv(6, 6, groups=3).outputs(Range(0, 3))


def test_a_primitive_without_surgery_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Primitive cannot be split"):
        Primitive().select(Range(0, 1), None)
    with pytest.raises(NotImplementedError, match="cannot be born as an identity"):
        Primitive().become_identity(None, "hard")
    with pytest.raises(ValueError, match="a convolution or a batch norm, got Linear"):
        ops.select_channels(nn.Linear(1, 1), None, None)


def test_a_norm_that_undoes_itself_is_exact_for_any_moments() -> None:
    unit = OPS["conv3x3"].build(4, 4, CellSpec(Conv(4, 4), "pre")).eval()
    moments = Moments(torch.randn(4), torch.rand(4) + 0.1)
    unit.become_identity(moments, "gated")
    x = images(4, 3, torch.float32)
    torch.testing.assert_close(unit(x), x)


@given(conv=convs())
def test_a_convolution_is_read_off_its_module_and_counts_its_weights(conv: Conv) -> None:
    module = conv.build()
    assert Conv.of(module) == conv and hash(Conv.of(module)) == hash(conv)
    assert conv.weights == module.weight.numel()
    x = images(conv.channels_in, 0, torch.float32, size=9)
    output, macs = counted(module, x)
    assert macs == conv.weights * output.shape[-2] * output.shape[-1]


def test_equal_convolutions_are_equal_values() -> None:
    pairs = Conv(4, 8, kernel=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(1, 1), groups=2)
    assert pairs == Conv(4, 8, stride=2, groups=2) and pairs.stride == 2
    assert Conv(4, 4, padding="valid") == Conv(4, 4, padding=0)
    assert Conv(4, 4, kernel=(3, 1)).kernel == (3, 1)


BAD_CONVS = [
    ({"kernel": 0}, r"kernel must be one or two integers >= 1, got 0"),
    ({"stride": (1, 0)}, r"stride must be one or two integers >= 1, got \(1, 0\)"),
    ({"dilation": (1, 1, 1)}, "dilation must be one or two integers"),
    ({"padding": -1}, "padding must be one or two integers >= 0, got -1"),
    ({"padding": "full"}, "padding must be one or two integers >= 0, got 'full'"),
    ({"padding": "same", "stride": 2}, "padding 'same' needs stride 1, got 2"),
    ({"padding_mode": "mirror"}, "padding_mode must be one of .*, got 'mirror'"),
    ({"groups": 3}, "groups must divide the channels of a convolution, got 3 groups"),
]


@pytest.mark.parametrize(("options", "message"), BAD_CONVS)
def test_convolutions_that_cannot_be_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Conv(4, 4, **options)
