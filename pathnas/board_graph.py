"""A network as a graph for TensorBoard: layers are nodes, folded by the module they are in."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain, count
from typing import Any

from torch import fx, nn

from pathnas import graphs


def definition(network: nn.Module) -> Any:
    """Returns the graph of a network, as tensorboard's ``GraphDef``.

    A layer stands under its name, dots become folders; what is computed between layers stands in
    the folder of the module that computes it.

    Args:
        network: that torch.fx can trace.

    Raises:
        Exception: of any kind, if it cannot be traced.
    """
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    modules = dict(network.named_modules())
    found = GraphDef()
    names: dict[fx.Node, str] = {}
    for node in fx.Tracer().trace(network).nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        names[node] = _unused(_place(node), names.values())
        found.node.add(
            name=names[node],
            op=type(module).__name__ if module is not None else _word(node),
            input=[names[source] for source in node.all_input_nodes],
        )
        if module is not None:
            found.node[-1].attr["layer"].s = str(module).encode()
    return found


def _place(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target).replace(".", "/")
    scope = [*node.meta.get("nn_module_stack", {})][-1:]
    return "/".join([*scope, node.name]).replace(".", "/")


def _unused(name: str, used: Collection[str]) -> str:
    """Returns the name, or with a number: a layer that is called again is another node."""
    again = (f"{name}_{number}" for number in count(1))
    return next(one for one in chain((name,), again) if one not in used)


def _word(node: fx.Node) -> str:
    return node.op if node.op in ("placeholder", "output") else graphs.function_name(node)
