"""What an optimizer remembers, through growth: a law over random growths, and training goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from pathnas import networks, optimizer_state
from pathnas.cell import Cell
from pathnas.growth import transform
from pathnas.layers import Deepen, Widen
from pathnas.specs import CellSpec, Conv
from pathnas.transforms import Branch, Insert, Replace, Transform, grow
from pathnas.tree import Node
from tests.strategies import growths, images, randomize, relative_change, specs

Make = Callable[[Any], Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "sgd, fused": lambda p: SGD(p, lr=0.01, momentum=0.9, fused=True),
    "adam": lambda p: Adam(p, lr=0.01, amsgrad=True),
    "adamw, fused": lambda p: AdamW(p, lr=0.01, fused=True),
}
SPLIT = [Branch((), "concat", 2)]


def train(module: nn.Module, optimizer: Optimizer, x: Tensor, steps: int = 3) -> None:
    module.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (module(x) - x).square().mean().backward()
        optimizer.step()


def network(seed: int = 0) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(3, 5, 1), Cell(CellSpec(Conv(5, 5), "post")), nn.Conv2d(5, 3, 1)
    )
    return module.double(), images(3, seed, torch.float64)


def holding_something_of(module: nn.Module, done: Sequence[Transform]) -> set[str]:
    """The grown network's parameters that are not wholly new, by their contagion."""
    marked = grow(module, [])
    for parameter in marked.parameters():
        parameter.data.fill_(float("nan"))
    return {n for n, value in grow(marked, done).named_parameters() if value.isnan().any()}


@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_copies_get_the_state_of_their_original_and_new_weights_none(
    data: st.DataObject, seed: int
) -> None:
    spec = data.draw(specs())
    done = data.draw(growths(spec))
    cut = data.draw(st.integers(0, len(done)))
    torch.manual_seed(seed)
    cell = grow(Cell(spec), done[:cut])
    randomize(cell, seed)
    # The weights themselves are the state: then the grown network's weights say what is right.
    state = {f"{name}.itself": value.detach() for name, value in cell.named_parameters()}
    carried = optimizer_state.carry(state, cell, done[cut:])
    grown = dict(grow(cell, done[cut:]).named_parameters())
    kept = holding_something_of(cell, done[cut:])
    for name, value in grown.items():
        right = value if name in kept else torch.zeros_like(value)
        assert torch.equal(carried.pop(f"{name}.itself"), right)
    assert not carried


