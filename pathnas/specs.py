"""What operations are told: a cell's convolution and settings, channels, measured moments.

Values without behaviour of their own; :mod:`pathnas.ops` builds modules from them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, cast, get_args

from torch import Tensor, nn

Activation = Literal["pre", "post"]


class Range(NamedTuple):
    """Channels ``start`` up to, not including, ``stop``."""

    start: int
    stop: int


Pair = tuple[int, int]
Extent = int | Pair
"""Of both directions, or of height and width."""
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


def _pair(extent: Extent) -> Pair:
    return (extent, extent) if isinstance(extent, int) else extent


def _extent(name: str, value: object, *, least: int) -> Extent:
    pair = (value, value) if isinstance(value, int) else value
    if (
        not isinstance(pair, tuple | list)
        or len(pair) != 2
        or not all(isinstance(side, int) and side >= least for side in pair)
    ):
        raise ValueError(f"{name} must be one or two integers >= {least}, got {value!r}")
    return pair[0] if pair[0] == pair[1] else (pair[0], pair[1])


class Moments(NamedTuple):
    """Mean and biased variance of each channel, `[C]`, on a batch in train mode."""

    mean: Tensor
    var: Tensor


@dataclass(frozen=True)
class Conv:
    """The convolution that a cell replaces, in the terms of :class:`torch.nn.Conv2d`.

    A kernel, stride, padding or dilation is one number, or one for the height and one for the
    width. Two equal numbers become one, so that equal convolutions are equal values.

    Attributes:
        padding: also ``"same"`` (of stride 1 only) or ``"valid"``, which becomes 0.
    """

    channels_in: int
    channels_out: int
    kernel: Extent = 3
    stride: Extent = 1
    padding: Extent | str = 1
    dilation: Extent = 1
    groups: int = 1
    bias: bool = False
    padding_mode: PaddingMode = "zeros"

    def __post_init__(self) -> None:
        for side in (self.channels_in, self.channels_out):
            if side < 1 or self.groups < 1 or side % self.groups:
                raise ValueError(
                    f"groups must divide the channels of a convolution, got {self.groups} groups "
                    f"with {self.channels_in} -> {self.channels_out} channels"
                )
        padding = 0 if self.padding == "valid" else self.padding
        if padding == "same":
            if _pair(self.stride) != (1, 1):
                raise ValueError(f"padding 'same' needs stride 1, got {self.stride}")
        else:
            object.__setattr__(self, "padding", _extent("padding", padding, least=0))
        for name in ("kernel", "stride", "dilation"):
            object.__setattr__(self, name, _extent(name, getattr(self, name), least=1))
        if self.padding_mode not in get_args(PaddingMode):
            raise ValueError(
                f"padding_mode must be one of {get_args(PaddingMode)}, got {self.padding_mode!r}"
            )

    @classmethod
    def of(cls, module: nn.Conv2d) -> Conv:
        """Returns what a module's convolution is."""
        return cls(
            module.in_channels,
            module.out_channels,
            kernel=cast(Pair, module.kernel_size),
            stride=cast(Pair, module.stride),
            padding=cast("Pair | str", module.padding),
            dilation=cast(Pair, module.dilation),
            groups=module.groups,
            bias=module.bias is not None,
            padding_mode=module.padding_mode,
        )

    def build(self) -> nn.Conv2d:
        """Returns a module of this convolution with torch's own fresh weights."""
        return nn.Conv2d(
            self.channels_in,
            self.channels_out,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.bias,
            self.padding_mode,
        )

    @property
    def weights(self) -> int:
        """Number of weights without the bias; as many multiply-adds a position."""
        height, width = _pair(self.kernel)
        return height * width * self.channels_in // self.groups * self.channels_out

    def outputs(self, channels: Range) -> Conv:
        """Returns the convolution that computes only these output channels.

        With groups, it has the inputs of its groups alone.
        """
        width = self.channels_out // self.groups
        if self.groups > 1 and (channels.start % width or channels.stop % width):
            raise ValueError(
                f"a grouped convolution splits between its groups of {width} output channels, "
                f"got {channels}"
            )
        groups = (channels.stop - channels.start) // width if self.groups > 1 else 1
        channels_in = self.channels_in // self.groups * groups
        return replace(
            self,
            channels_in=channels_in,
            channels_out=channels.stop - channels.start,
            groups=groups,
        )


@dataclass(frozen=True)
class CellSpec:
    """What all trees of one cell have in common.

    Attributes:
        conv: the convolution that the cell replaces; its stride is on the root's edges only.
        activation: ``"pre"`` (batch norm, ReLU, convolution) or ``"post"`` (convolution, batch
            norm, ReLU), for every convolution of the cell.
        bare: whether the base edge is the convolution alone, without norm and activation.
        groups: groups of ``group_conv3x3`` at the full width; None: those of `conv`.
        residual: whether what grows below a base edge is batch-normalized, added to the edge's
            output and halved (the paper's CondenseNet).
        eps: of the base edge's batch norm.
        momentum: of the base edge's batch norm.
    """

    conv: Conv
    activation: Activation = "pre"
    bare: bool = False
    groups: int | None = None
    residual: bool = False
    eps: float = 1e-5
    momentum: float | None = 0.1

    @property
    def group_width(self) -> int:
        """Channels in one group of ``group_conv3x3``, at any width."""
        groups = self.groups or self.conv.groups
        if self.conv.channels_out % groups:
            raise ValueError(
                f"groups must divide the cell's {self.conv.channels_out} channels, got {groups}"
            )
        return self.conv.channels_out // groups
