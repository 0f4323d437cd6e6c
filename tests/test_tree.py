"""Trees as values: paths, canonical form, JSON, graphs."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathnas import tree as trees
from pathnas.tree import BASE_TREE, Edge, Node

NAMES = st.sampled_from(["identity", "conv1x1", "sep_conv3x3", "max_pool3x3"])


def nodes(depth: int = 3) -> st.SearchStrategy[Node]:
    if depth == 0:
        return st.just(Node())
    edge = st.builds(Edge, NAMES, nodes(depth - 1))
    kinds = st.sampled_from([("add", "replicate"), ("concat", "split"), ("concat", "replicate")])
    many = st.builds(
        lambda edges, kind: Node(tuple(edges), *kind), st.lists(edge, min_size=2, max_size=3), kinds
    )
    return st.one_of(st.just(Node()), st.builds(lambda e: Node((e,)), edge), many)


def example() -> Node:
    inner = Node(
        (Edge("conv1x1"), Edge("identity", Node((Edge("max_pool3x3"),)))), "concat", "split"
    )
    return Node((Edge("base", inner), Edge("base")), "add", "replicate")


def test_one_line_and_indented_forms() -> None:
    assert str(BASE_TREE) == "base"
    assert str(example()) == "add(base > concat(conv1x1, identity > max_pool3x3), base)"
    assert trees.indented(example()).splitlines() == [
        "cell  [add]",
        "├─ base  [concat]",
        "│  ├─ conv1x1",
        "│  └─ identity",
        "│     └─ max_pool3x3",
        "└─ base",
    ]


def test_paths_address_edges_and_nodes() -> None:
    tree = example()
    assert trees.edge_at(tree, (0, 1, 0)).op == "max_pool3x3"
    assert trees.node_at(tree, ()) is tree
    assert trees.node_at(tree, (0,)).merge == "concat"
    assert trees.depth(tree) == 3
    assert [path for path, _ in trees.walk(tree)] == [(0,), (0, 0), (0, 1), (0, 1, 0), (1,)]


@pytest.mark.parametrize("path", [(2,), (0, 2), (1, 0), (-1,)])
def test_a_path_that_leads_nowhere_is_named(path: trees.Path) -> None:
    with pytest.raises(ValueError, match="leads nowhere"):
        trees.edge_at(example(), path)


def test_the_root_is_no_edge() -> None:
    with pytest.raises(ValueError, match="at least one index"):
        trees.edge_at(example(), ())


@pytest.mark.parametrize(
    "arguments",
    [
        ((), "add", "replicate"),
        ((Edge("base"),), "add", None),
        ((Edge("base"), Edge("base")), None, None),
        ((Edge("base"), Edge("base")), "mean", "replicate"),
        ((Edge("base"), Edge("base")), "add", "split"),
        ((Edge("base"), Edge("base")), "concat", None),
    ],
)
def test_nodes_whose_merge_does_not_fit_are_refused(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="got"):
        Node(*arguments)


@given(nodes())
def test_json_round_trip(tree: Node) -> None:
    assert trees.from_json(trees.to_json(tree)) == tree


@given(nodes(), nodes())
def test_lines_are_as_distinct_as_trees(a: Node, b: Node) -> None:
    assert (str(a) == str(b)) == (a == b)
    assert a != b or hash(a) == hash(b)


@given(nodes())
def test_canonical_is_idempotent_and_never_larger(tree: Node) -> None:
    once = trees.canonical(tree)
    assert trees.canonical(once) == once
    assert len(list(trees.walk(once))) <= len(list(trees.walk(tree)))


def test_canonical_sorts_add_keeps_concat_and_drops_lone_identities() -> None:
    a, b = Edge("base", Node((Edge("conv1x1"),))), Edge("base")
    assert trees.key(Node((a, b), "add", "replicate")) == trees.key(
        Node((b, a), "add", "replicate")
    )
    assert trees.key(Node((a, b), "concat", "replicate")) != trees.key(
        Node((b, a), "concat", "replicate")
    )
    idle = Node((Edge("base", Node((Edge("identity"),))),))
    assert trees.canonical(idle) == BASE_TREE
    chained = Node((Edge("base", Node((Edge("identity", Node((Edge("conv1x1"),))),))),))
    assert trees.key(chained) == "base > conv1x1"


def test_with_edge_changes_one_place_only() -> None:
    changed = trees.with_edge(example(), (0, 1, 0), Edge("avg_pool3x3"))
    assert str(changed) == str(example()).replace("max_pool3x3", "avg_pool3x3")
    assert trees.with_node(example(), (), BASE_TREE) == BASE_TREE


def test_networkx_has_every_edge_with_its_op() -> None:
    graph = trees.to_networkx(example())
    assert nx.is_arborescence(graph)
    assert graph.nodes[()]["merge"] == "add"
    assert graph.edges[(0,), (0, 1)] == {"op": "identity", "position": 1}
    assert graph.number_of_edges() == 5


def test_hashes_do_not_travel_between_processes() -> None:
    code = (
        "import pickle, sys; from pathnas.tree import *;"
        "sys.stdout.buffer.write(pickle.dumps(Node((Edge('base', Node((Edge('conv1x1'),))),))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    tree = pickle.loads(done.stdout)
    assert tree in {Node((Edge("base", Node((Edge("conv1x1"),))),))}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "expected a mapping"),
        ({"edges": 3}, "edges must be a list"),
        ({"edges": [{"op": 3}]}, r"edge \(0,\): op must be a name"),
        ({"edges": [{"op": "base", "width": 3}]}, "unknown keys"),
        ({"edges": [{"op": "base"}], "merge": "add"}, r"node \(\): a node with 1 edges"),
        ({"edges": [{"op": "a"}] * 2, "merge": [], "allocation": "split"}, r"node \(\)"),
        ({"edges": [{"op": "a"}] * 200_000, "merge": "add"}, "at most 100000 edges"),
    ],
)
def test_data_that_is_no_tree_is_refused_with_its_place(data: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trees.from_dict(data)


def test_text_that_is_too_deep_or_no_json_is_refused() -> None:
    deep = '{"edges":[{"op":"a","child":' * 100 + "{}" + "}]}" * 100
    with pytest.raises(ValueError, match="at most 64 edges deep"):
        trees.from_json(deep)
    with pytest.raises(ValueError, match="at most 64 edges deep"):
        trees.from_json("[" * 100_000)
    with pytest.raises(json.JSONDecodeError):
        trees.from_json("{")


def test_pickle_round_trip() -> None:
    assert pickle.loads(pickle.dumps(example())) == example()


def test_a_path_that_leads_nowhere_is_named_whole():
    for change in (trees.with_node(BASE_TREE, (0,), Node((Edge("identity"),))), BASE_TREE):
        with pytest.raises(
            ValueError, match=r"path \(0, 5\) leads nowhere: the node at \(0,\) has"
        ):
            trees.with_node(change, (0, 5), Node())
