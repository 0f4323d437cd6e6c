"""What an optimizer remembers, by parameter name, and how it goes through a growth.

Momentum, moments and the like stand in tensors of each parameter's shape. :func:`read` takes them
out of an optimizer, :func:`carry` takes them through transforms, :func:`write` gives them to the
optimizer of the grown network::

    state = optimizer_state.read(optimizer, network)
    grown = transforms.grow(network, done)
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1, momentum=0.9)
    optimizer_state.write(optimizer, grown, optimizer_state.carry(state, network, done))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pathnas import ops
from pathnas.graphs import Example
from pathnas.layers import Deepen, Widen
from pathnas.steps import Step
from pathnas.transforms import EXACT, Transform, grow

State = Mapping[str, Tensor]
"""Tensors by the name of a parameter and a key of the optimizer, with a dot between them.

Each has its parameter's shape, or is one number of shape `[]` (a count of steps).
"""

Steps = Sequence[Step] | Mapping[str, Sequence[Transform]]
"""Steps for all of a network, or path-level transforms by the name of the cell."""


def read(optimizer: Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Returns copies of what an optimizer remembers of a network's parameters.

    Raises:
        ValueError: if it optimizes other parameters, or remembers something that is neither one
            number nor a number for each weight (SGD, Adam and AdamW do not).
    """
    found = {}
    for name, parameter in _named(optimizer, network).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is None:  # SGD's momentum_buffer where there is no momentum
                continue
            if not isinstance(value, Tensor) or not _fits(value, parameter):
                raise ValueError(
                    f"expected one number, or one for each weight of shape "
                    f"{tuple(parameter.shape)}, got {type(value).__name__} of shape "
                    f"{tuple(getattr(value, 'shape', ()))} in {type(optimizer).__name__}'s "
                    f"{key!r} of {name}"
                )
            found[f"{name}.{key}"] = value.detach().clone()
    return found


def write(optimizer: Optimizer, network: nn.Module, state: State) -> None:
    """Gives an optimizer something to remember, in place of what it does; its settings stay.

    Raises:
        ValueError: if it optimizes other parameters than the network's, or `state` names one that
            it does not, or has another shape.
    """
    named = _named(optimizer, network)
    places = {name: place for place, name in enumerate(named)}
    entries: dict[int, dict[str, Tensor]] = {}
    for full_name, value in state.items():
        name, _, key = full_name.rpartition(".")
        if name not in named or not _fits(value, named[name]):
            shape = tuple(named[name].shape) if name in named else "no such parameter"
            raise ValueError(
                f"expected the state of this network's parameters, got {full_name} of shape "
                f"{tuple(value.shape)} for {shape}"
            )
        if value.shape == named[name].shape:
            # Fused kernels walk over weights and momentum alike, so both need one memory format.
            laid_out = torch.empty_like(named[name], dtype=value.dtype)
            value = laid_out.requires_grad_(False).copy_(value)
        entries.setdefault(places[name], {})[key] = value.detach().clone()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})


def carry(
    state: State,
    network: nn.Module,
    transforms: Steps,
    *,
    example: Example | None = None,
) -> dict[str, Tensor]:
    """Returns the state for the network that the transforms grow.

    Every weight of it that is a copy of one of the network's, as in replicas and splits, gets what
    the optimizer remembered of that one, as it is: replicas that move alike move what the network
    computes as the one before them did. New weights get zero, new parameters a step count of zero.

    Args:
        state: of :func:`read`, or of a file.
        network: before the growth; it stays as it is.
        transforms: as handed to :func:`pathnas.transforms.grow`, by cell too, or to
            :mod:`pathnas.growth`.
        example: inputs of the network, for layer-level transforms; only the shapes count.

    Raises:
        ValueError: if the state is not of this network, or a transform does not fit.
    """
    parameters = dict(network.named_parameters())
    tensors: dict[str, dict[str, Tensor]] = {}
    for full_name, value in state.items():
        name, _, key = full_name.rpartition(".")
        if name not in parameters or not _fits(value, parameters[name]):
            raise ValueError(
                f"expected the state of this network's parameters, got {full_name} of shape "
                f"{tuple(value.shape)}"
            )
        tensors.setdefault(key, {})[name] = value
    pools = {key: _Pool(by_name, parameters) for key, by_name in tensors.items()}
    carried = {}
    for name, origin in sources(network, transforms, example).items():
        for key, pool in pools.items():
            gathered = pool.gather(origin)
            if gathered is not None:
                carried[f"{name}.{key}"] = gathered
    return carried


