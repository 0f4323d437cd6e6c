"""What each operation of a tree costs, at the cells of a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pathnas import ops
from pathnas import tree as trees
from pathnas.cell import Cost, Site, by_stage, edge_ranges, normed
from pathnas.specs import CellSpec
from pathnas.tree import BASE_OP, Node, Path


def edges(tree: Node, sites: Sequence[Site]) -> dict[Path, Cost]:
    """Returns parameters and multiply-adds of every edge's operation, over all cells together.

    Args:
        tree: that all of the cells hold, or those of each stage; edges to stages cost nothing.
        sites: of the cells (:func:`pathnas.networks.sites`); multiply-adds are for one image.

    Raises:
        ValueError: if a cell cannot hold the tree, or there are not so many stages.
    """
    found: dict[Path, Cost] = {}
    if tree.merge == "stages":
        stages = by_stage(sites)
        if len(stages) != len(tree.edges):
            raise ValueError(f"expected a tree for each of {len(stages)} stages, got {tree}")
        for number, (one, places) in enumerate(zip(trees.stages(tree), stages, strict=True)):
            found[number,] = Cost(0, 0)
            found |= {(number, *path): cost for path, cost in edges(one, places).items()}
        return found
    for spec, positions in sites:
        for path, cost in _edges(tree, spec.conv.channels_in, spec.conv.channels_out, spec, ()):
            before = found.get(path, Cost(0, 0))
            macs = before.macs + cost.macs * positions
            found[path] = Cost(before.parameters + cost.parameters, macs)
    return found


def _edges(
    node: Node, channels_in: int, channels_out: int, spec: CellSpec, prefix: Path
) -> Iterator[tuple[Path, Cost]]:
    """Yields what each edge costs for one output position."""
    ranges = edge_ranges(node, channels_in, channels_out, spec)
    for index, (edge, (inputs, outputs)) in enumerate(zip(node.edges, ranges, strict=True)):
        i, o, path = inputs.stop - inputs.start, outputs.stop - outputs.start, (*prefix, index)
        if edge.op == BASE_OP:
            parameters = ops.base_parameters(spec, outputs) + 2 * o * normed(edge, spec)
            yield path, Cost(parameters, ops.base_macs(spec, outputs))
        else:
            op = ops.get(edge.op)
            yield path, Cost(op.parameters(i, o, spec), op.macs(i, o, spec))
        yield from _edges(edge.child, o, o, spec, path)
