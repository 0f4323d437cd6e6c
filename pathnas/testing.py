"""Proof that an operation keeps every law that the transforms build on: :func:`check_op`.

For the tests of whoever registers an operation of their own; it needs no test framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pathnas import ops
from pathnas.cell import Cell, cost, fits, set_gates, shares
from pathnas.ops import Op, Primitive
from pathnas.probing import counted
from pathnas.specs import Activation, CellSpec, Conv, Moments, Range
from pathnas.transforms import Branch, Insert, Replace, Transform, grow

TOLERANCES = ((torch.float64, 1e-10), (torch.float32, 1e-4))
"""Relative errors that count as rounding."""

_IMAGES = 4


def check_op(name: str) -> None:
    """Checks every law for a registered operation; takes about a second.

    - It maps `[B, C, H, W]` to `[B, C', H, W]` of the same type, also on torch's meta device, and
      leaves its input alone.
    - `parameters` and `macs` are what can be counted.
    - Born gated it returns its input: in eval mode whatever the statistics of its norms are, in
      train mode on the batch whose moments it was given. Born hard too, if it says `exact`.
    - Parts that ``select`` returns compute the slices of the whole, are like what ``build`` returns
      for their widths, and share no tensor with it. Copies neither.
    - Every weight gets a gradient; a ``state_dict`` goes round; a gate adds no key to it.
    - What ``build`` refuses by ValueError, `macs` and `parameters` refuse.
    - In cells, all of this holds for the transforms; see :mod:`pathnas.transforms`.

    Checked with odd widths, with one channel, with both orders of norm and activation, and with
    groups if the operation has some. torch's global generator is left as it was.

    Args:
        name: of the operation.

    Raises:
        ValueError: if there is no such operation.
        AssertionError: if it breaks a law; the message says which, with which widths, what was
            expected and what came.
    """
    op = ops.get(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cases = [case for case in _cases(name, op) if case.law("refused widths", _refused) is False]
        if not any(case.keeps_width for case in cases):
            raise AssertionError(f"operation {name!r}: expected some width it takes, got none")
        for case in cases:
            for words, law in LAWS.items():
                case.law(words, law)


@dataclass(frozen=True)
class _Case:
    name: str
    op: Op
    spec: CellSpec
    channels_in: int
    channels_out: int

    @property
    def keeps_width(self) -> bool:
        return self.channels_in == self.channels_out

    @property
    def arguments(self) -> tuple[int, int, CellSpec]:
        return self.channels_in, self.channels_out, self.spec

    def part(self, width: int) -> _Case:
        """The case of a branch of a concat."""
        read = width if self.op.splits else self.channels_in
        return replace(self, channels_in=read, channels_out=width)

    def law(self, words: str, check: Callable[[_Case], Any]) -> Any:
        where = (
            f"operation {self.name!r} with {self.channels_in} -> {self.channels_out} channels, "
            f"{self.spec.activation}-activation: {words}"
        )
        try:
            return check(self)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from None
        except Exception as error:  # whatever the code of a user raises
            raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error

    def build(self, dtype: torch.dtype = torch.float64) -> Primitive:
        """A module whose norms have seen something, in eval mode."""
        return _used(self.op.build(*self.arguments).to(dtype)).eval()

    def images(self, dtype: torch.dtype = torch.float64, height: int = 7, width: int = 5) -> Tensor:
        return torch.randn(_IMAGES, self.channels_in, height, width, dtype=dtype)


def _cases(name: str, op: Op) -> Iterator[_Case]:
    widths = [(1, 1), (2, 2), (5, 5), (6, 6)] + ([] if op.splits else [(6, 3), (3, 1)])
    for activation in get_args(Activation):
        for groups in (1, 3, 6) if op.grouped else (1,):
            spec = CellSpec(Conv(6, 6), activation, groups=groups)
            for channels_in, channels_out in widths:
                yield _Case(name, op, spec, channels_in, channels_out)


def _used(module: Primitive) -> Primitive:
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None:
            assert norm.running_var is not None
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 2.0)
                nn.init.normal_(norm.bias)
    return module


def _expect(right: bool, expected: object, got: object) -> None:
    if not right:
        raise AssertionError(f"expected {expected}, got {got}")


def _same(got: Tensor, expected: Tensor, tolerance: float, words: str) -> None:
    _expect(got.shape == expected.shape, f"{words} {tuple(expected.shape)}", tuple(got.shape))
    scale = max(float(expected.detach().abs().max()), 1e-30)
    change = float((got - expected).detach().abs().max()) / scale
    _expect(change <= tolerance, f"{words} within {tolerance:g}", f"a relative error of {change:g}")


def _storages(module: nn.Module) -> set[int]:
    tensors = [*module.parameters(), *module.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def _refused(case: _Case) -> bool:
    """Tells whether the case's widths are refused, by all alike."""
    answers = {}
    for part in ("build", "blank", "macs", "parameters"):
        function = getattr(case.op, part)
        if function is not None:
            try:
                function(*case.arguments)
                answers[part] = False
            except ValueError:
                answers[part] = True
    _expect(len(set(answers.values())) == 1, "all or none to raise ValueError", answers)
    return answers["build"]


