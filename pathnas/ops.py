"""Primitive operations: how each is built, split, born as an identity, and what it costs.

An operation is an entry of the dictionary :data:`OPS`; users add their own with :func:`register`
and prove it by :func:`pathnas.testing.check_op`. Its module is a :class:`Primitive`: besides
``forward`` it can become an identity and give away a range of its channels, which is all that the
transforms need (paper, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathnas.channels import Channels, rewire
from pathnas.clones import clone
from pathnas.specs import Activation, CellSpec, Conv, Moments, Range
from pathnas.tree import BASE_OP

B = TypeVar("B", bound=Callable[..., "Primitive"])
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
Birth = Literal["gated", "hard"]


class Gate(nn.Module):
    """A function born as an identity: ``a x + (1 - a) f(x)``, with `a` from 1 to 0.

    The function has no parameters, so a gate adds no key to a ``state_dict``. Network Morphism
    (Wei et al., 2016) does this for activations; pooling works the same way.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.a = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C, H, W]` to the same shape."""
        if self.a == 1.0:
            return x
        if isinstance(self.inner, nn.ReLU):
            return F.leaky_relu(x, self.a)
        return torch.lerp(self.inner(x), x, self.a)


class Primitive(nn.Module):
    """The module of an operation; see :func:`register` for what a user's own must do."""

    def become_identity(self, moments: Moments | None, birth: Birth) -> None:
        """Changes the module so that it returns its input.

        Args:
            moments: of the input; given, the module is an identity on the calibration batch in
                train mode too. Without, in eval mode only.
            birth: ``"gated"``: exact for any input; ``"hard"``: for an input that the function
                leaves as it is.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be born as an identity")

    def select(self, outputs: Range, inputs: Range | None) -> Primitive:
        """Returns a new module with these output channels (and, if given, input channels)."""
        raise NotImplementedError(f"{type(self).__name__} cannot be split")


class Identity(Primitive):
    """Returns its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C, H, W]` to itself."""
        return x

    def become_identity(self, moments: Moments | None, birth: Birth) -> None:
        """Does nothing."""

    def select(self, outputs: Range, inputs: Range | None) -> Identity:
        """Returns an identity, which has no channels to choose."""
        return Identity()


class Pool(Primitive):
    """3x3 pooling of stride 1 that does not count padding."""

    def __init__(self, kind: Literal["avg", "max"]) -> None:
        super().__init__()
        self.kind = kind
        self.pool: nn.Module = (
            nn.AvgPool2d(3, 1, 1, count_include_pad=False)
            if kind == "avg"
            else nn.MaxPool2d(3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C, H, W]` to the same shape."""
        return self.pool(x)

    def become_identity(self, moments: Moments | None, birth: Birth) -> None:
        """Puts a gate around the pooling; born hard, pooling is no identity."""
        if birth == "gated":
            self.pool = Gate(self.pool)

    def select(self, outputs: Range, inputs: Range | None) -> Pool:
        """Returns a copy; pooling treats every channel alike."""
        return deepcopy(self)


def initialize(conv: nn.Conv2d) -> nn.Conv2d:
    """Draws weights by He's rule with the fan-out divided by the groups, in place."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    conv.weight.data *= math.sqrt(conv.groups)  # the fan of torch ignores groups
    return conv


class ConvUnit(Primitive):
    """One or more convolutions in a row with one batch norm and one ReLU, before or after them.

    Args:
        convs: the convolutions; those before the last must be depthwise.
        activation: ``"pre"``, ``"post"``, or None for the convolutions alone.
        reads: the input channels that the unit reads; None: all. A grouped base convolution that
            was split reads those of its groups.
        draw: whether to draw weights (He, fan-out); not for a unit that becomes an identity.
    """

    def __init__(
        self,
        convs: Sequence[nn.Conv2d],
        activation: Activation | None,
        reads: Range | None = None,
        *,
        draw: bool = True,
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(*convs)
        self.activation = activation
        self.reads = reads
        self.norm: nn.BatchNorm2d | None = None
        self.act: nn.Module | None = None
        if activation is not None:
            width = convs[0].in_channels if activation == "pre" else convs[-1].out_channels
            self.norm = nn.BatchNorm2d(width)
            self.act = nn.ReLU(inplace=True)
        for conv in convs if draw else ():
            initialize(conv)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C_in, H, W]` to `[B, C_out, H', W']`."""
        if self.reads is not None:
            x = x[:, self.reads.start : self.reads.stop]
        norm, act = self.norm, self.act
        if norm is None or act is None:
            return self.convs(x)
        if self.activation == "pre":
            return self.convs(act(norm(x)))
        return act(norm(self.convs(x)))

    def become_identity(self, moments: Moments | None, birth: Birth) -> None:
        """Makes the convolutions Dirac filters and the batch norm undo itself.

        Born hard, what is left is the ReLU: exact on non-negative input.
        """
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            _dirac(conv.weight, conv.groups)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        if self.norm is None:
            return
        undo_norm(self.norm, moments)
        if birth == "gated":
            self.act = Gate(nn.ReLU())

    def select(self, outputs: Range, inputs: Range | None) -> ConvUnit:
        """Returns a unit that computes only `outputs`, from all inputs or from `inputs` alone."""
        # What select_channels replaces need not be copied first.
        unit = clone(self, tuple(self.parameters()))
        last = len(self.convs) - 1
        for place, conv in enumerate(unit.convs):
            select_channels(conv, outputs if place == last else inputs, inputs)
        if unit.norm is not None:
            kept = inputs if self.activation == "pre" else outputs
            select_channels(unit.norm, kept, None)
        return unit


