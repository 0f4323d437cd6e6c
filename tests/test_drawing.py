from __future__ import annotations

import random
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnas import drawing, ops
from pathnas import tree as trees
from pathnas.surrogate import Surrogate
from pathnas.tree import BASE_OP, BASE_TREE, Edge, Node

LAW = settings(deadline=None, derandomize=True, max_examples=20)


def full(levels, names, merges=("add", "concat")):
    """A tree with three branches at every node."""
    rng = random.Random(0)

    def node(level):
        if level > levels:
            return Node()
        edges = tuple(
            Edge(BASE_OP if level == 1 else rng.choice(names), node(level + 1)) for _ in range(3)
        )
        merge = rng.choice(merges)
        return Node(edges, merge, "split" if merge == "concat" and level > 1 else "replicate")

    return node(1)


LARGEST = full(3, sorted(ops.OPS))


def boxes(figure, kind):
    """The extents in pixels of the operations' names, or of the nodes' merges."""
    renderer = figure.canvas.get_renderer()
    texts = [text for axes in figure.axes for text in axes.texts if text.get_bbox_patch()]
    merges = {"add", "concat"}
    return [
        (text, text.get_bbox_patch().get_window_extent(renderer))
        for text in texts
        if (text.get_text() in merges) == (kind == "nodes")
    ]


def drawn(*arguments, **options):
    figure = drawing.draw(*arguments, **options)
    figure.canvas.draw()
    return figure


def test_every_edge_shows_its_op_in_its_colour():
    figure = drawn(LARGEST)
    names = [text.get_text() for text, _ in boxes(figure, "edges")]
    assert names == [edge.op for _, edge in trees.walk(LARGEST)]
    for text, _ in boxes(figure, "edges"):
        frame = mpl.colors.to_hex(text.get_bbox_patch().get_edgecolor())
        assert frame == drawing.STROKES[text.get_text()].colour.lower()


def test_every_merge_is_shown_and_a_split_has_a_dashed_frame():
    figure = drawn(LARGEST)
    nodes = [LARGEST] + [edge.child for _, edge in trees.walk(LARGEST)]
    wanted = sorted((n.merge, "--" if n.allocation == "split" else "-") for n in nodes if n.merge)
    found = [(t.get_text(), t.get_bbox_patch().get_linestyle()) for t, _ in boxes(figure, "nodes")]
    assert sorted(found) == wanted and {kind for _, kind in found} == {"-", "--"}


def test_no_two_strokes_are_alike():
    assert len(set(drawing.STROKES.values())) == len(drawing.STROKES)
    assert set(ops.OPS) | {BASE_OP} <= set(drawing.STROKES)


@pytest.mark.parametrize("size", [None, (720, 480), (1200, 700)])
@pytest.mark.parametrize(
    "tree", [LARGEST, Surrogate().best_tree, BASE_TREE], ids=["largest", "best", "base"]
)
def test_nothing_overlaps_and_all_lies_in_the_picture(tree, size):
    figure = drawn(tree, size=size, title="op at (0,)?")
    found = [box for kind in ("edges", "nodes") for _, box in boxes(figure, kind)]
    for index, box in enumerate(found):
        assert not any(box.overlaps(other) for other in found[index + 1 :])
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1


def test_names_are_readable_at_depth_3_with_3_branches():
    figure = drawn(LARGEST, size=(720, 480))
    assert min(text.get_fontsize() for text, _ in boxes(figure, "edges")) >= 6


def yellow(picture):
    colour = [round(255 * part) for part in mpl.colors.to_rgb(drawing.FOCUS)]
    return int((np.abs(picture.astype(int) - colour).max(axis=-1) < 8).sum())


@pytest.mark.parametrize("focus", [(), (0,), (0, 1)])
def test_focus_is_marked(focus):
    tree = Surrogate().best_tree
    assert yellow(drawing.rgb(tree)) == 0
    assert yellow(drawing.rgb(tree, focus=focus)) > 100


