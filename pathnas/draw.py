"""The command line of pictures: ``python -m pathnas.draw tree.json -o tree.svg``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pathnas.exits import EXIT_FAILED, EXIT_USAGE, fail
from pathnas.tree import Node
from pathnas.tree import Path as TreePath


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m pathnas.draw",
        description="Draw a tree: as text, or as a picture with -o.",
        epilog="examples: python -m pathnas.draw runs/digits -o best.svg; "
        "python -m pathnas.draw treecell_a --width 64 -o a.png",
    )
    found.add_argument("tree", help="a tree's JSON file, a run's folder, or a tree's name")
    found.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="picture to write: .svg, .png or .pdf"
    )
    found.add_argument("--title", help="one line above the picture")
    found.add_argument(
        "--width",
        type=int,
        metavar="CHANNELS",
        help="draw edges as wide as their operations cost in a cell of this width",
    )
    found.add_argument("--json", action="store_true", help="print the tree as JSON")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = parser().parse_args(arguments)
    from pathnas import drawing, files, train_settings
    from pathnas import tree as trees
    from pathnas.plugins import Plugins

    try:
        found = train_settings.tree_of(options.tree)
        tree = found.tree
        if found.config is not None and options.width is not None:
            Plugins(found.config.plugins)  # their operations have a cost
        costs = None if options.width is None else _costs(tree, options.width)
        kind = options.output.suffix[1:].lower() if options.output is not None else "svg"
        if kind not in drawing.KINDS:
            kinds = ", ".join(f".{one}" for one in drawing.KINDS)
            raise ValueError(f"expected a name that ends in {kinds}, got {options.output}")
    except (ValueError, OSError) as error:
        return fail(EXIT_USAGE, error)
    if options.json:
        print(trees.to_json(tree))
    elif options.output is None:
        print(trees.indented(tree))
    if options.output is not None:
        try:
            picture = drawing.render(tree, kind, title=options.title, costs=costs)
            files.write(options.output, picture)
        except OSError as error:
            return fail(EXIT_FAILED, f"the picture could not be written: {error}")
        if not options.json:
            print(f"{tree} is in {options.output}")
    return 0


def _costs(tree: Node, width: int) -> dict[TreePath, float]:
    from pathnas import costs
    from pathnas import tree as trees
    from pathnas.cell import Site
    from pathnas.specs import CellSpec, Conv

    if width < 1:
        raise ValueError(f"--width: expected at least 1 channel, got {width}")
    spec = CellSpec(Conv(width, width))
    # Parameters do not depend on how many positions a stage has.
    sites = [Site(spec, positions) for positions, _ in enumerate(trees.stages(tree), start=1)]
    return {path: cost.parameters for path, cost in costs.edges(tree, sites).items()}


if __name__ == "__main__":
    sys.exit(main())