@settings(max_examples=20)
@given(data=st.data())
def test_growing_in_two_parts_carries_what_growing_at_once_does(data: st.DataObject) -> None:
    spec = data.draw(specs())
    done = data.draw(growths(spec))
    cut = data.draw(st.integers(0, len(done)))
    cell = Cell(spec)
    state = {f"{name}.m": torch.randn_like(value) for name, value in cell.named_parameters()}
    state |= {f"{name}.step": torch.tensor(7.0) for name, _ in cell.named_parameters()}
    halfway = optimizer_state.carry(state, cell, done[:cut])
    twice = optimizer_state.carry(halfway, grow(cell, done[:cut]), done[cut:])
    once = optimizer_state.carry(state, cell, done)
    assert twice.keys() == once.keys()
    assert all(torch.equal(twice[key], once[key]) for key in once)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_split_network_trains_on_as_if_it_had_not_been_split(
    make: Make, layout: torch.memory_format
) -> None:
    whole, x = network()
    optimizer = make(whole.parameters())
    train(whole, optimizer, x)
    outputs = []
    for carried in (True, False):
        split = grow(whole, SPLIT).to(memory_format=layout)  # type: ignore[call-overload]
        own = make(split.parameters())
        if carried:
            # By way of a file, as the base network's state goes to a trial.
            saved = load(save(optimizer_state.read(optimizer, whole)))
            optimizer_state.write(own, split, optimizer_state.carry(saved, whole, SPLIT))
        train(split, own, x)
        outputs.append(split.eval()(x))
    train(whole, optimizer, x)
    assert relative_change(whole.eval()(x), outputs[0]) < 1e-12
    assert relative_change(whole.eval()(x), outputs[1]) > 1e-4


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_replicas_begin_alike_and_new_weights_as_in_a_fresh_optimizer(make: Make) -> None:
    before, x = network()
    optimizer = make(before.parameters())
    train(before, optimizer, x)
    done = [Branch((), "add", 3), Insert((1,)), Replace((1, 0), "sep_conv3x3")]
    grown = grow(before, done)
    own, fresh = make(grown.parameters()), make(grown.parameters())
    state = optimizer_state.read(optimizer, before)
    optimizer_state.write(own, grown, optimizer_state.carry(state, before, done))
    keys = {key.rpartition(".")[2] for key in state}
    names = dict(grown.named_parameters())
    for name in ("convs.0.weight", "norm.bias"):
        for key in keys:
            first, *others = (own.state[names[f"1.root.edges.{n}.op.{name}"]][key] for n in "012")
            assert all(torch.equal(first, other) for other in others)
            assert torch.equal(first, state[f"1.root.edges.0.op.{name}.{key}"])
    new = [value for name, value in names.items() if ".child." in name]
    assert len(new) == 4 and not any(t.any() for v in new for t in own.state[v].values())
    loss = (grown.train()(x) - x).square().mean()
    for value, grad in zip(names.values(), torch.autograd.grad(loss, names.values()), strict=True):
        value.grad = grad
    fresh.step()
    own.step()
    for value in new:
        for key in keys:
            assert torch.equal(own.state[value][key], fresh.state[value][key])
    old = names["1.root.edges.0.op.convs.0.weight"]
    assert not torch.equal(*(o.state[old][max(keys - {"step"})] for o in (own, fresh)))


def test_what_is_written_is_what_was_read_and_settings_stay() -> None:
    module, x = network()
    optimizer = Adam([{"params": module[1].parameters()}, {"params": module[0].parameters()}])
    for parameter in module[2].parameters():
        parameter.requires_grad_(False)
    train(module, optimizer, x)
    state = optimizer_state.read(optimizer, module)
    assert len(state) == 3 * 5 and not any(name.startswith("2.") for name in state)
    other = Adam([p for p in module.parameters() if p.requires_grad], lr=0.5)
    optimizer_state.write(other, module, state)
    again = optimizer_state.read(other, module)
    assert again.keys() == state.keys() and other.param_groups[0]["lr"] == 0.5
    assert all(torch.equal(again[key], value) for key, value in state.items())
    state["0.weight.exp_avg"].fill_(1.0)  # a copy, as what is read is
    assert not torch.equal(other.state[module[0].weight]["exp_avg"], state["0.weight.exp_avg"])
    empty = SGD(module.parameters(), lr=0.1)
    train(module, empty, x)
    assert optimizer_state.read(empty, module) == {}


def test_nothing_is_changed_and_no_random_number_drawn() -> None:
    module, _ = network()
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(1)
    drawn = torch.get_rng_state()
    found = optimizer_state.sources(module, [Insert((0,)), Replace((0, 0), "conv1x1")])
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert [part.training for part in module.children()] == [True, False, True]
    assert found["0.weight"].flatten().tolist() == list(range(15))
    assert found["1.root.edges.0.child.edges.0.op.convs.0.weight"].unique().tolist() == [-1]


class Fake:
    """A transform that leaves the tree as it is."""

    def __call__(self, tree: Node) -> Node:
        return tree


class Mix(Fake):
    """Makes weights of several."""

    def __init__(self, other: float) -> None:
        self.other = other

    def _apply(self, cell: Cell, *rest: object) -> None:
        weight = cell.root.edge(0).op.convs[0].weight
        weight.data += self.other * weight.data.flip(0)