def sources(
    network: nn.Module, transforms: Steps, example: Example | None = None
) -> dict[str, Tensor]:
    """Returns from which weight of a network each weight of the grown one is.

    The transforms themselves say so, there is no second account of them: copies of the network are
    grown whose weights are numbers. Two number them alike but for a constant, by which a grown
    weight that is made of an old one differs, and a new one does not; what it differs by tells
    whether it was scaled, and its value which one it is made of. The third numbers them in another
    order, as a check.

    Args:
        network: before the growth; it stays as it is.
        transforms: as handed to :func:`carry`.
        example: likewise.

    Returns:
        For each parameter of the grown network by name an int64 tensor of its shape, on the CPU:
        positions in all the network's parameters, flattened and one after another; -1 for new.

    Raises:
        ValueError: if a transform does not fit, or makes a weight of several others.
    """
    weights = sum(parameter.numel() for parameter in network.parameters())
    numbers = torch.arange(1, weights + 1, dtype=torch.float64)
    other = numbers[torch.randperm(weights, generator=torch.Generator().manual_seed(0))]
    grown, apart, check = (
        _numbered(network, transforms, n, example) for n in (numbers, numbers + _APART, other)
    )
    found = {}
    for name, low in grown.items():
        scale = (apart[name] - low) / _APART
        new = scale == 0
        place = torch.where(new, 1.0, low / scale).round().clamp(1, weights).long() - 1
        checked = (check[name] / scale).round() == other[place]
        if not torch.where(new, check[name] == low, checked).all():
            raise ValueError(
                f"expected weights that are new or made of one other each, got {name}, where "
                f"several make one"
            )
        found[name] = torch.where(new, -1, place)
    return found


_APART = 2.0**33
"""More than any network has weights, and small enough for float64 to hold all of them exactly."""


@torch.no_grad()
def _numbered(
    network: nn.Module, transforms: Steps, numbers: Tensor, example: Example | None
) -> dict[str, Tensor]:
    """Returns what becomes of a network's weights in a growth if they are these numbers."""
    numbered = deepcopy(network).to("cpu", torch.float64)
    start = 0
    for parameter in numbered.parameters():
        parameter.copy_(numbers[start : start + parameter.numel()].view(parameter.shape))
        start += parameter.numel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what is born at random must be the same in all copies
        grown = numbered
        if isinstance(transforms, Mapping):
            grown, transforms = grow(grown, transforms), ()
        for level, steps in groupby(transforms, key=lambda step: isinstance(step, Widen | Deepen)):
            if level:
                _do_layers(grown, steps, example)
            else:
                grown = grow(grown, cast(list[Transform], list(steps)))
    return {name: parameter.detach() for name, parameter in grown.named_parameters()}


def _do_layers(numbered: nn.Module, steps: Iterable[Any], example: Example | None) -> None:
    """Does layer-level steps in place; the norms of new layers are left as they are drawn."""
    if example is not None:
        tensors = [example] if isinstance(example, Tensor) else example
        example = [t.to("cpu", torch.float64) if t.is_floating_point() else t for t in tensors]
    for step in steps:
        norm = step.apply(numbered, EXACT, example)
        if norm is not None:
            ops.undo_norm(norm, None)


def _named(optimizer: Optimizer, network: nn.Module) -> dict[str, nn.Parameter]:
    """Returns an optimizer's parameters by name, in its order."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    unknown = sum(parameter not in names for parameter in parameters)
    if unknown:
        raise ValueError(
            f"expected an optimizer of this network's parameters, got one with {unknown} others "
            f"of {len(parameters)}"
        )
    return {names[parameter]: parameter for parameter in parameters}


def _fits(value: Tensor, parameter: Tensor) -> bool:
    return value.shape == parameter.shape or value.dim() == 0


class _Pool:
    """One key's values for all of a network's weights, one after another, as `sources` counts."""

    def __init__(self, by_name: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
        weights = sum(parameter.numel() for parameter in parameters.values())
        dtype = next(iter(by_name.values())).dtype
        # One place more: -1, for what is new.
        self.values = torch.zeros(weights + 1, dtype=dtype)
        self.known = torch.ones(weights + 1, dtype=torch.bool)
        self.counts = all(value.dim() == 0 for value in by_name.values())
        start = 0
        for name, parameter in parameters.items():
            part = slice(start, start + parameter.numel())
            if name in by_name:
                self.values[part] = by_name[name].detach().cpu().reshape(-1)
            self.known[part] = name in by_name
            start += parameter.numel()

    def gather(self, origin: Tensor) -> Tensor | None:
        """Returns the values from these positions, or None for what the optimizer did not have."""
        if not self.known[origin].any():
            return None
        values = self.values[origin]
        return values.max() if self.counts else values