def _shape(case: _Case) -> None:
    for dtype, _ in TOLERANCES:
        for size in ((7, 5), (1, 1)):
            for training in (False, True):
                x = case.images(dtype, *size)
                before = x.clone()
                y = case.build(dtype).train(training)(x)
                shape = (_IMAGES, case.channels_out, *size)
                _expect(tuple(y.shape) == shape, f"the shape {shape}", tuple(y.shape))
                _expect(y.dtype == dtype, dtype, y.dtype)
                _expect(torch.equal(x, before), "an input left alone", "one changed in place")


def _move(case: _Case) -> None:
    moved = case.build().to("meta")(case.images().to("meta"))
    _expect(moved.is_meta, "an output where the module is", moved.device)


def _cost(case: _Case) -> None:
    module, x = case.op.build(*case.arguments), case.images(torch.float32)
    _expect(
        case.op.parameters(*case.arguments) == _count(module),
        f"parameters of {_count(module)}, as the module has",
        case.op.parameters(*case.arguments),
    )
    with torch.device("meta"):
        sketch = case.op.build(*case.arguments)
    _, macs = counted(sketch, x.to("meta"))
    told, found = case.op.macs(*case.arguments), macs / (x.shape[2] * x.shape[3])
    _expect(told == found, f"macs of {found:g} a position, as torch counts", told)


def _identity_in_eval_mode(case: _Case) -> None:
    if not case.keeps_width:
        return
    births: tuple[ops.Birth, ...] = ("gated", "hard") if case.op.exact else ("gated",)
    for dtype, tolerance in TOLERANCES:
        x = case.images(dtype)
        measured = Moments(torch.randn_like(x[0, :, 0, 0]), torch.rand_like(x[0, :, 0, 0]) + 0.5)
        for birth in births:
            for moments in (None, measured):
                module = case.build(dtype)
                module.become_identity(moments, birth)
                _same(module.eval()(x), x, tolerance, f"its input when born {birth}")


def _identity_in_train_mode(case: _Case) -> None:
    if not case.keeps_width:
        return
    for dtype, tolerance in TOLERANCES:
        x = case.images(dtype) * 2 + 1
        var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        module = case.build(dtype)
        module.become_identity(Moments(mean, var), "gated")
        _same(module.train()(x), x, tolerance, "its input on the batch of its moments")


def _blank(case: _Case) -> None:
    if case.op.blank is None or not case.keeps_width:
        return
    drawn, blank = case.op.build(*case.arguments), case.op.blank(*case.arguments)
    for module in (drawn, blank):
        module.become_identity(None, "gated")
    _expect(_shapes(drawn) == _shapes(blank), _shapes(drawn), _shapes(blank))
    for key, value in drawn.state_dict().items():
        _same(blank.state_dict()[key], value, 0.0, f"{key} as after build")


def _parts(case: _Case) -> None:
    unit = case.spec.group_width if case.op.grouped else 1
    for n in (2, 3):
        if case.channels_out < n * unit:
            continue
        widths = shares(case.channels_out, n, unit)
        parts = [case.part(width) for width in widths]
        for born in {False, case.keeps_width} if not any(map(_refused, parts)) else ():
            module = case.build()
            if born:
                module.become_identity(None, "gated")
            _check_parts(case, module.eval(), widths)


