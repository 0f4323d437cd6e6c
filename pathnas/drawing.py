"""Pictures of trees, by matplotlib.

One look everywhere: the env's frames, TensorBoard, reports and documents. Nodes are merges, edges
operations, each with its name and a colour or dashes of its own; with costs, an edge is the wider,
the more its operation costs.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathnas import tree as trees
from pathnas.tree import Node, Path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]


class Stroke(NamedTuple):
    """How the edges of an operation are drawn: colour and dashes."""

    colour: str
    dashes: str = "-"


# Okabe and Ito's palette, which people with colour-blind eyes can tell apart; brown stands for its
# yellow, which is hardly seen on paper.
STROKES = {
    "base": Stroke("#000000"),
    "identity": Stroke("#999999", "--"),
    "conv1x1": Stroke("#E69F00"),
    "conv3x3": Stroke("#7A4B00"),
    "group_conv3x3": Stroke("#7A4B00", "--"),
    "sep_conv3x3": Stroke("#56B4E9"),
    "sep_conv5x5": Stroke("#0072B2"),
    "sep_conv7x7": Stroke("#009E73"),
    "avg_pool3x3": Stroke("#CC79A7"),
    "max_pool3x3": Stroke("#D55E00"),
}
OTHER = Stroke("#000000", ":")
FOCUS = "#FFE680"

DPI = 100
MARGIN = 0.35  # inches, like all lengths below
LEVEL = 1.4
NARROWEST = (2.2, 4.0)  # width of a picture without and with a title
BRANCH = 0.4
LETTER = 0.62 / 72  # width of a letter, for each point of font size
NODE = 0.9 / 72  # half of the height of a node, likewise
WIDTH = 2.0  # of an edge in points, where no costs are given
WIDTHS = (1.2, 8.0)  # of the edge that costs nothing, and of the one that costs most
FAN = 0.25  # the part of a level in which branches spread; below it they hang straight


class _Layout(NamedTuple):
    """Where things stand, in inches from the lower left corner."""

    points: dict[Path, Point]
    step: float
    font: float
    upright: frozenset[int]


def draw(
    tree: Node,
    *,
    focus: Path | None = None,
    title: str | None = None,
    size: tuple[int, int] | None = None,
    costs: Mapping[Path, float] | None = None,
) -> Figure:
    """Draws a tree, root on top, and returns the figure.

    Nodes show their merge, in a dashed frame if they split their input; a node with one branch is a
    ring, a leaf a dot. Edges show their op.

    Args:
        tree: what is drawn.
        focus: path of a node, or of the edge to it, that is marked; ``()`` is the root.
        title: one line above the picture.
        size: width and height in pixels; None: as large as the tree needs.
        costs: of the operation of each edge, such as its parameters or multiply-adds
            (:func:`pathnas.costs.edges`); widths go with their square roots. None: all edges are
            equally wide.

    Raises:
        ValueError: if the focus leads nowhere, the size is not positive, or a cost is missing or
            negative.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if focus is not None:
        trees.node_at(tree, focus)
    width, height = _size(tree, size, NARROWEST[bool(title)])
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    if title:
        place = (width / 2, height - MARGIN)
        axes.text(*place, title, ha="center", va="center", fontsize=10, parse_math=False)
    layout = _layout(tree, width, height - (MARGIN if title else 0))
    _draw_edges(axes, tree, layout, focus, _widths(tree, costs))
    _draw_nodes(axes, tree, layout, focus)
    return figure


def rgb(
    tree: Node,
    size: tuple[int, int] | None = (720, 480),
    *,
    focus: Path | None = None,
    title: str | None = None,
    costs: Mapping[Path, float] | None = None,
) -> NDArray[np.uint8]:
    """Returns the picture of :func:`draw` as an array.

    Args:
        tree: what is drawn.
        size: width `W` and height `H` in pixels; None: as large as the tree needs.
        focus: as in :func:`draw`.
        title: as in :func:`draw`.
        costs: as in :func:`draw`.

    Returns:
        `[H, W, 3]` uint8.
    """
    figure = draw(tree, focus=focus, title=title, size=size, costs=costs)
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def render(
    tree: Node,
    kind: str = "svg",
    *,
    title: str | None = None,
    costs: Mapping[Path, float] | None = None,
) -> bytes:
    """Returns the picture of :func:`draw` as a file's content; equal for equal trees.

    Args:
        tree: what is drawn.
        kind: ``"svg"``, ``"png"`` or ``"pdf"``.
        title: as in :func:`draw`.
        costs: as in :func:`draw`.

    Raises:
        ValueError: if the kind is another.
    """
    if kind not in KINDS:
        raise ValueError(f"expected a kind of picture of {KINDS}, got {kind!r}")
    from matplotlib import rc_context

    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "pathnas"}):
        figure = draw(tree, title=title, costs=costs)
        figure.savefig(file, format=kind, metadata=undated, dpi=2 * DPI)
    return file.getvalue()


KINDS = ("svg", "png", "pdf")


