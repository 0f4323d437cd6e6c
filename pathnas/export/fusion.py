"""Merging a batch norm into the convolution right before it (for eval mode)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Returns the children by name; one that stands in two places comes twice, unlike in torch."""
    return [(name, child) for name, child in module._modules.items() if child is not None]


class _Slot(NamedTuple):
    """Where a module stands."""

    parent: nn.Module
    name: str

    @property
    def module(self) -> nn.Module:
        return self.parent.get_submodule(self.name)


def fuse(model: nn.Module) -> nn.Module:
    """Merges every batch norm whose input is a convolution that nothing else reads, in place.

    Args:
        model: of torch's own modules, ``Sequential`` and ``GraphModule`` only, as
            :func:`pathnas.export.plain` returns.

    Returns:
        The same model.
    """
    seen = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    gone: set[int] = set()
    for first, second in _neighbours(model):
        conv, norm = _last(first), _first(second)
        if conv is None or norm is None or not _legal(conv.module, norm.module):
            continue
        if seen[id(conv.module)] > 1 or seen[id(norm.module)] > 1:
            continue
        mode = conv.module.training
        fused = fuse_conv_bn_eval(conv.module.eval(), norm.module.eval())  # type: ignore[type-var, arg-type]
        setattr(conv.parent, conv.name, fused.train(mode))
        seen[id(fused)] = 1
        left = nn.Identity()
        setattr(norm.parent, norm.name, left)
        gone.add(id(left))
    for module in list(model.modules()):
        _sweep(module, gone)
    return model


def _legal(conv: nn.Module, norm: nn.Module) -> bool:
    return (
        type(conv) in CONVS
        and type(norm) in NORMS
        and norm.running_mean is not None
        and norm.running_var is not None
    )


def _neighbours(model: nn.Module) -> Iterator[tuple[_Slot, _Slot]]:
    """Yields the places of two modules of which the second alone reads the first's output."""
    for module in model.modules():
        if isinstance(module, nn.Sequential):
            slots = [_Slot(module, name) for name, _ in children(module)]
            yield from pairwise(slots)
        elif isinstance(module, fx.GraphModule):
            calls = Counter(str(node.target) for node in module.graph.nodes)
            for node in module.graph.nodes:
                before = node.args[0] if node.op == "call_module" and node.args else None
                if (
                    isinstance(before, fx.Node)
                    and before.op == "call_module"
                    and [*before.users] == [node]
                    and calls[str(before.target)] == calls[str(node.target)] == 1
                ):
                    yield _Slot(module, str(before.target)), _Slot(module, str(node.target))


def _last(slot: _Slot) -> _Slot | None:
    return _end(slot, -1)


def _first(slot: _Slot) -> _Slot | None:
    return _end(slot, 0)


def _end(slot: _Slot, place: int) -> _Slot | None:
    """Returns the place of the first or last module of nested Sequentials; None if one is empty."""
    while isinstance(module := slot.module, nn.Sequential):
        names = [name for name, _ in children(module)]
        if not names:
            return None
        slot = _Slot(module, names[place])
    return slot


def _sweep(module: nn.Module, gone: set[int]) -> None:
    """Removes what the merged norms left behind."""
    names = [name for name, child in children(module) if id(child) in gone]
    if not names:
        return
    if isinstance(module, fx.GraphModule):
        for node in list(module.graph.nodes):
            if node.op == "call_module" and node.target in names:
                node.replace_all_uses_with(node.args[0])
                module.graph.erase_node(node)
        for name in names:
            delattr(module, name)
        module.recompile()
        return
    kept = [(name, child) for name, child in children(module) if name not in names]
    numbered = all(name.isdigit() for name, _ in children(module))
    module._modules.clear()
    for place, (name, child) in enumerate(kept):
        module.add_module(str(place) if numbered else name, child)
