"""Copies of modules: what deepcopy gives, and nothing shared."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pathnas import networks
from pathnas.cell import Cell
from pathnas.clones import clone
from pathnas.specs import Moments
from pathnas.transforms import grow
from tests.strategies import growths, images, randomize, specs


def storages(module: nn.Module) -> set[int]:
    tensors = [*module.parameters(), *module.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def test_a_network_is_copied_as_deepcopy_does_it() -> None:
    network = networks.build("residual", channels=3, classes=4, widths=(4, 6))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.head.eval()
    network.stem[0].weight.requires_grad_(False)
    network.blocks[0].cell.root.edge(0).moments = Moments(torch.zeros(4), torch.ones(4))
    network.note = {"list": [1, {2}], "same": network.head}
    copy, expected = clone(network), deepcopy(network)
    assert repr(copy) == repr(expected) and not storages(copy) & storages(network)
    assert copy.note["same"] is copy.head and copy.note["list"] == [1, {2}]
    assert copy.note["list"] is not network.note["list"]
    for one, two in zip(copy.modules(), expected.modules(), strict=True):
        assert type(one) is type(two) and one.training == two.training
        assert set(vars(one)) - {"_compiled_call_impl"} == set(vars(two)) - {"_compiled_call_impl"}
    for (name, one), two in zip(copy.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, two) and one.stride() == two.stride(), name
        assert one.requires_grad == two.requires_grad and type(one) is nn.Parameter
    assert len(list(copy.buffers())) == len(list(expected.buffers()))
    x = images(3, 0, torch.float32)
    assert torch.equal(copy.eval()(x), network.eval()(x))


@given(data=st.data(), seed=st.integers(0, 10**6))
def test_a_grown_cell_is_copied_gates_and_all(data: st.DataObject, seed: int) -> None:
    spec = data.draw(specs())
    torch.manual_seed(seed)
    cell = grow(Cell(spec), data.draw(growths(spec)))
    randomize(cell, seed)
    copy = clone(cell)
    assert copy.tree == cell.tree and not storages(copy) & storages(cell)
    x = images(spec.conv.channels_in, seed, torch.float32)
    assert torch.equal(copy(x), deepcopy(cell)(x))


def test_what_occurs_twice_occurs_twice_and_kept_tensors_are_kept() -> None:
    shared = nn.Linear(2, 2)
    tied = nn.Linear(2, 2)
    tied.weight = shared.weight
    module = nn.Sequential(shared, shared, tied)
    copy = clone(module)
    assert copy[0] is copy[1] is not shared and copy[2].weight is copy[0].weight
    assert clone(module, (shared.weight,))[0].weight is shared.weight


class Odd(nn.Module):
    """Copies itself in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.copies = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Odd:
        copy = Odd()
        copy.copies = self.copies + 1
        return copy


def test_classes_and_tensors_with_ways_of_their_own_keep_them() -> None:
    module = nn.Sequential(Odd())
    assert clone(module)[0].copies == 1
    whole: Tensor = torch.arange(6.0)
    module.whole, module.view = whole, whole[2:4]
    copy = clone(module)
    copy.view += 1
    assert torch.equal(whole, torch.arange(6.0)) and torch.equal(copy.view, whole[2:4] + 1)


def test_a_compiled_module_gives_a_copy_that_is_not_compiled() -> None:
    module = nn.Linear(2, 2)
    module._compiled_call_impl = lambda x: 1 / 0
    x = torch.ones(1, 2)
    assert torch.equal(clone(module)(x), nn.functional.linear(x, module.weight, module.bias))
