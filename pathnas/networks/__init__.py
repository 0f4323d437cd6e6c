"""Base networks by name, and what a network costs.

A network maps images `[B, C, H, W]` to logits `[B, classes]` and holds
:class:`pathnas.cell.Cell` modules, all of one tree. ``build`` constructs one from its name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pathnas.cell import Cell, Site, cells
from pathnas.networks.grafted import grafted
from pathnas.networks.plain import Chain, Residual
from pathnas.probing import counted, mode
from pathnas.tree import BASE_TREE, Node

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "chain": Chain,
    "residual": Residual,
    "grafted": grafted,
}
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
    return counted(network, _image(network, image_shape))[1]


def sites(network: nn.Module, image_shape: Sequence[int]) -> tuple[Site, ...]:
    """Returns the spec and the output positions of every cell, for images `[C, H, W]`.

    Raises:
        ValueError: if the network does not call each of its cells once.
    """
    found: list[Site] = []
    called: list[Cell] = []

    def record(cell: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(cell, Cell)
        called.append(cell)
        found.append(Site(cell.spec, output.shape[-2] * output.shape[-1]))

    by_name = cells(network)
    hooks = [cell.register_forward_hook(record) for cell in by_name.values()]
    try:
        counted(network, _image(network, image_shape))
    finally:
        for hook in hooks:
            hook.remove()
    for name, cell in by_name.items():
        times = sum(one is cell for one in called)
        if times != 1:
            raise ValueError(f"expected every cell to be called once, got {times} times at {name}")
    return tuple(found)


def check(network: nn.Module, image_shape: Sequence[int], classes: int) -> None:
    """Checks that a network maps images `[B, C, H, W]` to logits `[B, classes]` in both modes.

    Raises:
        ValueError: if it does not.
    """
    images = _image(network, image_shape).expand(2, *image_shape)
    for training, words in ((False, "eval"), (True, "train")):
        try:
            with mode(network, training=training), torch.random.fork_rng(devices=[]):
                output = network(images)
        except RuntimeError as error:
            line = " ".join(str(error).split())
            raise ValueError(f"the network cannot take images {(*image_shape,)}: {line}") from error
        got = (*output.shape,) if isinstance(output, Tensor) else type(output).__name__
        if got != (2, classes):
            raise ValueError(
                f"expected logits {(2, classes)} in {words} mode for 2 images, got {got}"
            )


def _image(network: nn.Module, image_shape: Sequence[int]) -> Tensor:
    parameter = next(network.parameters())
    return torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype)


def parameters(network: nn.Module) -> int:
    """Returns the number of weights."""
    return sum(parameter.numel() for parameter in network.parameters())


def sketch(
    name: str, *, channels: int, classes: int, tree: Node = BASE_TREE, **options: Any
) -> nn.Module:
    """Returns the network of :func:`build` without weights, on torch's meta device.

    It can be asked for its size and cost, and draws no random number.
    """
    with torch.device("meta"):
        return build(name, channels=channels, classes=classes, tree=tree, **options)


def can_widen(network: Mapping[str, Any]) -> bool:
    """Tells whether :func:`widened` can scale a network of this name and these options."""
    return "widths" in network


def widened(
    name: str, target: int, *, image_shape: Sequence[int], classes: int, **options: Any
) -> dict[str, Any]:
    """Returns name and options of a network with all widths scaled so that it costs `target`.

    All widths grow by about one factor: each is rounded up or down to a multiple of the groups,
    in the way that brings the multiply-adds nearest to the target.

    Args:
        name: a key of :data:`NETWORKS`.
        target: multiply-adds for one image.
        image_shape: `[C, H, W]`.
        classes: number of logits.
        options: the network's own, ``widths`` among them.
    """
    groups = options.get("groups", 1)
    old = (options.get("stem") or options["widths"][0], *options["widths"])
    seen: dict[tuple[int, ...], int] = {}

    def cost(widths: tuple[int, ...]) -> int:
        if widths not in seen:
            changed = {**options, "stem": widths[0], "widths": widths[1:]}
            network = sketch(name, channels=image_shape[0], classes=classes, **changed)
            seen[widths] = macs(network, image_shape)
        return seen[widths]

    factor = 1.0
    while cost(tuple(math.ceil(width * factor / groups) * groups for width in old)) < target:
        factor *= 1.02
    around = [
        sorted({max(1, round_(width * factor / groups)) * groups for round_ in ROUNDINGS})
        for width in old
    ]
    best = min(itertools.product(*around), key=lambda widths: (abs(cost(widths) - target), widths))
    return {**options, "name": name, "stem": best[0], "widths": best[1:]}


ROUNDINGS: tuple[Callable[[float], int], ...] = (math.floor, math.ceil)
