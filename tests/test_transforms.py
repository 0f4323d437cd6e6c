"""Path-level transforms: the laws that make growing safe."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pathnas import training, transforms
from pathnas import tree as trees
from pathnas.cell import Cell, cost, set_gates
from pathnas.ops import OPS
from pathnas.specs import CellSpec, Conv
from pathnas.transforms import Birth, Branch, Insert, Replace, grow, growth
from pathnas.tree import BASE_TREE, Edge, Node
from tests.strategies import growths, images, randomize, relative_change, specs

PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 1e-5)]


def cell_for(spec: CellSpec, seed: int, dtype: torch.dtype) -> Cell:
    torch.manual_seed(seed)
    cell = Cell(spec).to(dtype)
    randomize(cell, seed)
    return cell.eval()


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@settings(max_examples=100)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_a_gated_growth_keeps_the_output_on_any_input(
    dtype: torch.dtype, tolerance: float, data: st.DataObject, seed: int
) -> None:
    spec = data.draw(specs())
    done = data.draw(growths(spec))
    cell = cell_for(spec, seed, dtype)
    x = images(spec.conv.channels_in, seed, dtype)
    grown = grow(cell, done)
    assert relative_change(cell(x), grown(x)) <= tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@settings(max_examples=100)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_post_activation_convolutions_born_hard_keep_non_negative_outputs(
    dtype: torch.dtype, tolerance: float, data: st.DataObject, seed: int
) -> None:
    spec = data.draw(specs())
    spec = CellSpec(spec.conv, "post", False, spec.groups)
    done = [
        t
        for t in data.draw(growths(spec))
        if not (isinstance(t, Replace) and t.op.endswith("pool3x3"))
    ]
    cell = cell_for(spec, seed, dtype)
    x = images(spec.conv.channels_in, seed, dtype)
    try:
        grown = grow(cell, done, Birth("hard"))
    except ValueError:  # a transform hung on the pooling that was left out
        return
    assert relative_change(cell(x), grown(x)) <= tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_a_gated_growth_keeps_the_output_in_train_mode_on_the_calibration_batch(
    dtype: torch.dtype, tolerance: float, data: st.DataObject, seed: int
) -> None:
    spec = data.draw(specs())
    done = data.draw(growths(spec))
    cell = cell_for(spec, seed, dtype).train()
    x = images(spec.conv.channels_in, seed, dtype, size=9)
    training.calibrate(cell, x)
    grown = grow(cell, done)
    assert relative_change(deepcopy(cell)(x), grown(x)) <= tolerance
    assert relative_change(cell.eval()(x), grow(cell, done)(x)) <= 1e-5


@given(data=st.data(), seed=st.integers(0, 10**6))
def test_growing_follows_the_tree_and_its_closed_formulas(data: st.DataObject, seed: int) -> None:
    spec = data.draw(specs())
    done = data.draw(growths(spec))
    cell = Cell(spec)
    expected = cell.tree
    for transform in done:
        expected = transform(expected)
    grown = grow(cell, done)
    assert grown.tree == expected
    assert cost(expected, spec).parameters == sum(p.numel() for p in grown.parameters())
    built = Cell(spec, expected)
    assert {k: v.shape for k, v in built.state_dict().items()} == {
        k: v.shape for k, v in grown.state_dict().items()
    }
    built.load_state_dict(grown.state_dict())
    set_gates(grown, 0.0)
    x = images(spec.conv.channels_in, seed, torch.float32)
    torch.testing.assert_close(built.eval()(x), grown.eval()(x))


@given(data=st.data(), seed=st.integers(0, 10**6))
def test_growing_leaves_its_argument_alone_and_reaches_every_new_weight(
    data: st.DataObject, seed: int
) -> None:
    spec = data.draw(specs())
    done = data.draw(growths(spec))
    cell = cell_for(spec, seed, torch.float64)
    before = deepcopy(cell.state_dict())
    grown = grow(cell, done)
    assert all(torch.equal(before[k], v) for k, v in cell.state_dict().items())
    shared = {p.data_ptr() for p in cell.parameters()} & {p.data_ptr() for p in grown.parameters()}
    assert not shared
    grown.train()(images(spec.conv.channels_in, seed, torch.float64)).square().sum().backward()
    assert all(p.grad is not None for p in grown.parameters())


def test_each_transform_grows_what_it_says() -> None:
    cell = Cell(CellSpec(Conv(4, 6)))
    for transform in (Branch((), "add", 3), Branch((), "concat", 2), Insert((0,))):
        assert transform.grow(cell).tree == transform(cell.tree)
    grown = grow(cell, [Insert((0,)), Replace((0, 0), "conv1x1")])
    assert str(grown.tree) == "base > conv1x1"


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (Branch((0,), "add", 2), "a node with one leaf edge"),
        (Branch((), "add", 1), "n >= 2"),
        (Branch((), "add", 2.0), "a whole n >= 2"),  # type: ignore[arg-type]
        (Branch((), "mean", 2), "merge"),  # type: ignore[arg-type]
        (Branch((3,), "add", 2), "leads nowhere"),
        (Insert(()), "at least one index"),
        (Replace((0,), "conv1x1"), "an edge that is an identity"),
    ],
)
def test_a_transform_that_does_not_fit_says_what_was_expected(
    transform: transforms.Transform, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        transform(BASE_TREE)
    with pytest.raises(ValueError, match=message):
        transform.grow(Cell(CellSpec(Conv(4, 4))))


def test_faults_on_a_cell_name_the_cell_and_the_channels() -> None:
    network = nn.Sequential(nn.Identity(), Cell(CellSpec(Conv(4, 2))))
    with pytest.raises(ValueError, match=r"cell 1: Branch.*at least 3 channels.*got 2"):
        grow(network, [Branch((), "concat", 3)])
    with pytest.raises(ValueError, match=r"unknown operation 'conv9x9'; known: .*conv1x1"):
        grow(network, [Insert((0,)), Replace((0, 0), "conv9x9")])
    with pytest.raises(ValueError, match="network with cells"):
        grow(nn.Linear(1, 1), [Insert((0,))])


def test_a_grouped_convolution_splits_between_its_groups_only() -> None:
    cell = Cell(CellSpec(Conv(4, 6, groups=2)))
    grown = grow(cell, [Branch((), "concat", 2)])
    assert [edge.op.convs[0].groups for edge in grown.root.edges] == [1, 1]
    with pytest.raises(ValueError, match="whole groups of 3, got 6"):
        grow(cell, [Branch((), "concat", 3)])


def test_replacing_after_a_branch_must_not_move_the_borders_of_siblings() -> None:
    cell = Cell(CellSpec(Conv(8, 8), groups=4))  # groups of 2; 8 channels in 3: 3, 3, 2
    done = [Insert((0,)), Branch((0,), "concat", 3)]
    with pytest.raises(ValueError, match="borders of its siblings"):
        grow(cell, [*done, Replace((0, 2), "group_conv3x3")])
    before = [Insert((0,)), Replace((0, 0), "group_conv3x3"), Branch((0,), "concat", 3)]
    widths = [edge.op.convs[0].out_channels for edge in grow(cell, before).node_at((0,)).edges]
    assert widths == [4, 2, 2]


def test_noise_separates_replicas_and_comes_from_its_generator() -> None:
    cell = cell_for(CellSpec(Conv(4, 4)), 0, torch.float32)

    def replicas(seed: int) -> list[torch.Tensor]:
        birth = Birth(noise=6e-3, generator=torch.Generator().manual_seed(seed))
        grown = grow(cell, [Branch((), "add", 3)], birth)
        return [edge.op.convs[0].weight.detach() for edge in grown.root.edges]

    first, second, third = replicas(0)
    original = cell.root.edges[0].op.convs[0].weight.detach()
    assert torch.equal(first, original)
    for replica in (second, third):
        ratio = float((replica - original).std() / original.std())
        assert 4e-3 < ratio < 8e-3
    assert not torch.equal(second, third)
    assert torch.equal(second, replicas(0)[1])
    assert not torch.equal(second, replicas(1)[1])


def test_birth_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="mode must be one of"):
        Birth("soft")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise must be finite"):
        Birth(noise=float("nan"))


def test_growth_leads_to_the_tree_depth_first() -> None:
    inner = Node(
        (Edge("conv1x1", Node((Edge("max_pool3x3"),))), Edge("identity")), "concat", "split"
    )
    tree = Node((Edge("base", inner), Edge("base")), "add", "replicate")
    assert growth(tree) == [
        Branch((), "add", 2),
        Insert((0,)),
        Branch((0,), "concat", 2),
        Replace((0, 0), "conv1x1"),
        Insert((0, 0)),
        Replace((0, 0, 0), "max_pool3x3"),
    ]


@given(data=st.data())
def test_growth_is_the_inverse_of_transforming(data: st.DataObject) -> None:
    spec = data.draw(specs())
    tree = BASE_TREE
    for transform in data.draw(growths(spec)):
        tree = transform(tree)
    again = BASE_TREE
    try:
        steps = growth(tree)
    except ValueError:  # unlike ops below a concat that replicates; the next test says which
        return
    for transform in steps:
        again = transform(again)
    assert again == tree


def test_growth_says_which_trees_cannot_be_grown() -> None:
    unlike = Node((Edge("conv1x1"), Edge("sep_conv3x3")), "concat", "replicate")
    with pytest.raises(ValueError, match=r"concat that replicates .* at \(0,\)"):
        growth(Node((Edge("base", unlike),)))


@pytest.mark.parametrize("path", [3, "ab", (0, 0.5), None])
def test_a_path_is_a_tuple_of_indices(path: object) -> None:
    with pytest.raises(ValueError, match="path must be a tuple of branch indices, got"):
        Insert(path)  # type: ignore[arg-type]
    assert Insert([0, 1]).path == (0, 1)  # type: ignore[arg-type]  # and no list to change later


@pytest.mark.parametrize("name", sorted(OPS))
@pytest.mark.parametrize("activation", ["pre", "post"])
def test_every_operation_is_born_as_an_identity(name: str, activation: str) -> None:
    spec = CellSpec(Conv(3, 6), activation, groups=2)  # type: ignore[arg-type]
    cell = cell_for(spec, 1, torch.float64)
    x = images(3, 1, torch.float64)
    done = [Insert((0,)), *([] if name == "identity" else [Replace((0, 0), name)])]
    grown = grow(cell, done)
    assert relative_change(cell(x), grown(x)) <= 1e-12
    set_gates(grown, 0.0)
    same = relative_change(cell(x), grown(x)) <= 1e-12
    pools = name.endswith("pool3x3")
    assert same is (not pools and (name == "identity" or activation == "post"))
    assert trees.edge_at(grown.tree, (0, 0)).op == name
