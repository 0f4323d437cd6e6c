"""The checker of operations passes what is right and names what is wrong."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pathnas import ops
from pathnas.ops import OPS, ConvUnit, Gate, Identity, Op, Pool, Primitive
from pathnas.specs import CellSpec, Moments, Range
from pathnas.testing import check_op


@pytest.fixture
def registry() -> Iterator[dict[str, Op]]:
    before = dict(OPS)
    yield OPS
    for name in set(OPS) - set(before):
        del OPS[name]


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_operation_of_the_project_keeps_every_law(name: str) -> None:
    before = torch.get_rng_state()
    check_op(name)
    assert torch.equal(torch.get_rng_state(), before)


def test_operations_of_a_users_own_keep_them_too(registry: dict[str, Op]) -> None:
    sys.modules.pop("tests.own_ops", None)
    importlib.import_module("tests.own_ops")
    check_op("conv1x5")
    check_op("scale")
    sys.modules.pop("tests.own_ops")
    with pytest.raises(ValueError, match="unknown operation 'conv9x9'"):
        check_op("conv9x9")


def test_the_operation_of_the_contributing_guide_keeps_them(registry: dict[str, Op]) -> None:
    guide = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    exec(compile(code, "CONTRIBUTING.md", "exec"), {})
    check_op("conv5x5")


def nothing(i: int, o: int, spec: CellSpec) -> int:
    return 0


def width(i: int, o: int, spec: CellSpec) -> int:
    return i


class Scale(Primitive):
    """A right operation, for the wrong ones to differ from in one thing."""

    def __init__(self, i: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.rand(i) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors[:, None, None]

    def become_identity(self, moments: Moments | None, birth: ops.Birth) -> None:
        nn.init.ones_(self.factors)

    def select(self, outputs: Range, inputs: Range | None) -> Primitive:
        part = type(self)(outputs.stop - outputs.start)
        part.factors = nn.Parameter(self.factors.detach()[outputs.start : outputs.stop].clone())
        return part


class NeverAnIdentity(Scale):
    def become_identity(self, moments: Moments | None, birth: ops.Birth) -> None:
        pass


class SharesItsParts(Scale):
    def select(self, outputs: Range, inputs: Range | None) -> Primitive:
        part = type(self)(outputs.stop - outputs.start)
        part.factors = nn.Parameter(self.factors.detach()[outputs.start : outputs.stop])
        return part


class TakesTheFirstChannels(Scale):
    def select(self, outputs: Range, inputs: Range | None) -> Primitive:
        return super().select(Range(0, outputs.stop - outputs.start), inputs)


class CannotBeSplit(Scale):
    def select(self, outputs: Range, inputs: Range | None) -> Primitive:
        raise NotImplementedError("no parts")


class ChangesItselfWhenSplit(Scale):
    def select(self, outputs: Range, inputs: Range | None) -> Primitive:
        part = super().select(outputs, inputs)
        nn.init.zeros_(self.factors)
        return part


class Shrinks(Scale):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, ::2]


class DoublePrecisionOnly(Scale):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).double()


class WorksInPlace(Scale):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x.clamp_(-1.0)
        return super().forward(x)


class DrawsAtRandom(Scale):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1e-6 * torch.randn_like(x)


class HidesATensor(Scale):
    def __init__(self, i: int) -> None:
        super().__init__(i)
        self.hidden = (torch.zeros(i),)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.hidden[0][:, None, None].to(x.dtype)


class HasAnIdleWeight(Scale):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors.detach()[:, None, None]


class HasAGateWithState(Scale):
    def become_identity(self, moments: Moments | None, birth: ops.Birth) -> None:
        super().become_identity(moments, birth)
        self.register_buffer("gate", torch.ones(1))


class CopiesItself(Scale):
    def __deepcopy__(self, memo: object) -> CopiesItself:
        copy = type(self)(len(self.factors))
        copy.factors = self.factors
        return copy


class Norm(Scale):
    """Normalizes, and is an identity with the statistics that torch begins with."""

    def __init__(self, i: int) -> None:
        super().__init__(i)
        self.norm = nn.BatchNorm2d(i)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))

    def become_identity(self, moments: Moments | None, birth: ops.Birth) -> None:
        super().become_identity(moments, birth)
        nn.init.constant_(self.norm.weight, (1 + self.norm.eps) ** 0.5)
        nn.init.zeros_(self.norm.bias)


class NormInEvalModeOnly(Norm):
    def become_identity(self, moments: Moments | None, birth: ops.Birth) -> None:
        nn.init.ones_(self.factors)
        mean, var = self.norm.running_mean, self.norm.running_var
        assert mean is not None and var is not None
        self.norm.bias.data.copy_(mean)
        self.norm.weight.data.copy_((var + self.norm.eps).sqrt())


def of(
    kind: Callable[[int], Primitive], weights: Callable[..., int] = width, **options: object
) -> Op:
    return Op(lambda i, o, s: kind(i), nothing, weights, splits=True, **options)  # type: ignore[arg-type]


def twice_the_width(i: int, o: int, spec: CellSpec) -> int:
    return 2 * i


def even(i: int, o: int, spec: CellSpec) -> Primitive:
    if i % 2:
        raise ValueError(f"expected an even width, got {i}")
    return Scale(i)


def never(i: int, o: int, spec: CellSpec) -> int:
    raise ValueError("no width will do")


def clumsy(i: int, o: int, spec: CellSpec) -> Primitive:
    assert i > 1
    return Scale(i)


def conv(i: int, o: int, spec: CellSpec) -> Primitive:
    return ConvUnit([nn.Conv2d(i, o, 1, bias=False)], None)


def unset(i: int, o: int, spec: CellSpec) -> Primitive:
    part = Scale(i)
    part.become_identity = lambda moments, birth: None  # type: ignore[method-assign]
    return part


class HardPool(Pool):
    """Claims to be exact when born hard."""

    def __init__(self, i: int) -> None:
        super().__init__("max")


BROKEN = {
    "macs": (Op(conv, width, lambda i, o, s: i * o), r"cost: expected macs of \d+ a position"),
    "parameters": (of(Scale, twice_the_width), "cost: expected parameters of 1, as the .*got 2"),
    "shape": (of(Shrinks), r"shape: expected the shape \(4, 1, 7, 5\), got \(4, 1, 4, 5\)"),
    "dtype": (of(DoublePrecisionOnly), "shape: expected torch.float32, got torch.float64"),
    "in place": (of(WorksInPlace), "shape: expected an input left alone"),
    "no identity": (of(NeverAnIdentity), "in eval mode: expected its input when born gated"),
    "one statistic": (of(Norm, lambda i, o, s: 3 * i), "in eval mode: expected its input"),
    "eval only": (of(NormInEvalModeOnly, lambda i, o, s: 3 * i), "its input when born|train mode"),
    "not exact": (of(HardPool, nothing, exact=True), "expected its input when born hard"),
    "shared": (of(SharesItsParts), "parts: expected a part that shares no tensor"),
    "wrong part": (of(TakesTheFirstChannels), "parts: expected the channels of the whole"),
    "no parts": (of(CannotBeSplit), "parts: NotImplementedError: no parts"),
    "spoiled": (of(ChangesItselfWhenSplit), "parts: expected .*whole"),
    "random": (of(DrawsAtRandom), "eval mode: expected its input .* relative error of"),
    "copies": (of(CopiesItself), "copies: expected a copy that shares no tensor"),
    "idle": (of(HasAnIdleWeight), "gradients: expected a gradient of factors, got none"),
    "gate": (of(HasAGateWithState), "state: expected no other state than .* when born"),
    "hidden": (of(HidesATensor), "moving: .*Error"),
    "blank": (of(Scale, blank=unset), "blank: expected factors as after build"),
    "refusal": (Op(even, nothing, width, splits=True), "all or none to raise ValueError"),
    "never": (Op(even, never, never, splits=True), "refused widths: expected all or none"),
    "assert": (Op(clumsy, nothing, width, splits=True), "with 1 -> 1 channels.*refused widths"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_breaks_a_law_is_named(fault: str, registry: dict[str, Op]) -> None:
    registry["broken"], message = BROKEN[fault]
    with pytest.raises(AssertionError, match=message) as caught:
        check_op("broken")
    assert str(caught.value).startswith("operation 'broken' with ")


def test_what_the_broken_ones_differ_from_is_right(registry: dict[str, Op]) -> None:
    registry["right"] = of(Scale, exact=True)
    check_op("right")


def evenly(i: int, o: int, spec: CellSpec) -> int:
    even(i, o, spec)
    return i


def test_an_operation_may_refuse_widths_but_not_all(registry: dict[str, Op]) -> None:
    registry["even"] = Op(even, lambda *a: 0 * evenly(*a), evenly, splits=True)
    check_op("even")
    registry["none"] = Op(lambda i, o, s: Scale(never(i, o, s)), never, never, splits=True)
    with pytest.raises(AssertionError, match="'none': expected some width it takes, got none"):
        check_op("none")


def test_a_gated_function_of_ones_own_passes(registry: dict[str, Op]) -> None:
    class Blur(Identity):
        def __init__(self) -> None:
            super().__init__()
            self.blur: nn.Module = nn.AvgPool2d(5, 1, 2, count_include_pad=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.blur(x)

        def become_identity(self, moments: Moments | None, birth: ops.Birth) -> None:
            if birth == "gated":
                self.blur = Gate(self.blur)

        def select(self, outputs: Range, inputs: Range | None) -> Identity:
            part = Blur()
            part.blur = Gate(nn.AvgPool2d(5, 1, 2, count_include_pad=False))
            part.blur.a = self.blur.a if isinstance(self.blur, Gate) else 0.0
            return part

    registry["blur"] = Op(lambda i, o, s: Blur(), nothing, nothing, splits=True)
    check_op("blur")


def test_no_test_framework_is_needed() -> None:
    code = "import sys, pathnas.testing; sys.exit('pytest' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
