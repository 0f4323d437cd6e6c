"""Where a model can be grafted: its convolutions, and why some cannot become cells."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from pathnas.cell import Cell
from pathnas.probing import mode
from pathnas.specs import Conv
from pathnas.tracing import Surround, Trace, Unproven, has_hooks, traces
from pathnas.wrappers import unwrapped


@dataclass(frozen=True)
class Place:
    """A convolution of a model.

    Attributes:
        name: of its module.
        conv: what it is; None if it is none of two dimensions.
        reason: why it cannot become a cell; None: it can.
        calls: how often a forward pass calls it, in the mode that does so more often; None: not
            known.
        pre: what a pre-activation cell could absorb before it, if torch.fx proves that it serves
            nothing else; otherwise why not.
        post: what a post-activation cell could absorb after it; otherwise why not.
    """

    name: str
    conv: Conv | None
    reason: str | None = None
    calls: int | None = None
    pre: Surround | str = ""
    post: Surround | str = ""

    def __str__(self) -> str:
        if self.reason is not None or self.conv is None:
            return f"{self.name}: cannot be grafted: {self.reason}"
        absorbs = [
            f"; {order}-activation, it could absorb {one.norm}"
            for order, one in (("pre", self.pre), ("post", self.post))
            if isinstance(one, Surround)
        ]
        conv = self.conv
        words = [f"kernel {conv.kernel}", f"stride {conv.stride}", f"groups {conv.groups}"]
        channels = f"{conv.channels_in} -> {conv.channels_out} channels"
        return f"{self.name}: {', '.join([channels, *words])}{''.join(absorbs)}"


def candidates(model: nn.Module, *, inputs: Tensor | None = None) -> list[Place]:
    """Lists every convolution of a model that is not in a cell yet, in the model's order.

    Args:
        model: any; it stays as it is. Names are those below its wrappers (see
            :func:`pathnas.wrappers.unwrapped`).
        inputs: `[B, C, H, W]`; given, one pass in eval mode counts how often each convolution is
            called. Without, torch.fx does, where it can trace the model.

    Returns:
        A place for each name; a convolution under two names has two.

    Raises:
        ValueError: if there is no model, see :func:`pathnas.wrappers.unwrapped`.
    """
    model = unwrapped(model)
    found = traces(model, LEAVES)
    modules = convolutions(model)
    counted = None if inputs is None else _counted(model, modules, inputs)
    sharers = _sharers(model)
    places = []
    for name, module in modules.items():
        called = _most_calls(found, name) if counted is None else counted[name]
        reason = _reason(name, module, sharers[name])
        if reason is None and called is not None and called > 1:
            reason = f"a forward pass calls it {called} times"
        if reason is None and any(trace.reads(name) for trace in found):
            reason = "the model's code reads its weights directly"
        if reason is not None:
            conv = Conv.of(module) if type(module) is nn.Conv2d else None
            places.append(Place(name, conv, reason, called))
            continue
        assert isinstance(module, nn.Conv2d)
        pre, post = (_proven(found, look, name) for look in (Trace.before, Trace.after))
        places.append(Place(name, Conv.of(module), None, called, pre, post))
    return places


LEAVES = (Cell, _ConvNd)
"""What counts as one call when a model is traced."""


def check_calls(grafted: nn.Module, places: Iterable[Place], inputs: Tensor | None) -> None:
    """Checks that a grafted model calls its cells as often as it called the convolutions.

    It does not if its code calls them by other ways than their names, such as a list, or asks
    them for what a cell has not.

    Args:
        grafted: stays as it is.
        places: the convolutions that cells have replaced; those of unknown calls are left out.
        inputs: by which the calls were counted, see :func:`candidates`.

    Raises:
        ValueError: if it does not.
    """
    found = traces(grafted, LEAVES)
    cells = {name: m for name, m in grafted.named_modules() if isinstance(m, Cell)}
    try:
        counted = None if inputs is None else _counted(grafted, cells, inputs)
    except Exception as error:  # the model's own, which ran before the cells came
        raise ValueError(f"the model's code cannot use a cell: {error!r}") from error
    for place in places:
        now = _most_calls(found, place.name) if counted is None else counted[place.name]
        if place.calls is not None and now != place.calls:
            why = found[0].failure or found[1].failure or f"it calls it {now} times"
            raise ValueError(f"{place.name}: the model's code cannot use a cell for it: {why}")


def _most_calls(traced: Iterable[Trace], name: str) -> int | None:
    counts = [trace.calls(name) for trace in traced]
    return None if None in counts else max(count for count in counts if count is not None)


def _proven(
    traced: Iterable[Trace], look: Callable[[Trace, str], Surround], name: str
) -> Surround | str:
    try:
        first, second = (look(trace, name) for trace in traced)
    except Unproven as error:
        return str(error)
    return first if first == second else "other modules stand beside it in train mode"


def convolutions(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the convolutions of any kind outside of cells, by every name that they have."""
    inside = tuple(f"{name}." for name, m in model.named_modules() if isinstance(m, Cell))
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _ConvNd) and not (inside and name.startswith(inside))
    }


@torch.no_grad()
def _counted(model: nn.Module, modules: Mapping[str, nn.Module], inputs: Tensor) -> dict[str, int]:
    """How often one pass in eval mode calls some modules, by name."""
    counts: dict[int, int] = defaultdict(int)

    def count(module: nn.Module, args: object, output: object) -> None:
        counts[id(module)] += 1

    distinct = {id(module): module for module in modules.values()}
    hooks = [module.register_forward_hook(count) for module in distinct.values()]
    try:
        with mode(model, training=False):
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: counts[id(module)] for name, module in modules.items()}


def _sharers(model: nn.Module) -> Mapping[str, list[str]]:
    """By a module's name, the other modules that share it or one of its parameters."""
    owners: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)].append(name.rpartition(".")[0])
    sharers: dict[str, list[str]] = defaultdict(list)
    for names in owners.values():
        for name in names:
            sharers[name] += [other for other in names if other not in (name, *sharers[name])]
    return sharers


def _reason(name: str, module: nn.Module, sharers: list[str]) -> str | None:
    kind = type(module).__name__
    if isinstance(module, LazyModuleMixin):
        return f"it is a {kind} without weights yet: run the model once"
    if not isinstance(module, nn.Conv2d):
        return f"it is a {kind}, no Conv2d"
    if not name:
        return "it is the whole model: put it into a Sequential"
    if sharers:
        return f"it is the same as {sharers[0]}, or shares its weights"
    if is_parametrized(module):
        return "its weight is parametrized (as by weight norm): remove the parametrization"
    if has_hooks(module):
        return "it has hooks (as of pruning, or a reader of features): remove them"
    if _own_call(module):
        return f"its forward is its own, not Conv2d's ({kind})"
    tensors = (*module.named_parameters(), *module.named_buffers())
    names = {key for key, _ in tensors}
    if not names <= {"weight", "bias"} or "weight" not in names or list(module.children()):
        return f"it has other tensors than weight and bias ({kind})"
    if not module.weight.is_floating_point():
        return f"its weight is of {module.weight.dtype}, no floating point"
    return None


def _own_call(module: nn.Conv2d) -> bool:
    methods = ("forward", "_conv_forward", "__call__")
    return any(
        name in vars(module)
        or inspect.getattr_static(type(module), name) is not inspect.getattr_static(nn.Conv2d, name)
        for name in methods
    )
