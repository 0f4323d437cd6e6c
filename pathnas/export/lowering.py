"""From a network with cells to ordinary torch modules.

What torch itself defines is kept as it is. Every other module becomes a :class:`torch.fx.
GraphModule` of its own ``forward``, traced with its children left whole, so the parts of a network
keep their names. A cell, or an operation outside of one, is traced through and through: gates,
nodes of one branch and identities leave nothing in the graph, and convolution, norm and activation
in a row become a ``Sequential``.
"""

from __future__ import annotations

import inspect
import keyword
import re
from collections import OrderedDict
from copy import deepcopy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from pathnas import ops, probing
from pathnas.cell import Cell
from pathnas.export import tracing
from pathnas.export.fusion import children
from pathnas.export.fusion import fuse as fuse_norms
from pathnas.wrappers import unwrapped

FLATTENED = (Cell, ops.Primitive)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def plain(model: nn.Module, *, fuse: bool = False, example: Tensor | None = None) -> nn.Module:
    """Returns the model as ordinary torch modules, with nothing of pathnas in it.

    The result computes what the model computes in eval mode, shares no tensor with it, and has its
    device, dtypes and mode. Modules of torch itself still know train mode (batch norm, dropout);
    what a ``forward`` of one's own does in train mode alone (DropPath, auxiliary outputs) is gone.
    A gate that is not yet at 0 is folded into what it computes now: at 1 its function is gone,
    an activation on the way becomes a leaky one. What a model does not call in eval mode is left
    out.

    Args:
        model: any module; its cells are flattened. ``DataParallel`` and ``torch.compile`` are
            unwrapped.
        fuse: whether a batch norm right behind a convolution is merged into it. The result is for
            eval mode alone.
        example: an input. Where a ``forward`` asks for shapes or values to decide what to do, it
            is decided as for this input; without, such a ``forward`` is refused.

    Raises:
        ValueError: if a module cannot be traced, has hooks, or calls functions of pathnas.
    """
    copied = deepcopy(unwrapped(model))
    _refuse_hooks(copied)
    copied = _without_gates(copied)
    modes = {id(module): module.training for module in copied.modules()}
    with probing.mode(copied, training=False):
        inputs = tracing.recorded(copied, example) if example is not None else {}
        lowered = _Lowering(modes, inputs).lower(copied, "")
    for name, module in lowered.named_modules():
        if type(module).__module__.split(".")[0] == "pathnas":
            raise ValueError(
                f"module {name or 'model'}: {type(module).__name__} cannot be flattened"
            )
    return fuse_norms(lowered) if fuse else lowered


def _place(name: str) -> str:
    return f"module {name.lstrip('.')}" if name else "the model"


