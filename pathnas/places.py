"""Where a model can be grafted: its convolutions, and why some cannot become cells."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from pathnas.cell import Cell
from pathnas.ops import Conv
from pathnas.probing import mode
from pathnas.tracing import Surround, Trace, Unproven, has_hooks


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


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns what DataParallel, DistributedDataParallel or torch.compile stand around.

    Raises:
        ValueError: if it is no module, or one that cannot be changed any more.
    """
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, torch.jit.ScriptModule):
            raise ValueError("expected a model in Python, got a ScriptModule: graft its source")
        elif isinstance(model, nn.Module):
            return model
        else:
            raise ValueError(f"expected a torch module, got {type(model).__name__}")


def candidates(model: nn.Module, *, inputs: Tensor | None = None) -> list[Place]:
    """Lists every convolution of a model that is not in a cell yet, in the model's order.

    Args:
        model: any; it stays as it is. Names are those below its wrappers (:func:`unwrapped`).
        inputs: `[B, C, H, W]`; given, one pass in eval mode counts how often each convolution is
            called. Without, torch.fx does, where it can trace the model.

    Returns:
        A place for each name; a convolution under two names has two.

    Raises:
        ValueError: if there is no model, see :func:`unwrapped`.
    """
    model = unwrapped(model)
    leaves = (Cell, _ConvNd)
    traces = [Trace(model, training=training, leaves=leaves) for training in (False, True)]
    counted = None if inputs is None else calls(model, inputs)
    sharers = _sharers(model)
    places = []
    for name, module in convolutions(model).items():
        called = _most_calls(traces, name) if counted is None else counted[name]
        reason = _reason(name, module, sharers[name])
        if reason is None and called is not None and called > 1:
            reason = f"a forward pass calls it {called} times"
        if reason is None and any(trace.reads(name) for trace in traces):
            reason = "the model's code reads its weights directly"
        if reason is not None:
            conv = Conv.of(module) if type(module) is nn.Conv2d else None
            places.append(Place(name, conv, reason, called))
            continue
        assert isinstance(module, nn.Conv2d)
        pre, post = _proven(traces, Trace.before, name), _proven(traces, Trace.after, name)
        places.append(Place(name, Conv.of(module), None, called, pre, post))
    return places


def _most_calls(traces: Sequence[Trace], name: str) -> int | None:
    known = [calls for calls in (trace.calls(name) for trace in traces) if calls is not None]
    return max(known) if len(known) == len(traces) else None


def _proven(
    traces: Sequence[Trace], look: Callable[[Trace, str], Surround], name: str
) -> Surround | str:
    try:
        found = [look(trace, name) for trace in traces]
    except Unproven as error:
        return str(error)
    if any(one != found[0] for one in found):
        return "other modules stand beside it in train mode than in eval mode"
    return found[0]


def convolutions(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the convolutions of any kind outside of cells, by every name that they have."""
    inside = tuple(f"{name}." for name, m in model.named_modules() if isinstance(m, Cell))
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _ConvNd) and not (inside and name.startswith(inside))
    }


@torch.no_grad()
def calls(model: nn.Module, inputs: Tensor) -> dict[str, int]:
    """Counts in one pass in eval mode how often each convolution is called, by name."""
    found = convolutions(model)
    counts: dict[int, int] = defaultdict(int)

    def count(module: nn.Module, args: object, output: object) -> None:
        counts[id(module)] += 1

    hooks = [m.register_forward_hook(count) for m in {id(m): m for m in found.values()}.values()]
    try:
        with mode(model, training=False):
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: counts[id(module)] for name, module in found.items()}


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
