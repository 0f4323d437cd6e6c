"""CondenseNet: the paper's cost, residual cells, and its deployed form."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from pathnas import networks, scheduled
from pathnas.cell import cells
from pathnas.networks.learned_group import LearnedGroupConv, condensed
from pathnas.transforms import Insert, Replace, grow, growth
from pathnas.tree import BASE_TREE
from pathnas.treecells import TREES
from tests.strategies import TINY, images, randomize, relative_change

B = TREES["treecell_b"]


def tiny(**options: object) -> nn.Module:
    return networks.build(
        "condensenet", channels=1, classes=3, **{**TINY["condensenet"], **options}
    )


def advance(network: nn.Module, progress: float) -> None:
    for part in scheduled.parts(network):
        part.advance(progress)


def test_with_treecell_b_it_has_the_papers_cost() -> None:
    options = dict(channels=3, classes=1000, deployed=True)
    network = networks.sketch("condensenet", tree=B, **options)
    assert networks.macs(network, (3, 224, 224)) == 594_212_672  # the paper: 594 M
    assert networks.parameters(network) == 5_628_600
    base = networks.sketch("condensenet", **options)
    assert networks.macs(base, (3, 224, 224)) == 386_584_384
    assert [cell.spec.conv.channels_out for cell in cells(base).values()] == (
        [32] * 6 + [64] * 7 + [128] * 6
    )


def test_the_last_layers_of_the_stages_hold_the_cells() -> None:
    network = tiny(layers=(2, 3), cells=(1, 2), growth=(4, 6))
    assert list(cells(network)) == ["layers.1.cell", "layers.4.cell", "layers.5.cell"]
    assert all(cell.spec.residual for cell in cells(network).values())


def test_what_grows_at_a_root_is_normalized_added_and_halved() -> None:
    network = tiny(tree=B)
    randomize(network, 0)
    for cell in cells(network.eval()).values():
        x = torch.randn(2, cell.spec.conv.channels_in, 5, 5)
        by_hand = []
        for edge in cell.root.edges:
            base = edge.op(x)
            by_hand.append((base + edge.norm(edge.child(base))) / 2)
        torch.testing.assert_close(cell(x), sum(by_hand) / 2)


def test_identities_alone_have_no_norm_and_the_first_operation_brings_it() -> None:
    network = tiny()
    first = grow(network, [Insert((0,))])
    assert networks.parameters(first) == networks.parameters(network)
    second = grow(first, [Replace((0, 0), "avg_pool3x3")])
    widths = [cell.spec.conv.channels_out for cell in cells(network).values()]
    assert networks.parameters(second) == networks.parameters(first) + 2 * sum(widths)


def test_its_shape_of_deployment_is_that_of_a_trained_network() -> None:
    network = tiny(tree=B).double()
    randomize(network, 1)
    x = images(1, 0, torch.float64, size=8)
    for progress in (0.0, 0.5, 1.0):
        advance(network, progress)
    network.eval()
    deployed = condensed(network)
    assert relative_change(network(x), deployed(x)) <= 1e-12
    assert not any(isinstance(m, LearnedGroupConv) for m in deployed.modules())
    built = tiny(tree=B, deployed=True).double().eval()
    built.load_state_dict(deployed.state_dict())
    assert torch.equal(built(x), deployed(x))
    grown, again = (grow(n, growth(B)) for n in (tiny(), tiny(deployed=True)))
    assert grown(x.float()).shape == again(x.float()).shape


def test_growing_and_condensing_can_come_in_either_order() -> None:
    torch.manual_seed(0)
    base = tiny().double()
    randomize(base, 2)
    x = images(1, 0, torch.float64, size=8)
    advance(base.eval(), 1.0)
    first = condensed(grow(base, growth(B)))
    second = grow(condensed(base), growth(B))
    assert relative_change(base(x), first(x)) <= 1e-10
    assert relative_change(first(x), second(x)) <= 1e-12


def test_condensing_leaves_its_argument_alone() -> None:
    network = tiny()
    advance(network, 1.0)
    before = deepcopy(network.state_dict())
    deployed = condensed(network)
    with torch.no_grad():
        for parameter in deployed.parameters():
            parameter.fill_(7.0)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(growth=(4,)), "must name the same stages, got 2, 1 and 2"),
        (dict(cells=(0, 0)), r"cells must be one or more, .* got \(0, 0\) for \(1, 2\) layers"),
        (dict(cells=(2, 2)), r"no more than the layers of a stage, got \(2, 2\)"),
        (dict(learned_groups=5), "groups must divide the outputs, got 5 for 16"),
        (dict(groups=4), "groups must divide the channels"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_the_base_tree_is_the_plain_network() -> None:
    network = tiny()
    assert {cell.tree for cell in cells(network).values()} == {BASE_TREE}
    assert "norm" not in dict(cells(network)["layers.2.cell"].root.edges[0].named_children())
