"""Learned group convolution (CondenseNet, Huang et al., 2018, section 3).

Trained, it is a dense 1x1 convolution whose groups of outputs forget inputs, step by step, under a
group lasso; for inference :func:`condensed` makes it an index layer and a standard convolution with
groups.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathnas import ops
from pathnas.scheduled import Scheduled

Network = TypeVar("Network", bound=nn.Module)

LASSO = 1e-5
"""The paper's weight of the group lasso."""


def goal(channels: int, condensation: int) -> int:
    """Returns how many of its inputs a group reads in the end."""
    return channels - (condensation - 1) * (channels // condensation)


class LearnedGroupConv(Scheduled):
    """A 1x1 convolution that learns which inputs each group of its outputs needs.

    Over the first half of a training there are ``condensation - 1`` times, evenly spread and the
    last at its end, at which every group forgets ``channels_in // condensation`` inputs: those
    with the least sum of absolute weights. Output `o` belongs to group `o mod groups`, which is a
    channel shuffle after the convolution.

    Args:
        channels_in: inputs.
        channels_out: outputs.
        groups: of outputs.
        condensation: at the end a group reads one in so many inputs (rounded up).
        lasso: weight of the group lasso in the loss, until the condensation has ended.
        bias: whether outputs have one.

    Raises:
        ValueError: if the groups do not divide the outputs, or the condensation is below 1.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        groups: int = 4,
        condensation: int = 4,
        lasso: float = LASSO,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if groups < 1 or channels_out % groups:
            raise ValueError(f"groups must divide the outputs, got {groups} for {channels_out}")
        if condensation < 1:
            raise ValueError(f"condensation must be at least 1, got {condensation}")
        self.condensation, self.lasso = condensation, lasso
        dense = nn.Conv2d(channels_in, channels_out, 1, bias=bias)
        if not bias:  # what has one is a classifier, and begins as torch's linear layers do
            ops.initialize(dense)
        self.weight, self.bias = dense.weight, dense.bias
        self.kept: Tensor
        self.register_buffer("kept", torch.ones(groups, channels_in, dtype=torch.bool))
        self._step = -1
        self._lasso_on = False

    @property
    def groups(self) -> int:
        """Number of groups of outputs."""
        return self.kept.shape[0]

    @property
    def goal(self) -> int:
        """Inputs that a group reads when the condensation has ended."""
        return goal(self.kept.shape[1], self.condensation)

    def _masked(self) -> Tensor:
        mask = self.kept.to(self.weight.dtype).repeat(len(self.weight) // self.groups, 1)
        return self.weight * mask[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C_in, H, W]` to `[B, C_out, H, W]`."""
        return F.conv2d(x, self._masked(), self.bias)

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        """Condenses as far as the schedule asks; inputs once forgotten stay so."""
        last = self.condensation - 1
        step = min(last, int(2 * progress * last))
        if step == self._step:  # counting what is kept would wait for the device
            return
        self._step = step
        channels = self.kept.shape[1]
        left = channels - step * (channels // self.condensation)
        left = min(left, int(self.kept[0].sum()))
        self._lasso_on = left > self.goal
        by_group = self._masked().abs().unflatten(0, (-1, self.groups)).sum(0).flatten(1)
        best = by_group.masked_fill(~self.kept, -1.0).topk(left, dim=1).indices
        self.kept.zero_().scatter_(1, best, True)

    def penalty(self) -> Tensor | float:
        """Returns the weighted group lasso: the sum of the norms over each group and input."""
        if not self._lasso_on:
            return 0.0
        by_group = self._masked().unflatten(0, (-1, self.groups))
        return self.lasso * torch.linalg.vector_norm(by_group, dim=0).sum()

    def extra_repr(self) -> str:
        """Shows the sizes where torch prints the module."""
        out, channels = self.weight.shape[:2]
        return f"{channels}, {out}, groups={self.groups}, condensation={self.condensation}"


class CondensedConv(nn.Module):
    """The deployed form: an index layer, a 1x1 convolution with groups, and a channel shuffle.

    Args:
        channels_in: inputs.
        channels_out: outputs.
        groups: of outputs.
        features: inputs that a group reads.
        bias: whether outputs have one.
    """

    def __init__(
        self, channels_in: int, channels_out: int, *, groups: int, features: int, bias: bool
    ) -> None:
        super().__init__()
        self.index: Tensor
        self.register_buffer("index", torch.arange(groups * features) % channels_in)
        self.conv = nn.Conv2d(groups * features, channels_out, 1, groups=groups, bias=bias)
        ops.initialize(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C_in, H, W]` to `[B, C_out, H, W]`."""
        y = self.conv(x.index_select(1, self.index))
        return y.unflatten(1, (self.conv.groups, -1)).transpose(1, 2).flatten(1, 2)


@torch.no_grad()
def _deployed(module: LearnedGroupConv, name: str) -> CondensedConv:
    groups, features = module.groups, module.goal
    counts = module.kept.sum(1)
    if bool((counts != features).any()):
        raise ValueError(
            f"expected a condensed network, with {features} inputs for each group of {name}, got "
            f"{counts.tolist()}: train it first"
        )
    out, channels = module.weight.shape[:2]
    has_bias = module.bias is not None
    deployed = CondensedConv(channels, out, groups=groups, features=features, bias=has_bias)
    deployed.to(module.weight.device, module.weight.dtype).train(module.training)
    index = module.kept.nonzero()[:, 1].view(groups, features)
    # [out / groups, groups, channels] -> [groups, out / groups, features]
    weight = module.weight.flatten(1).unflatten(0, (-1, groups)).transpose(0, 1)
    weight = weight.gather(2, index[:, None].expand(-1, weight.shape[1], -1))
    deployed.index.copy_(index.flatten())
    deployed.conv.weight.copy_(weight.reshape(deployed.conv.weight.shape))
    if module.bias is not None and deployed.conv.bias is not None:
        deployed.conv.bias.copy_(module.bias.view(-1, groups).t().flatten())
    return deployed


def condensed(network: Network) -> Network:
    """Returns a copy of a network for inference: its learned groups are standard ones.

    It computes the same, up to rounding, with one in `condensation` of the multiply-adds.

    Raises:
        ValueError: if the condensation has not ended: the network must be trained to the end.
    """
    deployed = deepcopy(network)
    for parent_name, parent in list(deployed.named_modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LearnedGroupConv):
                setattr(parent, name, _deployed(child, f"{parent_name}.{name}".lstrip(".")))
    return deployed
