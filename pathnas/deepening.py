"""Where a layer can be inserted into a network, and the layer that is born there as an identity."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import skip_init

from pathnas import graphs, ops
from pathnas.channels import CONVS, NORMS, TRANSPOSED
from pathnas.graphs import Example, Trace
from pathnas.ops import BatchNorm, Gate
from pathnas.probing import mode
from pathnas.specs import Moments

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "hardswish": nn.Hardswish,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
IDEMPOTENT = (nn.ReLU, nn.ReLU6, nn.Hardtanh)
LAYERS = (*CONVS, *TRANSPOSED, nn.Linear)


@dataclass(frozen=True)
class Place:
    """Where a layer is inserted: after a module.

    Attributes:
        name: of the module.
        layer: the layer that is deepened.
        activation: a copy of the activation that the module is or that follows it; None: neither.
        follows: whether the activation follows the module.
        ends: whether the network's output is what comes next.
        rank: number of dimensions of a linear layer's output on the example; else None.
    """

    name: str
    layer: nn.Module
    activation: nn.Module | None
    follows: bool
    ends: bool
    rank: int | None


def layer_at(network: nn.Module, name: str) -> nn.Module:
    """Returns a convolution or linear layer by its name.

    Raises:
        ValueError: if there is none.
    """
    modules = dict(network.named_modules())
    if name not in modules:
        raise ValueError(f"expected the name of a layer, got {name!r}: there is no such module")
    found = modules[name]
    if not isinstance(found, LAYERS):
        raise ValueError(
            f"expected a convolution or linear layer, got {name!r}, a {type(found).__name__}"
        )
    return found


def find(network: nn.Module, layer: str, example: Example | None) -> Place:
    """Returns the place behind a layer, its norm and its activation.

    Raises:
        ValueError: if the network cannot be traced, or there is no such place.
    """
    found, modules = layer_at(network, layer), dict(network.named_modules())
    shown = example if isinstance(found, nn.Linear) else None  # a convolution's rank is known
    pairs = [(t, _chain(t, modules, layer)) for t in graphs.traces(network, shown)]
    trace, chain = min(pairs, key=lambda pair: len(pair[1]))  # what follows alone in every mode
    last = chain[-1]
    activation = _activation(last, modules)
    follows = activation is not None and not _called_once(last)
    name = str((chain[-2] if follows else last).target)
    if any(n.op == "get_attr" and str(n.target).startswith(f"{name}.") for n in trace.graph.nodes):
        raise ValueError(f"cannot deepen {layer!r}: {name} is read from outside of it")
    shape = trace.shapes.get(chain[0])
    return Place(
        name=name,
        layer=found,
        activation=activation,
        follows=follows,
        ends=any(user.op == "output" for user in last.users),
        rank=None if shape is None else len(shape),
    )


def _chain(trace: Trace, modules: dict[str, nn.Module], layer: str) -> list[fx.Node]:
    """The layer's step and, where they alone follow it, its norm's and its activation's."""
    calls = [n for n in trace.graph.nodes if n.op == "call_module" and n.target == layer]
    if len(calls) != 1:
        raise ValueError(f"expected a layer that is called once, got {layer!r}: {len(calls)} times")
    chain = calls
    after = _only_user(chain[-1])
    if after is not None and _called_once(after) and isinstance(modules[str(after.target)], NORMS):
        chain = [*chain, after]
    after = _only_user(chain[-1])
    if after is not None and _activation(after, modules) is not None:
        chain = [*chain, after]
    return chain


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].all_input_nodes == [node] else None


def _called_once(node: fx.Node) -> bool:
    same = [n for n in node.graph.nodes if n.op == "call_module" and n.target == node.target]
    return len(same) == 1


