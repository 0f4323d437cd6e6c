"""The stages of a network: its cells whose outputs have equally many positions.

A tree of :func:`pathnas.tree.staged` gives each stage a tree of its own. What a stage is follows
from the size of the images, so it is measured, never guessed from names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pathnas import tree as trees
from pathnas.cell import Cell, Site, cells
from pathnas.probing import counted
from pathnas.transforms import Transform, growth
from pathnas.tree import Node


def image(network: nn.Module, image_shape: Sequence[int]) -> Tensor:
    """Returns one image `[1, C, H, W]` of zeros, where and of which type the weights are."""
    parameter = next(network.parameters())
    return torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype)


def places(network: nn.Module, image_shape: Sequence[int]) -> dict[str, Site]:
    """Returns the spec and the output positions of every cell by name, as they are called.

    Args:
        network: with cells.
        image_shape: `[C, H, W]`.

    Raises:
        ValueError: if the network does not call each of its cells once.
    """
    called: list[tuple[Cell, Site]] = []

    def record(cell: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(cell, Cell)
        called.append((cell, Site(cell.spec, output.shape[-2] * output.shape[-1])))

    by_name = cells(network)
    hooks = [cell.register_forward_hook(record) for cell in by_name.values()]
    try:
        counted(network, image(network, image_shape))
    finally:
        for hook in hooks:
            hook.remove()
    for name, cell in by_name.items():
        times = sum(one is cell for one, _ in called)
        if times != 1:
            raise ValueError(f"expected every cell to be called once, got {times} times at {name}")
    names = {cell: name for name, cell in by_name.items()}
    return {names[cell]: site for cell, site in called}


def trees_of_cells(
    network: nn.Module, tree: Node, image_shape: Sequence[int] | None
) -> dict[str, Node]:
    """Returns which tree each cell of a network is given, by name.

    Args:
        network: with cells, of any trees.
        tree: of every cell, or of each stage.
        image_shape: `[C, H, W]`; needed where stages differ.

    Raises:
        ValueError: if stages differ and the shape is missing, or there are not so many stages.
    """
    if tree.merge != "stages":
        return dict.fromkeys(cells(network), tree)
    if image_shape is None:
        raise ValueError(f"image_shape: the stages of {tree} need the size of the images, got None")
    sites = places(network, image_shape)
    sizes = list(dict.fromkeys(site.positions for site in sites.values()))
    own = trees.stages(tree)
    if len(sizes) != len(own):
        raise ValueError(
            f"expected a tree for each of the network's {len(sizes)} stages, got {len(own)}: {tree}"
        )
    return {name: own[sizes.index(site.positions)] for name, site in sites.items()}


def regrow(network: nn.Module, wanted: Mapping[str, Node]) -> None:
    """Gives cells fresh weights in the form of other trees, in place.

    Cells that have their tree already stay as they are.

    Args:
        network: with cells.
        wanted: trees by the names of cells.

    Raises:
        ValueError: if a tree does not fit its cell.
    """
    for name, cell in cells(network).items():
        if cell.tree == wanted[name]:
            continue
        like = next(cell.parameters())
        fresh = Cell(cell.spec, wanted[name]).to(device=like.device, dtype=like.dtype)
        network.set_submodule(name, fresh.train(cell.training))


def growths(
    network: nn.Module, tree: Node, start: Node, image_shape: Sequence[int]
) -> dict[str, list[Transform]]:
    """Returns the transforms that lead each cell of a network to a tree, by name.

    Args:
        network: whose cells stand at `start`.
        tree: to be reached; of every cell, or of each stage.
        start: likewise.
        image_shape: `[C, H, W]`.

    Raises:
        ValueError: as :func:`trees_of_cells` and :func:`pathnas.transforms.growth`.
    """
    starts = trees_of_cells(network, start, image_shape)
    ends = trees_of_cells(network, tree, image_shape)
    return {name: growth(ends[name], starts[name]) for name in ends}
