"""A user's plugin: two operations of their own, one from ready parts and one from scratch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pathnas import ops
from pathnas.ops import ConvUnit, Primitive
from pathnas.specs import CellSpec, Moments, Range


def _parameters(i: int, o: int, spec: CellSpec) -> int:
    return 5 * i * o + 2 * (i if spec.activation == "pre" else o)


@ops.register("conv1x5", macs=lambda i, o, spec: 5 * i * o, parameters=_parameters)
def conv1x5(i: int, o: int, spec: CellSpec) -> Primitive:
    return ConvUnit([nn.Conv2d(i, o, (1, 5), padding=(0, 2), bias=False)], spec.activation)


@ops.register(
    "scale", macs=lambda i, o, s: 0, parameters=lambda i, o, s: i, splits=True, exact=True
)
class Scale(Primitive):
    """Multiplies every channel by a number."""

    def __init__(self, i: int, o: int, spec: CellSpec | None = None) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.rand(i) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors[:, None, None]

    def become_identity(self, moments: Moments | None, birth: ops.Birth) -> None:
        nn.init.ones_(self.factors)

    def select(self, outputs: Range, inputs: Range | None) -> Scale:
        part = Scale(outputs.stop - outputs.start, 0)
        part.factors = nn.Parameter(self.factors.detach()[outputs.start : outputs.stop].clone())
        return part