def test_focus_that_leads_nowhere():
    with pytest.raises(ValueError, match=r"path \(5,\) leads nowhere"):
        drawing.draw(BASE_TREE, focus=(5,))


def test_title_is_shown_as_it_stands():
    figure = drawn(BASE_TREE, title="a $title$ with_signs")
    assert next(text.get_text() for text in figure.axes[0].texts) == "a $title$ with_signs"


@given(width=st.integers(1, 900), height=st.integers(1, 700))
@LAW
def test_picture_has_the_size_that_was_asked(width, height):
    picture = drawing.rgb(BASE_TREE, (width, height))
    assert picture.shape == (height, width, 3) and picture.dtype == np.uint8


def test_picture_is_deterministic_and_owned():
    one, two = drawing.rgb(LARGEST), drawing.rgb(LARGEST)
    assert (one == two).all() and one.flags.owndata and one.flags.writeable
    assert (one != drawing.rgb(BASE_TREE)).any()


@pytest.mark.parametrize("size", [(0, 10), (10, -1)])
def test_size_must_be_positive(size):
    with pytest.raises(ValueError, match="at least 1 pixel, got size="):
        drawing.rgb(BASE_TREE, size)


def test_trees_from_elsewhere_can_be_drawn():
    odd = Node((Edge(BASE_OP, Node((Edge("an_op_of_$users$"),) * 5, "concat", "replicate")),))
    assert drawing.rgb(odd).shape == (480, 720, 3)
    assert drawing.rgb(Node()).shape == (480, 720, 3)


def test_figure_can_be_saved(tmp_path):
    for kind in ("png", "svg", "pdf"):
        path = tmp_path / f"tree.{kind}"
        drawing.draw(LARGEST).savefig(path)
        assert path.stat().st_size > 1000


def test_matplotlib_is_imported_late_and_pyplot_never():
    code = (
        "import sys; from pathnas import drawing, tree\n"
        "assert 'matplotlib' not in sys.modules\n"
        "drawing.rgb(tree.BASE_TREE)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def widths(figure):
    """Line widths of the edges, in the order of their paths."""
    return [line.get_linewidth() for line in figure.axes[0].lines if line.get_zorder() == 1]


def test_an_edge_is_the_wider_the_more_its_operation_costs():
    paths = [path for path, _ in trees.walk(LARGEST)]
    costs = {path: float(n) for n, path in enumerate(paths)}
    found = widths(drawing.draw(LARGEST, costs=costs))
    assert found == sorted(found) and (found[0], found[-1]) == drawing.WIDTHS
    assert set(widths(drawing.draw(LARGEST))) == {drawing.WIDTH}
    assert set(widths(drawing.draw(LARGEST, costs=dict.fromkeys(paths, 0)))) == {drawing.WIDTHS[0]}


@pytest.mark.parametrize("costs", [{}, {(0,): -1.0}, {(0,): float("nan")}])
def test_every_edge_needs_a_cost(costs):
    with pytest.raises(ValueError, match=r"at least 0 for every edge, got .* at \(0,\)"):
        drawing.draw(BASE_TREE, costs=costs)


@pytest.mark.parametrize(("kind", "begins"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_files_of_equal_trees_are_equal_and_small(kind, begins):
    one, two = drawing.render(LARGEST, kind), drawing.render(LARGEST, kind)
    assert one == two and one.startswith(begins) and len(one) < 250_000
    assert one != drawing.render(BASE_TREE, kind)


def test_a_kind_of_picture_that_is_unknown():
    with pytest.raises(ValueError, match=r"expected a kind of picture of .*, got 'gif'"):
        drawing.render(BASE_TREE, "gif")


def contrast(colour):
    """Of a colour to white paper, by WCAG's formula."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 1.05 / (0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2] + 0.05)


def test_every_stroke_can_be_seen_on_paper():
    for name, stroke in drawing.STROKES.items():
        assert contrast(mpl.colors.to_rgb(stroke.colour)) > 2, name