def _refuse_hooks(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise ValueError(
                f"{_place(name)}: expected no forward hooks, which have no place in a "
                "plain module, got some; remove them first"
            )


def _without_gates(model: nn.Module) -> nn.Module:
    for parent in list(model.modules()):
        for name, gate in children(parent):
            if not isinstance(gate, ops.Gate):
                continue
            if gate.a == 0:
                setattr(parent, name, gate.inner)
            elif gate.a == 1:
                setattr(parent, name, nn.Identity().train(gate.training))
            elif isinstance(gate.inner, nn.ReLU):
                setattr(parent, name, nn.LeakyReLU(gate.a).train(gate.training))
    return model


class _Lowering:
    """Lowers a model, each module once, so that what is shared stays shared."""

    def __init__(self, modes: dict[int, bool], inputs: dict[int, tuple[Any, ...]]) -> None:
        self.modes = modes
        self.inputs = inputs
        self.done: dict[int, tuple[nn.Module, nn.Module]] = {}  # the module too: ids are reused
        self.nothings: list[nn.Module] = []

    def lower(self, module: nn.Module, name: str) -> nn.Module:
        """Returns the plain module of a module, whose name is for messages."""
        if id(module) not in self.done:
            self.done[id(module)] = module, self._lowered(module, name)
        return self.done[id(module)][1]

    def _lowered(self, module: nn.Module, name: str) -> nn.Module:
        if is_torch(module):
            return module
        if type(module).forward is nn.Sequential.forward:
            parts = [(key, self.lower(m, f"{name}.{key}")) for key, m in children(module)]
            return self._like(nn.Sequential(OrderedDict(parts)), module)
        try:
            return self._traced(module, name)
        except (TypeError, NameError, RuntimeError, fx.proxy.TraceError) as error:
            raise ValueError(
                f"{_place(name)} ({type(module).__name__}): its forward cannot be traced by "
                f"torch.fx: {' '.join(str(error).split()):.300}"
            ) from error

    def _traced(self, module: nn.Module, name: str) -> nn.Module:
        through = isinstance(module, FLATTENED)
        graph = tracing.trace(module, through=through, inputs=self.inputs.get(id(module)))
        for node in list(graph.nodes):
            if _is_identity(node, module):
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
        _refuse_foreign(graph, name)
        parts = self._parts(graph, module, name)
        if isinstance(module, FLATTENED):
            _chain(graph, parts, self.modes[id(module)])
            whole = _only_module(graph)
            if whole is not None:
                return parts[whole]
        if len(graph.nodes) == 2 and not parts:  # input and output
            return self._nothing(module)
        return self._like(_graph_module(graph, parts, module), module)

    def _parts(self, graph: fx.Graph, module: nn.Module, name: str) -> dict[str, Any]:
        """Gives what a graph refers to a plain name, and returns it by that name."""
        targets: dict[str, str] = {}
        parts: dict[str, Any] = {}
        for node in graph.nodes:
            if node.op not in ("call_module", "get_attr"):
                continue
            if node.target not in targets:
                found = tracing.attribute(module, node.target)
                if isinstance(found, Tensor) and found.grad_fn is not None:
                    found = nn.Parameter(found.detach())
                new = _free(
                    _plain_name(node.target, found, cell=isinstance(module, FLATTENED)), parts
                )
                targets[node.target] = new
                if isinstance(found, nn.Module):
                    found = self.lower(found, f"{name}.{node.target}")
                parts[new] = found
            node.target = targets[node.target]
        for node in list(graph.nodes):
            if node.op == "call_module" and parts[node.target] in self.nothings:
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
        return {key: part for key, part in parts.items() if part not in self.nothings}

    def _like(self, plain: nn.Module, module: nn.Module) -> nn.Module:
        """Gives a plain module the mode that its source was in before the tracing."""
        plain.training = self.modes[id(module)]
        return plain

    def _nothing(self, module: nn.Module) -> nn.Module:
        """Returns an identity for a module that does nothing in eval mode."""
        self.nothings.append(found := nn.Identity())
        return self._like(found, module)


def is_torch(module: nn.Module) -> bool:
    """Tells whether torch itself defines a module and all in it, containers aside."""
    return not isinstance(module, CONTAINERS) and all(
        type(part).__module__.startswith(("torch.nn.", "torch.ao.nn.")) for part in module.modules()
    )


def _is_identity(node: fx.Node, module: nn.Module) -> bool:
    """Tells whether a node hands its first argument on, in eval mode."""
    if node.op == "call_module":
        return isinstance(module, FLATTENED) and isinstance(
            module.get_submodule(str(node.target)), nn.Identity
        )
    if node.op != "call_function" or getattr(node.target, "__name__", "") not in DROPS:
        return False
    names = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    names.apply_defaults()
    return names.arguments.get("training") is False


DROPS = {"stochastic_depth", *(name for name in dir(F) if name.endswith("dropout"))}
"""Functions that do nothing in eval mode; each takes ``training``."""


def _refuse_foreign(graph: fx.Graph, name: str) -> None:
    for node in graph.nodes:
        if node.op == "call_function":
            home = str(getattr(node.target, "__module__", ""))
            if home.split(".")[0] == "pathnas":
                called = f"{home}.{getattr(node.target, '__name__', node.target)}"
                raise ValueError(f"{_place(name)}: expected functions of torch, got {called}")


PLACE = re.compile(r"edges\.(\d+)")


def _plain_name(target: str, part: Any, *, cell: bool) -> str:
    """Returns an identifier for a part; within a cell, of its branch and not of our modules."""
    if target.startswith("_tensor_constant"):
        return "weight" if isinstance(part, nn.Parameter) else "constant"
    if cell and (steps := PLACE.findall(target)):
        rest = PLACE.split(target)[-1].strip(".")
        kind = "branch" if rest.startswith("op") else rest
        target = "_".join([kind, *steps])
    return identifier(target)


def identifier(name: str) -> str:
    """Returns the name with all that an ASCII identifier cannot hold replaced."""
    name = re.sub(r"[^0-9A-Za-z_]", "_", name)
    if not name or name[0].isdigit():
        name = f"_{name}"
    return f"{name}_" if keyword.iskeyword(name) or keyword.issoftkeyword(name) else name


def _free(name: str, taken: dict[str, Any]) -> str:
    number, found = 1, name
    while found in taken or hasattr(nn.Module, found) or found in RESERVED:
        number += 1
        found = f"{name}_{number}"
    return found


RESERVED = {*vars(fx.GraphModule(nn.Module(), fx.Graph())), "graph", "code"}


def _calls(graph: fx.Graph, target: Any) -> int:
    return sum(node.op == "call_module" and node.target == target for node in graph.nodes)


def _chain(graph: fx.Graph, parts: dict[str, Any], training: bool) -> None:
    """Makes one Sequential of modules that are called in a row, each with the last's output."""
    rows: list[list[fx.Node]] = []
    for node in graph.nodes:
        if node.op != "call_module" or _calls(graph, node.target) > 1 or node.kwargs:
            continue
        before = rows[-1][-1] if rows else None
        if node.args == (before,) and before is node.prev and len(before.users) == 1:
            rows[-1].append(node)
        else:
            rows.append([node])
    for first, *others in rows:
        if not others:
            continue
        modules = [parts[str(first.target)], *(parts.pop(str(node.target)) for node in others)]
        parts[str(first.target)] = row = nn.Sequential(*modules)
        row.training = training
        others[-1].replace_all_uses_with(first)
        for node in reversed(others):
            graph.erase_node(node)


def _only_module(graph: fx.Graph) -> str | None:
    """Returns the one module that a graph calls on its input, if that is all it does."""
    match list(graph.nodes):
        case [source, node, output] if (
            node.op == "call_module" and node.args == (source,) and output.args == (node,)
        ):
            return str(node.target)
    return None


def _graph_module(graph: fx.Graph, parts: dict[str, Any], module: nn.Module) -> fx.GraphModule:
    fresh = fx.Graph()  # one that does not remember who traced it
    fresh.output(fresh.graph_copy(graph, {}))
    for node in fresh.nodes:
        node.type = None  # an annotation may name a class of anybody's
    name = identifier(type(module).__name__)
    found = fx.GraphModule(parts, fresh, class_name=name)
    found.meta["class"] = name
    if isinstance(module, Cell):
        found.meta["doc"] = f"A cell: {module.tree}."
    elif type(module).__module__.split(".")[0] == "pathnas":
        found.meta["doc"] = (inspect.getdoc(type(module)) or "").split("\n")[0]
    return found
