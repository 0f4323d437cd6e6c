"""Channel index maps: which old channel each new channel of a layer holds.

One primitive serves all surgery on widths: a split selects a range of channels, a widening
replicates some. What a layer computes follows its map (:meth:`Channels.outputs`); what reads the
channels divides its weights by the number of copies (:meth:`Channels.inputs`; Net2Net, Chen et
al., 2016, equation 2), so that their sum is what it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


@dataclass(frozen=True)
class Channels:
    """A channel index map.

    Attributes:
        index: for each new channel, the old one that it holds.
        width: number of old channels.
    """

    index: tuple[int, ...]
    width: int

    def __post_init__(self) -> None:
        if not self.index or not 0 <= min(self.index) <= max(self.index) < self.width:
            raise ValueError(
                f"expected at least one channel, all in [0, {self.width}), got {self.index}"
            )

    @classmethod
    def selected(cls, start: int, stop: int, width: int) -> Channels:
        """Returns the map that keeps the channels from `start` up to, not including, `stop`."""
        return cls(tuple(range(start, stop)), width)

    @property
    def unchanged(self) -> bool:
        """Whether every channel stays where it is."""
        return self.index == tuple(range(self.width))

    @property
    def replicas(self) -> tuple[int, ...]:
        """The new channels that hold what an earlier one holds already."""
        first = {old: place for place, old in reversed(list(enumerate(self.index)))}
        return tuple(place for place, old in enumerate(self.index) if first[old] != place)

    def spread(self, n: int) -> Channels:
        """Returns the map of features of which each channel owns `n` consecutive ones."""
        index = tuple(old * n + k for old in self.index for k in range(n))
        return Channels(index, self.width * n)

    def outputs(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """Returns a copy of `tensor` with the new channels along `dim`."""
        self._check(tensor, dim)
        start, n = self.index[0], len(self.index)
        if self.index == tuple(range(start, start + n)):  # a range is copied at once
            return tensor.narrow(dim, start, n).clone(memory_format=torch.preserve_format)
        return tensor.index_select(dim, torch.tensor(self.index, device=tensor.device))

    def inputs(self, weight: Tensor, dim: int = 1) -> Tensor:
        """Returns a copy of `weight` that reads the new channels along `dim`, and sums as before.

        Divided by the number of copies of each channel.
        """
        found = self.outputs(weight, dim)
        if len(set(self.index)) == len(self.index):
            return found
        shape = [1] * weight.dim()
        shape[dim] = -1
        return found.div_(self.copies(weight).view(shape))

    def copies(self, like: Tensor) -> Tensor:
        """Returns for each new channel how many hold the same old one, `[new width]`."""
        count = Counter(self.index)
        return torch.tensor([count[old] for old in self.index], dtype=like.dtype).to(like.device)

    def groups(self, size: int) -> tuple[int, ...] | None:
        """Returns the old groups of `size` channels that the new ones are, or None.

        None if the new channels are no sequence of whole old groups.
        """
        found = self.index[::size]
        whole = tuple(start + k for start in found for k in range(size))
        if whole != self.index or any(start % size for start in found):
            return None
        return tuple(start // size for start in found)

    def _check(self, tensor: Tensor, dim: int) -> None:
        if tensor.shape[dim] != self.width:
            raise ValueError(
                f"expected {self.width} channels along dimension {dim}, got {tuple(tensor.shape)}"
            )


def rewire(module: nn.Module, outputs: Channels | None, inputs: Channels | None) -> None:
    """Gives a layer new channels, in place; None leaves a side as it is.

    Args:
        module: a convolution (transposed only with one group), a linear layer, a batch or instance
            norm or a PReLU. The last two have one side: `outputs`.
        outputs: of the layer.
        inputs: of the layer. With groups, either whole groups are selected or replicated, and
            `outputs` must be the same groups; or the number of groups stays, and every new
            channel stays within its group.

    Raises:
        ValueError: if the layer is another, or the maps do not suit its width or its groups.
    """
    if isinstance(module, (*NORMS, nn.PReLU)):
        _follow(module, outputs)
    elif isinstance(module, nn.Linear):
        _replace(module, "weight", _both(module.weight.detach(), outputs, inputs))
        module.out_features, module.in_features = module.weight.shape
        _bias(module, outputs)
    elif isinstance(module, (*CONVS, *TRANSPOSED)):
        if isinstance(module, CONVS) and module.groups > 1:
            weight, groups = _grouped(module, outputs, inputs)
        elif module.groups > 1:
            raise ValueError("a transposed convolution with groups cannot change its channels")
        elif isinstance(module, TRANSPOSED):
            swapped = _both(module.weight.detach().transpose(0, 1), outputs, inputs)
            weight, groups = swapped.transpose(0, 1).contiguous(), 1
        else:
            weight, groups = _both(module.weight.detach(), outputs, inputs), 1
        _replace(module, "weight", weight)
        module.groups = groups
        module.out_channels = len(outputs.index) if outputs else module.out_channels
        module.in_channels = len(inputs.index) if inputs else module.in_channels
        _bias(module, outputs)
    else:
        raise ValueError(
            f"expected a convolution, a linear layer or a batch norm, got {type(module).__name__}"
        )


def _both(weight: Tensor, outputs: Channels | None, inputs: Channels | None) -> Tensor:
    if outputs is None and inputs is None:
        return weight.clone(memory_format=torch.preserve_format)
    if outputs is not None:
        weight = outputs.outputs(weight, 0)
    return weight if inputs is None else inputs.inputs(weight, 1)


def _grouped(
    conv: nn.Module, outputs: Channels | None, inputs: Channels | None
) -> tuple[Tensor, int]:
    assert isinstance(conv, CONVS)
    groups, weight = conv.groups, conv.weight.detach()
    each_in, each_out = conv.in_channels // groups, conv.out_channels // groups
    ins = inputs or Channels.selected(0, conv.in_channels, conv.in_channels)
    outs = outputs or Channels.selected(0, conv.out_channels, conv.out_channels)
    whole = ins.groups(each_in)
    if whole is not None and whole == outs.groups(each_out):
        return outs.outputs(weight), len(whole)
    if not (_stays(ins, groups) and _stays(outs, groups)):
        raise ValueError(
            f"its {groups} groups of {each_in} -> {each_out} channels must stay equally wide, got "
            f"{ins.width} -> {len(ins.index)} inputs and {outs.width} -> {len(outs.index)} outputs"
        )
    rows = torch.tensor(outs.index, device=weight.device)
    columns = torch.tensor(ins.index, device=weight.device).view(groups, -1) % each_in
    mine = columns[rows // each_out]  # the columns that each output reads, [outputs, inputs / G]
    copies = ins.copies(weight).view(groups, -1)[rows // each_out]
    scale = copies.view(*copies.shape, *[1] * (weight.dim() - 2))
    return weight[rows.unsqueeze(1), mine] / scale, groups


def _stays(channels: Channels, groups: int) -> bool:
    """Whether as many new channels are in each group, all from the old group of its place."""
    each, rest = divmod(len(channels.index), groups)
    old = channels.width // groups
    return not rest and all(c // old == p // each for p, c in enumerate(channels.index))


def _follow(module: nn.Module, channels: Channels | None) -> None:
    if channels is None:
        return
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(module, name, None)
        if isinstance(tensor, Tensor):
            _replace(module, name, channels.outputs(tensor.detach()))
    count = "num_parameters" if isinstance(module, nn.PReLU) else "num_features"
    setattr(module, count, len(channels.index))


def _bias(module: nn.Module, outputs: Channels | None) -> None:
    if outputs is not None and isinstance(module.bias, Tensor):
        _replace(module, "bias", outputs.outputs(module.bias.detach()))


def _replace(module: nn.Module, name: str, new: Tensor) -> None:
    """Sets a parameter or buffer, which stays what it is and keeps its memory format."""
    old = getattr(module, name)
    last = torch.channels_last
    if old.dim() == 4 and not old.is_contiguous() and old.is_contiguous(memory_format=last):
        new = new.contiguous(memory_format=last)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(module, name, new)


def wider(width: int, extra: int, blocks: int, generator: torch.Generator) -> tuple[int, ...]:
    """Draws which of `width` channels are replicated (Net2Net, section 2.2: at random).

    Args:
        width: number of channels.
        extra: number of replicas.
        blocks: equal parts of the channels of which each gets as many replicas.
        generator: of the draw, on the CPU.

    Returns:
        The replicated channels, block by block.

    Raises:
        ValueError: if the blocks do not divide both numbers.
    """
    if width % blocks or extra % blocks:
        raise ValueError(
            f"expected a width and an increase in multiples of {blocks} groups, got {width} "
            f"channels and {extra} more"
        )
    each = width // blocks
    drawn: Iterable[Tensor] = (
        torch.randint(each, (extra // blocks,), generator=generator) + block * each
        for block in range(blocks)
    )
    return tuple(int(c) for part in drawn for c in part)
