"""Several processes that train one network together, each on its part of every batch.

They are started by ``torchrun`` and meet over gloo (CPU) or NCCL (CUDA). A process that was started
alone is a group of one, for which nothing here costs anything.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


@dataclass
class Group:
    """The processes that train together, as one of them sees them.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
        device: of this process.
        weight: of this process's loss: images of its part of the batch, by those of a mean part.
    """

    rank: int
    size: int
    device: torch.device
    weight: float = field(default=1.0, compare=False)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """Returns the sum of a tensor over all processes, the same in each."""
        if self.size == 1:
            return tensor
        summed = tensor.to(self.device, copy=True)
        dist.all_reduce(summed)
        return summed.to(tensor.device)

    def told(self, number: int) -> int:
        """Returns the number that the first process gave; others wait for it."""
        own = int(number) if self.first else 0
        return int(self.total(torch.tensor(own, dtype=torch.int64)))

    def wrap(self, network: nn.Module) -> nn.Module:
        """Returns the network with gradients that are averaged over all processes as they arise.

        They are those of the mean over the whole batch if each process weighs its mean loss by
        :attr:`weight`. Buffers are not exchanged; see :meth:`share_norms`.
        """
        if self.size == 1:
            return network
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids, **{_SYNC_BUFFERS: False})  # type: ignore[arg-type]

    def share_norms(self, network: nn.Module) -> None:
        """Gives every batch norm the mean over all processes of its running statistics."""
        if self.size == 1:
            return
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                for statistic in (module.running_mean, module.running_var):
                    assert statistic is not None
                    statistic.copy_(self.total(statistic) / self.size)


# The second name is that of torch below 2.14.
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


def own_device(device: torch.device, environment: Mapping[str, str] = os.environ) -> torch.device:
    """Returns the device of this process: on CUDA each process of a machine has its own.

    Args:
        device: that was asked for.
        environment: holds ``LOCAL_RANK`` if ``torchrun`` started this process.

    Raises:
        ValueError: if this machine has none for it.
    """
    if device.type != "cuda":
        return device
    local, size = int(environment.get("LOCAL_RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
    if size > 1 and device.index is not None:
        raise ValueError(f"device must be cuda for several processes, got {device}")
    index, there = local if device.index is None else device.index, torch.cuda.device_count()
    if index >= there:
        raise ValueError(f"expected CUDA devices up to cuda:{index}, got {there} devices")
    return torch.device("cuda", index)


@contextmanager
def joined(device: torch.device, environment: Mapping[str, str] = os.environ) -> Iterator[Group]:
    """Joins the group that ``torchrun`` started this process for; leaves it at the end.

    Args:
        device: of :func:`own_device`.
        environment: holds ``WORLD_SIZE`` and more if there is a group.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if int(environment.get("WORLD_SIZE", "1")) == 1:
        yield Group(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


# Batch norm over all processes -----------------------------------------------------------------


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        summed = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        [gradient] = gradients
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed


class SyncedNorm(nn.BatchNorm2d):
    """Batch norm with the statistics of the whole batch, on any device.

    What :class:`torch.nn.SyncBatchNorm` is on CUDA alone, at the price of a slower backward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C, H, W]` to the same shape; every process must call it."""
        if not self.training:
            return super().forward(x)
        wide = x if x.dtype == torch.float64 else x.float()
        count = torch.full((1,), x.numel() / x.shape[1], device=x.device)
        sums = _Sum.apply(torch.cat([wide.sum((0, 2, 3)), count]))
        mean, total = sums[:-1] / sums[-1], sums[-1].detach()
        centered = wide - mean[None, :, None, None]
        var = _Sum.apply(centered.square().sum((0, 2, 3))) / total
        self._track(mean.detach(), var.detach() * total / (total - 1))
        scale = torch.rsqrt(var + self.eps) * self.weight
        out = centered * scale[None, :, None, None] + self.bias[None, :, None, None]
        return out.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var, share)


def sync_norms(network: nn.Module, group: Group) -> nn.Module:
    """Makes the batch norms of a network synced ones, in place; names and values stay.

    Returns:
        The network.
    """
    if group.size == 1:
        return network
    if group.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, _synced(child))
    return network


def _synced(norm: nn.BatchNorm2d) -> SyncedNorm:
    synced = SyncedNorm(norm.num_features, norm.eps, norm.momentum)
    for name, parameter in norm.named_parameters():
        setattr(synced, name, parameter)
    for name, buffer in norm.named_buffers():
        setattr(synced, name, buffer)
    return synced.train(norm.training)