def _activation(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    """A copy of the activation that a step is, not in place; None if it is none."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        inner = module.inner if isinstance(module, Gate) else module
        if not isinstance(inner, (*ACTIVATIONS.values(), nn.Hardtanh)):
            return None
        copied = deepcopy(module)
        for part in copied.modules():
            if hasattr(part, "inplace"):
                setattr(part, "inplace", False)  # noqa: B010
        return copied
    kind = ACTIVATIONS.get(graphs.function_name(node).rstrip("_"))
    if kind is None or len(node.args) != 1:
        return None
    return kind(**{name: value for name, value in node.kwargs.items() if name != "inplace"})


def insert(
    network: nn.Module, place: Place, *, activation: bool, norm: bool, kernel: int, birth: ops.Birth
) -> BatchNorm | None:
    """Inserts a layer that is born as an identity, in place.

    Args:
        network: is changed.
        place: in the network.
        activation: whether the new layer has one.
        norm: whether it has a batch norm, which is fresh: see :func:`calibrate`.
        kernel: of a convolution.
        birth: of the activation.

    Returns:
        The norm.
    """
    layer, module = place.layer, network.get_submodule(place.name)
    weight = next(layer.parameters())
    made, fresh = _identity(layer, kernel, bias=not norm), _norm(layer) if norm else None
    parts = [made] if fresh is None else [made, fresh]
    if activation:
        born = _born(place.activation, birth)
        parts = [born, *parts] if place.follows else [*parts, born]
    for part in parts:
        part.to(weight.device, weight.dtype).train(module.training)
    deeper = nn.Sequential(module, *parts).train(module.training)
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child is module and parent is not deeper:
                parent._modules[name] = deeper
    return fresh


def _identity(layer: nn.Module, kernel: int, *, bias: bool) -> nn.Module:
    """A layer of the same kind that returns its input; made without a draw."""
    made: Any
    if isinstance(layer, nn.Linear):
        made = skip_init(nn.Linear, layer.out_features, layer.out_features, bias)
        nn.init.eye_(made.weight)
    else:
        assert isinstance(layer, (*CONVS, *TRANSPOSED))
        width, convolution = layer.out_channels, CONVS[len(layer.kernel_size) - 1]
        made = skip_init(convolution, width, width, kernel, padding=kernel // 2, bias=bias)
        nn.init.dirac_(made.weight)
    if bias:
        nn.init.zeros_(made.bias)
    assert isinstance(made, nn.Module)
    return made


def _norm(layer: nn.Module) -> BatchNorm:
    if isinstance(layer, nn.Linear):
        return nn.BatchNorm1d(layer.out_features)
    assert isinstance(layer, (*CONVS, *TRANSPOSED))
    return (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(layer.kernel_size) - 1](
        layer.out_channels
    )


def _born(activation: nn.Module | None, birth: ops.Birth) -> nn.Module:
    """A new activation: hard if it would change nothing that its like has passed, else gated."""
    if isinstance(activation, IDEMPOTENT):
        return activation
    inner = activation.inner if isinstance(activation, Gate) else activation or nn.ReLU()
    return Gate(inner) if birth == "gated" else inner


class _Measured(BaseException):  # so that no `except Exception` of the network catches it
    """Ends a pass that has measured what it was for."""


def calibrate(network: nn.Module, norm: BatchNorm, example: Example | None) -> None:
    """Makes a norm undo itself, in place.

    Args:
        network: that holds the norm; its mode and all other statistics stay.
        norm: of which shift and scale, and the running statistics, are set.
        example: inputs of the network, on which it is an identity in train mode too; without, in
            eval mode only.
    """
    if example is None:
        ops.undo_norm(norm, None)
        return
    inputs: Sequence[Tensor] = [example] if isinstance(example, Tensor) else example
    found: list[Moments] = []

    def measure(module: nn.Module, given: Any) -> None:
        dims = [d for d in range(given[0].dim()) if d != 1]
        var, mean = torch.var_mean(given[0], dim=dims, correction=0)
        found.append(Moments(mean, var))
        raise _Measured  # what comes after it changes nothing

    saved = [(buffer, buffer.clone()) for buffer in network.buffers()]
    hook = norm.register_forward_pre_hook(measure)
    devices = [inputs[0].device] if inputs[0].is_cuda else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad(), mode(network, training=True):
            network(*inputs)
    except _Measured:
        pass
    finally:
        hook.remove()
        for buffer, before in saved:
            buffer.copy_(before)
    ops.undo_norm(norm, found[0])
