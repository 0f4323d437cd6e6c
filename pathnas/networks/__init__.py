"""Base networks by name, and what a network costs.

A network maps images `[B, C, H, W]` to logits `[B, classes]` and holds
:class:`pathnas.cell.Cell` modules, all of one tree. ``build`` constructs one from its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pathnas.cell import Cell, cells
from pathnas.decisions import Site
from pathnas.networks.plain import Chain, Residual
from pathnas.tree import BASE_TREE, Node

NETWORKS: dict[str, Callable[..., nn.Module]] = {"chain": Chain, "residual": Residual}
"""Constructors by name; each takes ``channels``, ``classes``, ``tree`` and its own options."""


def build(
    name: str, *, channels: int, classes: int, tree: Node = BASE_TREE, **options: Any
) -> nn.Module:
    """Returns a network with fresh weights, drawn from torch's global generator.

    Args:
        name: a key of :data:`NETWORKS`.
        channels: of the images.
        classes: number of logits.
        tree: the architecture of every cell.
        options: the constructor's own.

    Raises:
        ValueError: if the name is unknown or the tree does not fit a cell.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(sorted(NETWORKS))}")
    return NETWORKS[name](channels=channels, classes=classes, tree=tree, **options)


def macs(network: nn.Module, image_shape: Sequence[int]) -> int:
    """Returns the multiply-adds of convolutions and linear layers for one image `[C, H, W]`."""
    with FlopCounterMode(display=False) as counter:
        _probe(network, image_shape)
    return counter.get_total_flops() // 2  # torch counts a multiply-add as two


def sites(network: nn.Module, image_shape: Sequence[int]) -> tuple[Site, ...]:
    """Returns the spec and the output positions of every cell, for images `[C, H, W]`."""
    found: dict[Cell, int] = {}

    def record(cell: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        assert isinstance(cell, Cell)
        found[cell] = output.shape[-2] * output.shape[-1]

    hooks = [cell.register_forward_hook(record) for cell in cells(network).values()]
    try:
        _probe(network, image_shape)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(Site(cell.spec, positions) for cell, positions in found.items())


@torch.no_grad()
def _probe(network: nn.Module, image_shape: Sequence[int]) -> None:
    """Passes one black image through in eval mode, which is restored."""
    training = network.training
    parameter = next(network.parameters())
    image = torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype)
    try:
        network.eval()(image)
    finally:
        network.train(training)


def parameters(network: nn.Module) -> int:
    """Returns the number of weights."""
    return sum(parameter.numel() for parameter in network.parameters())


def widened(
    name: str, target: int, *, image_shape: Sequence[int], classes: int, **options: Any
) -> dict[str, Any]:
    """Returns name and options of a network with all widths scaled so that it costs `target`.

    The widths grow by one common factor, rounded to multiples of the groups; of all factors the
    one whose multiply-adds come nearest to the target is taken.

    Args:
        name: a key of :data:`NETWORKS`.
        target: multiply-adds for one image.
        image_shape: `[C, H, W]`.
        classes: number of logits.
        options: the network's own, ``widths`` among them.
    """
    groups = options.get("groups", 1)
    seen: dict[tuple[int, ...], int] = {}

    def scaled(factor: float) -> dict[str, Any]:
        def width(old: int) -> int:
            return max(groups, round(old * factor / groups) * groups)

        stem = options.get("stem")
        widths = tuple(width(old) for old in options["widths"])
        return {**options, "name": name, "widths": widths, "stem": stem and width(stem)}

    factor = 1.0
    best, distance = scaled(factor), float("inf")
    while True:
        changed = scaled(factor)
        if changed["widths"] not in seen:
            network = build(channels=image_shape[0], classes=classes, **changed)
            cost = seen[changed["widths"]] = macs(network, image_shape)
            if abs(cost - target) < distance:
                best, distance = changed, abs(cost - target)
            if cost >= target:
                return best
        factor *= 1.01
