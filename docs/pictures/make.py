"""Draws the pictures of the documents: ``python docs/pictures/make.py``."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from pathnas import costs, drawing
from pathnas.cell import Site
from pathnas.specs import CellSpec, Conv
from pathnas.transforms import Branch, Insert, Replace
from pathnas.tree import BASE_TREE, Node
from pathnas.treecells import TREES

HERE = Path(__file__).parent
SITES = [Site(CellSpec(Conv(16, 16)), 1)]


def weights(tree: Node) -> dict[tuple[int, ...], float]:
    """Returns the parameters of each edge in a cell of width 16."""
    return {path: cost.parameters for path, cost in costs.edges(tree, SITES).items()}


def row(trees: list[tuple[str, Node]], name: str) -> None:
    """Writes pictures side by side, each with a line below."""
    pictures = []
    for _, tree in trees:
        drawn = drawing.render(tree, "png", costs=weights(tree))
        pictures.append(Image.open(io.BytesIO(drawn)))
    widths = [picture.width for picture in pictures]
    tallest = max(picture.height for picture in pictures)
    figure = Figure(figsize=(sum(widths) / 200, tallest / 200 + 0.4), dpi=200, facecolor="white")
    left = 0.0
    for (title, _), picture in zip(trees, pictures, strict=True):
        wide = picture.width / sum(widths)
        high = picture.height / (tallest + 80)
        axes = figure.add_axes((left, 1 - high, wide, high))
        axes.imshow(picture)
        axes.set_axis_off()
        figure.text(left + wide / 2, 0.02, title, ha="center", fontsize=9, family="monospace")
        left += wide
    figure.savefig(HERE / name)


def main() -> None:
    """Draws all of them."""
    steps = [Branch((), "add", 2), Insert((0,)), Replace((0, 0), "sep_conv5x5")]
    titles = ['Branch((), "add", 2)', "Insert((0,))", 'Replace((0, 0),\n"sep_conv5x5")']
    trees = [("a convolution", BASE_TREE)]
    for title, step in zip(titles, steps, strict=True):
        trees.append((title, step(trees[-1][1])))
    row(trees, "steps.png")
    cell = TREES["treecell_a"]
    row([("a convolution", BASE_TREE), ("TreeCell-A", cell)], "growth.png")
    (HERE / "treecell_a.svg").write_bytes(drawing.render(cell, "svg", costs=weights(cell)))


if __name__ == "__main__":
    main()
