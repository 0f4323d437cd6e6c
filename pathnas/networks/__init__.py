"""Base networks by name, and what a network costs.

A network maps images `[B, C, H, W]` to logits `[B, classes]` and holds
:class:`pathnas.cell.Cell` modules, all of one tree, or of one tree a stage
(:mod:`pathnas.networks.stages`). ``build`` constructs one from its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pathnas.cell import Site
from pathnas.cell import cells as cells
from pathnas.networks import condensenet, densenet, plain, pyramidnet, stages
from pathnas.networks.condensenet import CondenseNet
from pathnas.networks.densenet import DenseNet
from pathnas.networks.grafted import grafted
from pathnas.networks.plain import Chain, Residual
from pathnas.networks.pyramidnet import PyramidNet
from pathnas.probing import counted, mode
from pathnas.tree import BASE_TREE, Node

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "chain": Chain,
    "residual": Residual,
    "pyramidnet": PyramidNet,
    "densenet": DenseNet,
    "condensenet": CondenseNet,
    "grafted": grafted,
}
"""Constructors by name; each takes ``channels``, ``classes``, ``tree`` and its own options."""


def build(
    name: str,
    *,
    channels: int,
    classes: int,
    tree: Node = BASE_TREE,
    image_shape: Sequence[int] | None = None,
    **options: Any,
) -> nn.Module:
    """Returns a network with fresh weights, drawn from torch's global generator.

    Args:
        name: a key of :data:`NETWORKS`.
        channels: of the images.
        classes: number of logits.
        tree: the architecture of every cell, or of each stage (:func:`pathnas.tree.staged`).
        image_shape: `[C, H, W]`, from which stages are told; needed where they differ.
        options: the constructor's own.

    Raises:
        ValueError: if the name is unknown, the tree does not fit a cell, or the network has not so
            many stages.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(sorted(NETWORKS))}")
    if tree.merge != "stages":
        return NETWORKS[name](channels=channels, classes=classes, tree=tree, **options)
    network = NETWORKS[name](channels=channels, classes=classes, **options)
    stages.regrow(network, stages.trees_of_cells(network, tree, image_shape))
    return network


def macs(network: nn.Module, image_shape: Sequence[int]) -> int:
    """Returns the multiply-adds of convolutions and linear layers for one image `[C, H, W]`."""
    return counted(network, stages.image(network, image_shape))[1]


def sites(network: nn.Module, image_shape: Sequence[int]) -> tuple[Site, ...]:
    """Returns the spec and the output positions of every cell, for images `[C, H, W]`.

    Raises:
        ValueError: if the network does not call each of its cells once.
    """
    return tuple(stages.places(network, image_shape).values())


def check(network: nn.Module, image_shape: Sequence[int], classes: int) -> None:
    """Checks that a network maps images `[B, C, H, W]` to logits `[B, classes]` in both modes.

    Raises:
        ValueError: if it does not.
    """
    images = stages.image(network, image_shape).expand(2, *image_shape)
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


def parameters(network: nn.Module) -> int:
    """Returns the number of weights."""
    return sum(parameter.numel() for parameter in network.parameters())


def sketch(name: str, **options: Any) -> nn.Module:
    """Returns the network of :func:`build` without weights, on torch's meta device.

    It can be asked for its size and cost, and draws no random number.

    Args:
        name: as of :func:`build`.
        options: its other arguments.
    """
    with torch.device("meta"):
        return build(name, **options)


def can_widen(network: Mapping[str, Any]) -> bool:
    """Tells whether :func:`widened` can scale a network of this name and these options."""
    return network["name"] in WIDENINGS


def widened(
    name: str, target: int, *, image_shape: Sequence[int], classes: int, **options: Any
) -> dict[str, Any]:
    """Returns name and options of a network that is widened so that it costs `target`.

    Its widths grow by about one factor. Of the roundings that the network allows the one is taken
    that brings the multiply-adds nearest to the target.

    Args:
        name: a key of :data:`WIDENINGS`.
        target: multiply-adds for one image.
        image_shape: `[C, H, W]`.
        classes: number of logits.
        options: the network's own.

    Raises:
        ValueError: if a network of this name cannot be widened.
    """
    if name not in WIDENINGS:
        known = ", ".join(sorted(WIDENINGS))
        raise ValueError(f"expected a network that can be widened ({known}), got {name!r}")

    seen: dict[str, int] = {}

    def cost(wide: dict[str, Any]) -> int:
        key = repr(wide)
        if key not in seen:
            network = sketch(name, channels=image_shape[0], classes=classes, **wide)
            seen[key] = macs(network, image_shape)
        return seen[key]

    def choices(step: int) -> list[dict[str, Any]]:
        return WIDENINGS[name](1.02**step, **options)

    low, high = -1, 0
    while cost(choices(high)[-1]) < target:
        low, high = high, 2 * high + 1
    while high - low > 1:  # the first step that costs enough is above `low`, at most `high`
        middle = (low + high) // 2
        low, high = (middle, high) if cost(choices(middle)[-1]) < target else (low, middle)
    best = min(choices(high), key=lambda wide: abs(cost(wide) - target))
    return {**best, "name": name}


WIDENINGS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "chain": plain.widenings,
    "residual": plain.widenings,
    "pyramidnet": pyramidnet.widenings,
    "densenet": densenet.widenings,
    "condensenet": condensenet.widenings,
}
"""By name: from a factor and a network's options to the options of that network so many times as
wide, rounded in different ways, the widest last."""
