"""Looking at a module without leaving a trace: its mode, its multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Puts all of a module into train or eval mode for a block.

    After it, every submodule is in the mode that it was in: a caller may have put some of them
    into eval mode on purpose.
    """
    before = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, was_training in before:
            part.training = was_training


@torch.no_grad()
def counted(module: nn.Module, inputs: Tensor) -> tuple[Tensor, int]:
    """Returns the output in eval mode and the multiply-adds for one of the inputs `[B, ...]`.

    Convolutions and matrix products count; additions, norms, pooling and activations do not.
    """
    with mode(module, training=False), FlopCounterMode(display=False) as counter:
        output = module(inputs)
    return output, counter.get_total_flops() // (2 * len(inputs))  # torch counts both halves
