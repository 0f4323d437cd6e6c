"""The paper's trees by name (Cai et al., 2018, section 4)."""

from __future__ import annotations

from pathnas.tree import BASE_OP, Edge, Node


def _add(*branches: Edge) -> Node:
    return Node(branches, "add", "replicate")


def _concat(*branches: Edge) -> Node:
    return Node(branches, "concat", "split")


def _then(op: str, *ops: str) -> Edge:
    """One operation after another."""
    return Edge(op, Node((_then(*ops),)) if ops else Node())


SEP3, SEP5, SEP7 = (Edge(f"sep_conv{k}x{k}") for k in (3, 5, 7))
AVG, CONV1 = Edge("avg_pool3x3"), Edge("conv1x1")

TREES: dict[str, Node] = {
    "treecell_a": _add(
        Edge(
            BASE_OP,
            _add(
                Edge("conv1x1", _concat(AVG, SEP7)),
                Edge("max_pool3x3", _add(SEP3, SEP5)),
            ),
        ),
        Edge(
            BASE_OP,
            _add(
                Edge("sep_conv5x5", _add(SEP5, AVG, AVG)),
                Edge("sep_conv3x3", _add(AVG, SEP3)),
            ),
        ),
    ),
    "treecell_b": _add(
        Edge(
            BASE_OP,
            _add(_then("conv1x1", "sep_conv5x5"), _then("sep_conv7x7", "avg_pool3x3")),
        ),
        Edge(
            BASE_OP,
            _add(
                Edge("avg_pool3x3", _add(SEP7, CONV1)),
                _then("sep_conv7x7", "avg_pool3x3"),
            ),
        ),
    ),
}
"""TreeCell-A, which the paper trains on CIFAR-10, and TreeCell-B, on ImageNet."""