@torch.no_grad()
def _dirac(weight: Tensor, groups: int) -> None:
    """Makes `[C, C / groups, k, k]` an identity; ``nn.init.dirac_`` does so channel by channel."""
    weight.zero_()
    middle = weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]
    middle.unflatten(0, (groups, -1)).diagonal(dim1=1, dim2=2).fill_(1)


@torch.no_grad()
def undo_norm(norm: BatchNorm, moments: Moments | None) -> None:
    """Sets shift and scale to what the norm takes away; by default its present statistics."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    if moments is not None:
        mean.copy_(moments.mean)
        var.copy_(moments.var)
    norm.bias.copy_(mean)
    norm.weight.copy_((var + norm.eps).sqrt())


def select_channels(module: nn.Module, outputs: Range | None, inputs: Range | None) -> None:
    """Reduces a convolution or batch norm to ranges of its channels, in place; None keeps all.

    Its tensors are new ones after it. For a grouped convolution `inputs` and `outputs` must cover
    the same groups.
    """
    reads = None
    if isinstance(module, nn.BatchNorm2d):
        width = module.num_features
    elif isinstance(module, nn.Conv2d):
        width = module.out_channels
        reads = Channels.selected(*inputs, module.in_channels) if inputs else None
    else:
        raise ValueError(f"expected a convolution or a batch norm, got {type(module).__name__}")
    rewire(module, Channels.selected(*(outputs or (0, width)), width), reads)


Build = Callable[[int, int, CellSpec], Primitive]
Count = Callable[[int, int, CellSpec], int]


@dataclass(frozen=True)
class Op:
    """An entry of the registry.

    Attributes:
        build: from channels in and out and the cell's spec to a module with fresh weights.
        macs: multiply-adds for one output position, from the same arguments.
        parameters: weights, from the same arguments.
        splits: whether a concat of it splits its input too; otherwise the input is replicated.
        exact: whether it is an identity on any input when born hard.
        grouped: whether its channels must come in whole groups of the cell.
        blank: like `build`, but it need not draw weights, because ``become_identity`` sets them
            all; None: `build` itself.
    """

    build: Build
    macs: Count
    parameters: Count
    splits: bool = False
    exact: bool = False
    grouped: bool = False
    blank: Build | None = None


def register(name: str, **entry: Any) -> Callable[[B], B]:
    """Returns a decorator for the function (or class) that builds an operation.

    Args:
        name: an identifier, by which trees and configs call the operation.
        entry: the attributes of :class:`Op` but `build`; `macs` and `parameters` are needed.

    Raises:
        ValueError: if the name is taken, is reserved for the base convolution or is no identifier.
        TypeError: if an attribute is missing or unknown.
    """
    if name in OPS or name == BASE_OP:
        raise ValueError(f"an operation named {name!r} exists already")
    if not name.isidentifier():
        raise ValueError(f"an operation's name must be an identifier, got {name!r}")

    def enter(build: B) -> B:
        OPS[name] = Op(build, **entry)
        return build

    return enter


def get(name: str) -> Op:
    """Returns the operation of a name.

    Raises:
        ValueError: if there is none; the message lists the known ones.
    """
    if name not in OPS:
        raise ValueError(f"unknown operation {name!r}; known: {', '.join(sorted(OPS))}")
    return OPS[name]


def _free(channels_in: int, channels_out: int, spec: CellSpec) -> int:
    return 0


def _unit_parameters(weights: int, channels_in: int, channels_out: int, spec: CellSpec) -> int:
    return weights + 2 * (channels_in if spec.activation == "pre" else channels_out)


Convs = Callable[[int, int, CellSpec, bool], list[nn.Conv2d]]
"""From channels in and out, the cell's spec and whether to draw weights to convolutions."""