def _check_parts(case: _Case, module: Primitive, widths: tuple[int, ...]) -> None:
    x, start, outputs = case.images(), 0, []
    whole, state = module(x), deepcopy(module.state_dict())
    for width in widths:
        channels = Range(start, start + width)
        start += width
        read = case.part(width).arguments
        part = module.select(channels, channels if case.op.splits else None)
        shared = _storages(part) & _storages(module)
        _expect(not shared, "a part that shares no tensor with the whole", "shared ones")
        like = _shapes(case.op.build(*read))
        _expect(_shapes(part) == like, f"a part like build's {like}", _shapes(part))
        told = case.op.parameters(*read)
        _expect(told == _count(part), f"parameters of {_count(part)} for a part", told)
        outputs.append(part(x[:, slice(*channels)] if case.op.splits else x))
    for part_output, expected in zip(outputs, whole.split(widths, dim=1), strict=True):
        _same(part_output, expected, 1e-10, "the channels of the whole")
    _expect(
        all(torch.equal(state[key], value) for key, value in module.state_dict().items()),
        "a whole that select leaves alone",
        "one changed in place",
    )


def _copies(case: _Case) -> None:
    module, x = case.build(), case.images()
    expected, copy = module(x), deepcopy(module)
    _expect(not _storages(copy) & _storages(module), "a copy that shares no tensor", "shared ones")
    _same((module(x) + copy(x)) / 2, expected, 1e-10, "the mean of replicas to be the same again")
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.add_(1.0)
    _same(module(x), expected, 1e-10, "an original that changes to its copy leave alone")


def _gradients(case: _Case) -> None:
    for born in {False, case.keeps_width}:
        module = case.build()
        if born:
            module.become_identity(None, "gated")
        x = case.images().requires_grad_()
        y = module.train()(x)
        (y * torch.randn_like(y)).sum().backward()
        named = {"the input": x, **dict(module.named_parameters())}
        for name, tensor in named.items():
            got = "none" if tensor.grad is None else "not finite"
            right = tensor.grad is not None and bool(tensor.grad.isfinite().all())
            _expect(right, f"a gradient of {name}", got)


def _state(case: _Case) -> None:
    module, fresh, x = case.build(), case.build(), case.images()
    keys = _shapes(fresh)
    if case.keeps_width:
        module.become_identity(None, "gated")
        _expect(_shapes(module) == keys, f"no other state than {keys} when born", _shapes(module))
        holder = nn.Sequential(module)
        set_gates(holder, 0.0)
        _expect(_shapes(module) == keys, f"no other state than {keys} without gates", "others")
    fresh.load_state_dict(module.state_dict())
    _same(fresh(x), module.eval()(x), 1e-10, "the same output from the same state")


def _cells(case: _Case) -> None:
    """The transforms of a cell as wide as the case, with a base convolution of other width."""
    if not case.keeps_width or case.channels_out != 6:
        return
    spec = CellSpec(Conv(3, 6, stride=2), case.spec.activation, groups=case.spec.groups)
    cell = Cell(spec).double().eval()
    x = torch.randn(_IMAGES, 3, 9, 7, dtype=torch.float64)
    replaced: list[Transform] = [
        Insert((0,)),
        *([] if case.name == "identity" else [Replace((0, 0), case.name)]),
    ]
    branches: list[list[Transform]] = [[], [Branch((0,), "add", 3)], [Branch((0,), "concat", 2)]]
    for done in [[*replaced, *more] for more in branches]:
        tree = cell.tree
        for transform in done:
            tree = transform(tree)
        if not fits(tree, spec):  # it may refuse the width of a half
            continue
        grown = grow(cell, done)
        _same(grown(x), cell(x), 1e-10, f"the output kept by {done}")
        told, found = cost(tree, spec).parameters, _count(grown)
        _expect(told == found, f"{found} parameters of {tree}", told)
        Cell(spec, tree).load_state_dict(grown.state_dict())


LAWS: dict[str, Callable[[_Case], None]] = {
    "shape": _shape,
    "cost": _cost,
    "born as an identity, in eval mode": _identity_in_eval_mode,
    "born as an identity, in train mode": _identity_in_train_mode,
    "blank": _blank,
    "parts": _parts,
    "copies": _copies,
    "gradients": _gradients,
    "state": _state,
    "moving": _move,
    "in cells": _cells,
}
"""What is checked, by the words that a message has for it."""
