"""Layers that take less time on the CPU than torch's own, and compute the same but for rounding.

A convolution of a few channels of 8 x 8 pixels takes oneDNN hundreds of microseconds forward and
backward, hardly any of them for its arithmetic. Matrix products take a half or less. Which way is
taken follows from shapes alone, so that every process takes the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ELEMENTS = 2**17
"""Of a pointwise convolution's input and output `[B, C, H, W]`, up to which it is a matrix product;
beyond, oneDNN's arithmetic outweighs what it spends beside, and is the faster one on some CPUs."""

PIXELS = 64
"""Of an image, up to which a depthwise convolution of few channels is a matrix product: from all
pixels to all pixels, so that its arithmetic grows with their square."""


@contextmanager
def used(network: nn.Module) -> Iterator[None]:
    """Lets a network compute by quick layers within a block; structure, names and hooks stay.

    Only modules of exactly torch's classes take part, and float32 on the CPU.

    Args:
        network: changed in place, and restored afterwards.
    """
    quick = [(module, kind) for module in network.modules() if (kind := _kind(module))]
    own = [type(module) for module, _ in quick]
    try:
        for module, kind in quick:
            module.__class__ = kind  # it has no tensors of its own
        yield
    finally:
        for (module, _), kind in zip(quick, own, strict=True):
            module.__class__ = kind


def _kind(module: nn.Module) -> type[nn.Module] | None:
    """Returns the class that can stand in for a module's own, or None."""
    if type(module) is nn.AdaptiveAvgPool2d and module.output_size in (1, (1, 1)):
        return _Mean
    if type(module) is not nn.Conv2d or module.stride != (1, 1):
        return None
    channels, kernel = module.in_channels, module.kernel_size[0]
    if module.kernel_size == (1, 1) and module.groups == 1 and module.padding == (0, 0):
        return _Pointwise
    depthwise = module.groups == channels == module.out_channels and module.bias is None
    same = module.padding == (kernel // 2,) * 2 and module.padding_mode == "zeros"
    plain = module.kernel_size == (kernel,) * 2 and kernel % 2 and module.dilation == (1, 1)
    # Many taps are what costs oneDNN, many channels what costs a product.
    return _Depthwise if depthwise and same and plain and channels <= kernel + 1 else None


def _fit(x: Tensor) -> bool:
    # A compiler makes kernels of its own, and cannot look into a cache.
    return x.is_cpu and x.dtype == torch.float32 and x.dim() == 4 and not _compiling()


_compiling = torch.compiler.is_compiling


class _Mean(nn.AdaptiveAvgPool2d):
    """The mean over all pixels, whose gradient is channels_last if its input was.

    That of torch's own is contiguous, and then so are those of what stands before it: every
    operation on gradient and input together reads one of them in leaps, or copies it.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last):
            return input.permute(0, 2, 3, 1).mean((1, 2), keepdim=True).permute(0, 3, 1, 2)
        return super().forward(input)


class _Pointwise(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if _fit(input):
            wider = max(self.in_channels, self.out_channels)
            if input.numel() // self.in_channels * wider <= ELEMENTS:
                pixels = F.linear(input.permute(0, 2, 3, 1), weight.flatten(1), bias)
                return pixels.permute(0, 3, 1, 2)
        return super()._conv_forward(input, weight, bias)


class _Depthwise(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not (_fit(input) and input.shape[2] * input.shape[3] <= PIXELS):
            return super()._conv_forward(input, weight, bias)
        size, channels, height, width = input.shape
        pixels = height * width
        taps = weight.flatten(1) @ _reach(self.kernel_size[0], height, width)
        planes = input.transpose(0, 1).reshape(channels, size, pixels)
        output = torch.bmm(planes, taps.view(channels, pixels, pixels))
        return output.permute(1, 2, 0).reshape(size, height, width, channels).permute(0, 3, 1, 2)


@lru_cache(maxsize=32)
def _reach(kernel: int, height: int, width: int) -> Tensor:
    """Tells by which tap of a kernel a pixel of the input reaches one of the output: 1, else 0.

    Returns:
        `[kernel * kernel, (H * W) * (H * W)]`, at most 1 MB for a 7x7 kernel.
    """
    pixels, taps = height * width, kernel * kernel
    points = torch.eye(pixels).view(pixels, 1, height, width)
    single = torch.eye(taps).view(taps, 1, kernel, kernel)
    return F.conv2d(points, single, padding=kernel // 2).transpose(0, 1).reshape(taps, pixels**2)