def _widths(tree: Node, costs: Mapping[Path, float] | None) -> dict[Path, float]:
    """Returns the width of each edge in points."""
    paths = [path for path, _ in trees.walk(tree)]
    if costs is None:
        return dict.fromkeys(paths, WIDTH)
    wrong = [path for path in paths if not costs.get(path, -1) >= 0]
    if wrong:
        got = costs.get(wrong[0])
        raise ValueError(f"expected a cost of at least 0 for every edge, got {got} at {wrong[0]}")
    least, most = WIDTHS
    top = max((costs[path] for path in paths), default=0) or 1
    return {path: least + (most - least) * (costs[path] / top) ** 0.5 for path in paths}


def _size(tree: Node, size: tuple[int, int] | None, narrowest: float) -> Point:
    """Returns width and height in inches."""
    if size is None:
        leaves = sum(edge.child.is_leaf for _, edge in trees.walk(tree))
        return max(narrowest, leaves * BRANCH), max(1, trees.depth(tree)) * LEVEL + 3 * MARGIN
    if min(size) < 1:
        raise ValueError(f"expected a width and a height of at least 1 pixel, got {size=}")
    width, height = size
    # The least bit more, as matplotlib rounds inches x dpi down.
    return (width + 1e-3) / DPI, (height + 1e-3) / DPI


def _layout(tree: Node, width: float, height: float) -> _Layout:
    """Returns the layout; leaves share out the width, other nodes stand above their branches."""
    columns: dict[Path, float] = {}

    def place(node: Node, path: Path, leaves: int) -> int:
        if node.is_leaf:
            columns[path] = leaves + 0.5
            return leaves + 1
        for index, edge in enumerate(node.edges):
            leaves = place(edge.child, (*path, index), leaves)
        columns[path] = (columns[(*path, 0)] + columns[(*path, len(node.edges) - 1)]) / 2
        return leaves

    unit = max(width - 2 * MARGIN, 0.1) / place(tree, (), 0)
    step = max(height - 2 * MARGIN, 0.1) / max(1, trees.depth(tree))
    points = {
        path: (MARGIN + column * unit, height - MARGIN - len(path) * step)
        for path, column in columns.items()
    }
    longest = max((len(edge.op) for _, edge in trees.walk(tree)), default=1)
    # Upright names fill what nodes leave of the straight part of an edge, and half of a column.
    straight = (1 - FAN) * step
    font = max(3.0, min(9.0, straight / (longest * LETTER + 2 * NODE), 0.55 * 72 * unit))
    upright = {
        level for level, gap in _gaps(points, width).items() if (longest + 1) * LETTER * font > gap
    }
    return _Layout(points, step, font, frozenset(upright))


def _gaps(points: dict[Path, Point], width: float) -> dict[int, float]:
    """Returns for each level the smallest distance between neighbours."""
    rows: dict[int, list[float]] = {}
    for path, (x, _) in points.items():
        rows.setdefault(len(path), []).append(x)
    return {
        level: min((b - a for a, b in pairwise(sorted(row))), default=width)
        for level, row in rows.items()
    }


def _draw_edges(
    axes: Axes, tree: Node, layout: _Layout, focus: Path | None, widths: Mapping[Path, float]
) -> None:
    for path, edge in trees.walk(tree):
        (x0, y0), (x, y) = layout.points[path[:-1]], layout.points[path]
        bend = y0 - FAN * layout.step
        colour, dashes = STROKES.get(edge.op, OTHER)
        line = ([x0, x, x], [y0, bend, y])
        if path == focus:
            axes.plot(*line, color=FOCUS, linewidth=7 + widths[path], zorder=0)
        style: Any = {"solid_joinstyle": "round", "dash_joinstyle": "round"}
        axes.plot(*line, color=colour, linestyle=dashes, linewidth=widths[path], zorder=1, **style)
        axes.text(
            x,
            (bend + y + NODE * layout.font) / 2,
            edge.op,
            rotation=90 if len(path) in layout.upright else 0,
            ha="center",
            va="center",
            fontsize=layout.font,
            parse_math=False,
            zorder=3,
            bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": colour},
        )


def _draw_nodes(axes: Axes, tree: Node, layout: _Layout, focus: Path | None) -> None:
    for path, (x, y) in layout.points.items():
        node = trees.node_at(tree, path)
        if path == focus:
            axes.plot(x, y, "o", color=FOCUS, markersize=18, zorder=2)
        if node.merge is None:
            style: Any = {"markersize": 7, "markeredgecolor": "white" if node.is_leaf else "black"}
            fill = "black" if node.is_leaf else "white"
            axes.plot(x, y, "o", markerfacecolor=fill, zorder=4, **style)
            continue
        box = {
            "boxstyle": "round,pad=0.25",
            "facecolor": FOCUS if path == focus else "#EEEEEE",
            "edgecolor": "black",
            "linestyle": "--" if node.allocation == "split" else "-",
        }
        axes.text(
            x, y, node.merge, ha="center", va="center", fontsize=layout.font, zorder=4, bbox=box
        )
