"""A module as the expressions that make it and the statements of its ``forward``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pathnas.export.expressions import Arg, Call, Expr, Hole, Infix, literal, sequence
from pathnas.export.expressions import line as on_one_line
from pathnas.export.fusion import children
from pathnas.export.parameters import CLASSES
from pathnas.export.statements import statements

New = Callable[[nn.Module], Expr]


@dataclass(frozen=True)
class Part:
    """A line of a class: what stands before the expression, and whether it is in ``forward``."""

    before: str
    expr: Expr
    forward: bool = False


def parts_of(module: fx.GraphModule, new: New, classifier: nn.Module | None) -> list[Part]:
    """Returns the lines of a traced module's class.

    Args:
        module: whose class it is.
        new: makes the expression of a traced module within it.
        classifier: the linear layer whose outputs are ``num_classes``.

    Raises:
        ValueError: if something in it cannot be written.
    """
    parts = [
        Part(f"self.{name} = ", made(child, new, classifier)) for name, child in children(module)
    ]
    for name, parameter in module.named_parameters(recurse=False):
        start = Call("nn.Parameter", (Arg(_start(name, parameter)),))
        parts.append(Part(f"self.{name} = ", start))
    for name, buffer in module.named_buffers(recurse=False):
        args = Arg(f'"{name}"'), Arg(_start(name, buffer))
        parts.append(Part("", Call("self.register_buffer", args)))
    body = statements(module.graph)
    return [*parts, *(Part(line.before, line.expr, forward=True) for line in body)]


def made(module: nn.Module, new: New, classifier: nn.Module | None) -> Expr:
    """Returns the expression that makes a module; see :func:`parts_of`.

    Raises:
        ValueError: if the module's constructor cannot be found out from its attributes.
    """
    if isinstance(module, fx.GraphModule):
        return new(module)
    if not isinstance(module, nn.Sequential):
        return _constructor(module, is_classifier=module is classifier)
    names = [name for name, _ in children(module)]
    items = [made(child, new, classifier) for _, child in children(module)]
    if names == [str(place) for place in range(len(names))]:
        return Call("nn.Sequential", tuple(map(Arg, items)), broken=len(names) > 1)
    pairs = [
        sequence([literal(name), child], tuple_=True)
        for name, child in zip(names, items, strict=True)
    ]
    entries = Call("", tuple(map(Arg, pairs)), "[]", broken=True)
    return Call("nn.Sequential", (Arg(Call("OrderedDict", (Arg(entries),))),))


def _constructor(module: nn.Module, *, is_classifier: bool) -> Expr:
    """Returns the call that makes one of torch's modules, checked by making it."""
    kind = type(module)
    if getattr(nn, kind.__name__, None) is not kind:
        raise ValueError(f"expected a module of torch.nn, got {kind.__module__}.{kind.__name__}")
    values = _arguments(module)
    signature = inspect.signature(kind).parameters
    args = []
    for name, value in values.items():
        default = signature[name].default
        required = default is inspect.Parameter.empty
        expr = literal(value, name)
        if is_classifier and name == "out_features":
            expr = Hole(value, CLASSES)
        text = None if required else _default_text(default)
        args.append(Arg(expr, None if required else name, text))
    return Call(f"nn.{kind.__name__}", tuple(args))


def _arguments(module: nn.Module) -> dict[str, Any]:
    """Returns the arguments that make a module like this, scalars for tuples of equal numbers."""
    exact = dict(_attributes(module))
    key = str((type(module), exact, _settings(module)))
    if key not in _KNOWN:
        for values in ({name: _scalar(value) for name, value in exact.items()}, exact):
            if _alike(module, values):
                break
        else:
            raise ValueError(
                f"{type(module).__name__}: its arguments cannot be read off it: {module}"
            )
        _KNOWN[key] = values
    return _KNOWN[key]


_KNOWN: dict[str, dict[str, Any]] = {}  # a network has hundreds of modules, but few kinds


def _default_text(default: Any) -> str:
    return str(default) if isinstance(default, int) else on_one_line(literal(default))


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields the constructor's arguments as far as the module keeps them under their names."""
    for name, parameter in inspect.signature(type(module)).parameters.items():
        if name in ("device", "dtype") or not hasattr(module, name):
            continue
        value = getattr(module, name)
        if isinstance(value, Tensor) or (value is None and name == "bias"):
            value = value is not None
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            yield name, value


def _scalar(value: Any) -> Any:
    """Returns the one number of a tuple of equal numbers; anything else as it is."""
    if isinstance(value, tuple) and len(set(value)) == 1 and len(value) > 1:
        return value[0]
    return value


def _alike(module: nn.Module, values: dict[str, Any]) -> bool:
    """Tells whether these arguments make a module with the same settings and shapes."""
    try:
        with torch.device("meta"):  # no weights, and no random numbers drawn
            again = type(module)(**values)
    except (TypeError, ValueError):
        return False
    return _settings(again) == _settings(module)


def _settings(module: nn.Module) -> tuple[object, ...]:
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    plain = (bool, int, float, str, tuple, list, type(None))
    kept = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, plain) and name != "training"
    }
    return shapes, kept, module.extra_repr()


def _start(name: str, tensor: Tensor) -> Expr:
    """Returns the value that a tensor of a class has before weights are loaded.

    What it was born with cannot be known: small random matrices, ones for scales, zeros for
    biases, and an index that leaves everything in its place.
    """
    shape = sequence([literal(size) for size in tensor.shape], tuple_=False)
    dtype = Arg(literal(tensor.dtype), "dtype", "torch.float32")
    if tensor.is_floating_point():
        dtype = Arg("torch.float32", "dtype", "torch.float32")
    elif tensor.dim() == 1 and tensor.dtype != torch.bool:
        return Call("torch.arange", (Arg(literal(len(tensor))),))
    if isinstance(tensor, nn.Parameter) and sum(size > 1 for size in tensor.shape) > 1:
        return Infix("*", "0.02", Call("torch.randn", (Arg(shape),)), 6)
    empty = "zeros" if "bias" in name or "mean" in name else "ones"
    return Call(f"torch.{empty}", (Arg(shape), dtype))
