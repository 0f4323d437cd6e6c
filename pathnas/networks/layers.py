"""What the networks are made of besides cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from pathnas import ops


def conv3x3(channels_in: int, channels_out: int, *, stride: int | tuple[int, int] = 1) -> nn.Conv2d:
    """Returns a 3x3 convolution without bias, with He's fan-out initialization."""
    return ops.initialize(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
    )


def conv1x1(channels_in: int, channels_out: int) -> nn.Conv2d:
    """Returns a pointwise convolution without bias, with He's fan-out initialization."""
    return ops.initialize(nn.Conv2d(channels_in, channels_out, 1, bias=False))


def norm_relu(channels: int) -> list[nn.Module]:
    """Returns what stands before a convolution in a pre-activation network."""
    return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def head(channels: int, classes: int) -> nn.Sequential:
    """Returns norm, ReLU, global average pooling and a linear classifier."""
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*norm_relu(channels), pool, nn.Flatten(), nn.Linear(channels, classes))


def halving() -> nn.AvgPool2d:
    """Returns 2x2 average pooling; an odd side is rounded up, as a stride of 2 rounds it."""
    return nn.AvgPool2d(2, ceil_mode=True)


def padded_shortcut(x: Tensor, grown: int, *, stride: int | tuple[int, int]) -> Tensor:
    """Returns the input in the shape of a block's output, without weights (PyramidNet).

    Args:
        x: `[B, C, H, W]`.
        grown: channels of the output less C; what is too few are zeros, what is too many is cut
            off. A number, not the shape of a tensor, so that torch.fx can trace it.
        stride: 2 averages 2x2 pixels.
    """
    if stride == 2:
        x = F.avg_pool2d(x, 2, ceil_mode=True)
    if grown > 0:
        return F.pad(x, (0, 0, 0, 0, 0, grown))
    return x[:, :grown] if grown < 0 else x


def roundings(widths: Sequence[int], factor: float, *, unit: int) -> list[tuple[int, ...]]:
    """Returns the widths times a factor, each rounded up and down to a multiple of a unit.

    Every combination, the narrowest first and the widest last.
    """
    around = [
        sorted({max(1, round_(width * factor / unit)) * unit for round_ in (math.floor, math.ceil)})
        for width in widths
    ]
    return list(itertools.product(*around))