class _Undrawn(nn.Conv2d):
    def reset_parameters(self) -> None:
        """Leaves the weights as the memory happens to be."""


def _conv(i: int, o: int, kernel: int, *, groups: int = 1, draw: bool) -> nn.Conv2d:
    padding = kernel // 2
    if draw:
        return nn.Conv2d(i, o, kernel, padding=padding, groups=groups, bias=False)
    conv = _Undrawn(i, o, kernel, padding=padding, groups=groups, bias=False)
    conv.__class__ = nn.Conv2d  # type: ignore[assignment]  # it differs in its birth only
    return conv


def _unit_op(convs: Convs, macs: Count, grouped: bool = False) -> Op:
    def build(channels_in: int, channels_out: int, spec: CellSpec) -> ConvUnit:
        return ConvUnit(convs(channels_in, channels_out, spec, True), spec.activation)

    def blank(channels_in: int, channels_out: int, spec: CellSpec) -> ConvUnit:
        empty = convs(channels_in, channels_out, spec, False)
        return ConvUnit(empty, spec.activation, draw=False)

    def parameters(channels_in: int, channels_out: int, spec: CellSpec) -> int:
        weights = macs(channels_in, channels_out, spec)  # one weight, one multiply-add a position
        return _unit_parameters(weights, channels_in, channels_out, spec)

    return Op(build, macs, parameters, splits=grouped, grouped=grouped, blank=blank)


def _conv_op(kernel: int, grouped: bool = False) -> Op:
    def groups(channels: int, spec: CellSpec) -> int:
        if grouped and channels % spec.group_width:
            raise ValueError(
                f"expected whole groups of {spec.group_width}, got {channels} channels"
            )
        return channels // spec.group_width if grouped else 1

    def convs(i: int, o: int, spec: CellSpec, draw: bool) -> list[nn.Conv2d]:
        return [_conv(i, o, kernel, groups=groups(i, spec), draw=draw)]

    return _unit_op(convs, lambda i, o, s: kernel**2 * i * o // groups(i, s), grouped)


def _sep_conv_op(kernel: int) -> Op:
    def convs(i: int, o: int, spec: CellSpec, draw: bool) -> list[nn.Conv2d]:
        return [_conv(i, i, kernel, groups=i, draw=draw), _conv(i, o, 1, draw=draw)]

    return _unit_op(convs, lambda i, o, s: i * (kernel**2 + o))


OPS: dict[str, Op] = {
    "identity": Op(lambda i, o, s: Identity(), _free, _free, splits=True, exact=True),
    "conv1x1": _conv_op(1),
    "conv3x3": _conv_op(3),
    "group_conv3x3": _conv_op(3, grouped=True),
    "sep_conv3x3": _sep_conv_op(3),
    "sep_conv5x5": _sep_conv_op(5),
    "sep_conv7x7": _sep_conv_op(7),
    "avg_pool3x3": Op(lambda i, o, s: Pool("avg"), _free, _free, splits=True),
    "max_pool3x3": Op(lambda i, o, s: Pool("max"), _free, _free, splits=True),
}
"""All operations by name."""


def build_base(spec: CellSpec, outputs: Range) -> ConvUnit:
    """Returns the cell's convolution, reduced to some of its output channels, fresh weights."""
    module = spec.conv.outputs(outputs).build()
    reads = base_reads(spec.conv, outputs)
    unit = ConvUnit([module], None if spec.bare else spec.activation, reads)
    if unit.norm is not None:
        unit.norm.eps, unit.norm.momentum = spec.eps, spec.momentum
    return unit


def base_reads(conv: Conv, outputs: Range) -> Range | None:
    """Returns the input channels that some outputs of a convolution need; None: all of them."""
    if conv.groups == 1 or outputs == (0, conv.channels_out):
        return None
    ratio = conv.channels_in // conv.groups, conv.channels_out // conv.groups
    return Range(outputs.start // ratio[1] * ratio[0], outputs.stop // ratio[1] * ratio[0])


@cache
def base_macs(spec: CellSpec, outputs: Range) -> int:
    """Returns the multiply-adds of the base convolution for one output position."""
    return spec.conv.outputs(outputs).weights


@cache
def base_parameters(spec: CellSpec, outputs: Range) -> int:
    """Returns the number of weights of the base edge, norm and bias included."""
    conv = spec.conv.outputs(outputs)
    weights = conv.weights + (conv.channels_out if conv.bias else 0)
    if spec.bare:
        return weights
    return _unit_parameters(weights, conv.channels_in, conv.channels_out, spec)