@pytest.mark.parametrize("other", [1.0, -1.0, 0.5])
def test_weights_that_are_made_of_several_are_refused(other: float) -> None:
    with pytest.raises(ValueError, match=r"1\.root\.edges\.0\.op\.convs\.0\.weight, where several"):
        optimizer_state.sources(network()[0], [Mix(other)])  # type: ignore[list-item]


class Third(Fake):
    """What a widening does to those that read from the wider layer."""

    def _apply(self, cell: Cell, *rest: object) -> None:
        cell.root.edge(0).op.convs[0].weight.data /= 3


def test_scaled_copies_get_the_state_as_it_is() -> None:
    module, _ = network()
    state = {f"{name}.m": torch.randn_like(value) for name, value in module.named_parameters()}
    carried = optimizer_state.carry(state, module, [Third()])  # type: ignore[list-item]
    assert carried.keys() == state.keys()
    assert all(torch.equal(carried[key], state[key]) for key in state)


def test_wider_and_deeper_layers_keep_it_too() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), Cell(CellSpec(Conv(3, 3)))
    )
    module.append(nn.Conv2d(3, 4, 1)).append(nn.ReLU()).append(nn.Conv2d(4, 2, 1))
    x = torch.randn(4, 1, 8, 8)
    state = {f"{name}.m": torch.randn_like(value) for name, value in module.named_parameters()}
    state |= {f"{name}.step": torch.tensor(7.0) for name, _ in module.named_parameters()}
    done = [Widen("4", 7), Branch((), "add", 2), Deepen("0"), Deepen("4", norm=False)]
    carried = optimizer_state.carry(state, module, done, example=x)
    grown, _ = transform(module, done, images=x)
    shapes = {name: value.shape for name, value in grown.named_parameters()}
    moments = {k.removesuffix(".m"): v for k, v in carried.items() if k.endswith(".m")}
    assert {name: value.shape for name, value in moments.items()} == shapes
    wide = dict(grown.named_parameters())["4.weight"]
    old = list(module[4].weight.flatten(1))
    for row, moment in zip(wide.flatten(1), moments["4.weight"], strict=True):
        [place] = [place for place, one in enumerate(old) if torch.equal(one, row)]
        assert torch.equal(moment, state["4.weight.m"][place])
    new = {name for name in moments if not moments[name].any()}
    assert new == {"2.1.weight", "2.2.weight", "2.2.bias", "5.1.weight", "5.1.bias"}
    assert all(float(carried[f"{name}.step"]) == 7 * (name not in new) for name in moments)
    with pytest.raises(ValueError, match="expected example inputs to follow the channels"):
        optimizer_state.carry(state, module, done)


def test_optimizers_and_states_of_another_network_are_refused() -> None:
    module, x = network()
    stranger = networks.build("chain", channels=1, classes=2, widths=(2,))
    with pytest.raises(ValueError, match="this network's parameters, got one with 7 others of 7"):
        optimizer_state.read(SGD(module.parameters()), stranger)
    optimizer = SGD(module.parameters(), momentum=0.9)
    train(module, optimizer, x, 1)
    state = optimizer_state.read(optimizer, module)
    target = SGD(stranger.parameters(), momentum=0.9)
    message = r"expected the state of this network's parameters, got 0\.weight\.momentum_buffer"
    with pytest.raises(ValueError, match=message):
        optimizer_state.write(target, stranger, state)
    with pytest.raises(ValueError, match=message):
        optimizer_state.carry(state, stranger, SPLIT)
    newton = torch.optim.LBFGS(module.parameters())
    newton.step(lambda: _loss(module, newton, x))
    with pytest.raises(ValueError, match=r"a number for each weight|one number, or one for each"):
        optimizer_state.read(newton, module)


def _loss(module: nn.Module, optimizer: Optimizer, x: Tensor) -> float:
    optimizer.zero_grad()
    loss = (module(x) - x).square().mean()
    loss.backward()
    return float(loss.detach())
