"""Tracing the ``forward`` of one module by torch.fx."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

MOST_BRANCHES = 100


class _Undecided(Exception):
    """A value that decides what ``forward`` does is not known yet."""

    def __init__(self, graph: fx.Graph, node: fx.Node) -> None:
        self.graph = graph
        self.node = node


class _Tracer(fx.Tracer):
    """Traces one module's ``forward``.

    Args:
        through: whether to go into its children too.
        folds: whether what is computed of parameters alone is computed now, and kept as a tensor.
        answers: to the questions of control flow, in order; None: such questions are errors.
    """

    def __init__(
        self, through: bool = False, folds: bool = False, answers: list[bool] | None = None
    ) -> None:
        super().__init__(param_shapes_constant=True)
        self.through = through
        self.folds = folds
        self.answers = answers
        self.asked = 0

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tells whether a module is called as a whole."""
        return not self.through or super().is_leaf_module(m, module_qualified_name)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Hands out a parameter itself where computations with it are folded."""
        return attr_val if self.folds else super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Answers a question of control flow."""
        if self.answers is None:
            return super().to_bool(obj)
        self.asked += 1
        if self.asked > len(self.answers):
            raise _Undecided(self.graph, obj.node)
        return self.answers[self.asked - 1]


def trace(module: nn.Module, *, through: bool, inputs: tuple[Any, ...] | None = None) -> fx.Graph:
    """Returns the graph of a module's ``forward`` with its defaults filled in.

    Args:
        module: in eval mode.
        through: whether to trace its children too; otherwise they are called as wholes.
        inputs: what it is called with; given, they decide control flow, as in ``torch.jit.trace``.

    Raises:
        RuntimeError, TypeError, NameError, fx.proxy.TraceError: if it cannot be traced.
    """
    defaults = {
        parameter.name: parameter.default
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.default is not parameter.empty
    }
    try:
        graph = _decided(module, defaults, inputs, through=through)
    except RuntimeError:  # the likes of `len(self.weight)`
        graph = _decided(module, defaults, inputs, through=through, folds=True)
    _erase_inputs(graph, len(defaults))
    for node in reversed(list(graph.nodes)):  # what was asked for a decision alone
        if not node.users and node.op == "call_function" and _is_pure(node.target):
            graph.erase_node(node)
    return graph


def _decided(
    module: nn.Module,
    defaults: Mapping[str, Any],
    inputs: tuple[Any, ...] | None,
    *,
    through: bool,
    folds: bool = False,
) -> fx.Graph:
    """Traces again for every question of control flow, each time with one answer more."""
    answers: list[bool] | None = None if inputs is None else []
    while True:
        try:
            return _Tracer(through, folds, answers).trace(module, concrete_args={**defaults})
        except _Undecided as question:
            assert answers is not None and inputs is not None
            if len(answers) >= MOST_BRANCHES:
                raise TypeError(f"it branches more than {MOST_BRANCHES} times") from None
            answers.append(bool(_value(question.node, module, inputs)))


@torch.no_grad()
def _value(node: fx.Node, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """Returns what a node of an unfinished graph computes of the inputs."""
    fed = iter(inputs)
    values: dict[fx.Node, Any] = {}
    for step in node.graph.nodes:
        args, kwargs = fx.map_arg((step.args, step.kwargs), lambda other: values[other])
        match step.op:
            case "placeholder":
                values[step] = next(fed, None)
            case "get_attr":
                values[step] = attribute(module, str(step.target))
            case "call_module":
                values[step] = module.get_submodule(str(step.target))(*args, **kwargs)
            case "call_method":
                values[step] = getattr(args[0], str(step.target))(*args[1:], **kwargs)
            case _:
                values[step] = step.target(*args, **kwargs)
        if step is node:
            break
    return values[node]


def attribute(module: nn.Module, target: str) -> Any:
    """Returns what stands at a dotted name."""
    return operator.attrgetter(target)(module)


def _is_pure(target: Any) -> bool:
    name = getattr(target, "__name__", "")
    pure = getattr(operator, name, None) is target and name not in ("setitem", "delitem")
    return target is getattr or (pure and not name.startswith("i"))


def _erase_inputs(graph: fx.Graph, optional: int) -> None:
    """Erases the inputs that have defaults, and the assertions that tracing made of them."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node in inputs[len(inputs) - optional :]:
        if str(node.target).startswith("*"):
            raise TypeError(f"expected inputs with names, got {node.target}")
        for user in [*node.users]:
            for last in [*user.users]:
                graph.erase_node(last)
            graph.erase_node(user)
        graph.erase_node(node)


@torch.no_grad()
def recorded(model: nn.Module, example: Tensor) -> dict[int, tuple[Any, ...]]:
    """Returns what every module is called with first, by the module's id, for one input."""
    found: dict[int, tuple[Any, ...]] = {}

    def record(module: nn.Module, args: tuple[Any, ...]) -> None:
        found.setdefault(id(module), tuple(map(_copied, args)))

    hooks = [module.register_forward_pre_hook(record) for module in model.modules()]
    try:
        model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _copied(value: Any) -> Any:
    """Returns a copy of a tensor, which the model may change in place after the call."""
    if isinstance(value, Tensor):
        return value.clone()
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value
