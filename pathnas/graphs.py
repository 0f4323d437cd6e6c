"""What a network computes, step by step: torch.fx graphs, shapes, and the kinds of the steps."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pathnas import channels
from pathnas.cell import Cell
from pathnas.ops import Gate
from pathnas.probing import mode

Example = Tensor | Sequence[Tensor]

_ELEMENTWISE_MODULES = """
ReLU ReLU6 LeakyReLU ELU SELU CELU GELU SiLU Mish Hardswish Hardsigmoid Hardtanh Sigmoid Tanh
Softplus Softsign LogSigmoid Hardshrink Softshrink Tanhshrink Threshold RReLU Identity
Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout
"""
_ELEMENTWISE_FUNCTIONS = """
relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh sigmoid tanh
softplus softsign logsigmoid hardshrink softshrink tanhshrink threshold rrelu
dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout stochastic_depth
clamp clip clamp_min clamp_max abs neg exp log log1p sqrt rsqrt square pow reciprocal erf sin cos
floor ceil round sign contiguous clone detach float half double bfloat16 to type type_as
add sub mul div truediv iadd isub imul itruediv subtract multiply divide rsub
maximum minimum lerp where addcmul addcdiv expand_as
"""
_SPATIAL = re.compile(
    r"(Adaptive)?(Max|Avg|LP)Pool(?P<a>[123])d|(Reflection|Replication|Constant|Zero|Circular)Pad"
    r"(?P<b>[123])d|Upsample|Upsampling(Nearest|Bilinear)2d"
)
_SPATIAL_FUNCTION = re.compile(
    r"(adaptive_)?(max|avg|lp)_pool(?P<a>[123])d|interpolate|upsample|upsample_(nearest|bilinear)"
)
_FUNCTIONS = {
    **dict.fromkeys(_ELEMENTWISE_FUNCTIONS.split(), "elementwise"),
    **dict.fromkeys(("cat", "concat", "concatenate"), "cat"),
    **dict.fromkeys(("view", "reshape"), "reshape"),
    **dict.fromkeys(("squeeze", "unsqueeze"), "squeeze"),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), "reduce"),
    **{n: n for n in ("permute", "transpose", "flatten", "getattr", "size", "getitem", "pad")},
    "dim": "harmless",
}
_HOMES = ("torch", "_operator", "builtins", "math")


def _kinds() -> dict[type[nn.Module], str]:
    kinds: dict[type[nn.Module], str] = dict.fromkeys(channels.CONVS, "conv")
    kinds |= dict.fromkeys(channels.TRANSPOSED, "conv") | dict.fromkeys(channels.NORMS, "norm")
    kinds |= {nn.Linear: "linear", nn.PReLU: "prelu", nn.Flatten: "flatten"}
    for name in _ELEMENTWISE_MODULES.split():
        kinds[getattr(nn, name)] = "elementwise"
    for name in dir(nn):
        if _SPATIAL.fullmatch(name):
            kinds[getattr(nn, name)] = "spatial"
    return kinds


KINDS = _kinds()


def kind_of_module(module: nn.Module) -> str:
    """Returns the kind of a module that is one step of a trace, or ``"unknown"``.

    A subclass is of the kind of torch's own module if it leaves ``forward`` as it is.
    """
    if isinstance(module, Gate):
        return kind_of_module(module.inner)
    for known in type(module).__mro__:
        if known in KINDS:
            names = [n for n in ("forward", "_conv_forward") if hasattr(known, n)]
            same = all(getattr(type(module), n) is getattr(known, n) for n in names)
            return KINDS[known] if same else "unknown"
    return "unknown"


def kind(node: fx.Node, module: nn.Module | None) -> str:
    """Returns the kind of a step: what it does with the channels of its input.

    ``"conv"``, ``"linear"``, ``"norm"``, ``"prelu"``, ``"elementwise"`` (any number of operands,
    with broadcasting), ``"spatial"`` (channel by channel), ``"cat"``, ``"flatten"``, ... or
    ``"unknown"``.
    """
    if module is not None:
        return kind_of_module(module)
    name = function_name(node)
    if _SPATIAL_FUNCTION.fullmatch(name):
        return "spatial"
    return _FUNCTIONS.get(name.rstrip("_"), "unknown")


def function_name(node: fx.Node) -> str:
    """Returns the name of a function of torch or Python, or of a method; else an empty string."""
    if node.op == "call_method":
        return str(node.target)
    if node.op != "call_function" or isinstance(node.target, str):
        return ""
    home = str(getattr(node.target, "__module__", "") or "torch")
    drops = home == "torchvision.ops.stochastic_depth"
    known = drops or home.split(".")[0] in _HOMES
    return str(getattr(node.target, "__name__", "")) if known else ""


def spatial_dimensions(node: fx.Node, module: nn.Module | None) -> int | None:
    """Returns over how many last dimensions a spatial step goes; None: all after the channels."""
    while isinstance(module, Gate):
        module = module.inner
    if module is None:
        found = _SPATIAL_FUNCTION.fullmatch(function_name(node))
        return int(found["a"]) if found and found["a"] else None
    for known in type(module).__mro__:
        found = _SPATIAL.fullmatch(known.__name__)
        if found:
            size = found["a"] or found["b"]
            return int(size) if size else None
    return None


class _Tracer(fx.Tracer):
    """Traces down to modules of a known kind; cells and gates are one step each."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, Cell | Gate) or kind_of_module(m) != "unknown":
            return True
        return super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True)
class Trace:
    """One graph of a network.

    Attributes:
        graph: its steps; modules are named as in the network.
        shapes: of every step that yields a tensor, on the example; empty without one.
    """

    graph: fx.Graph
    shapes: dict[fx.Node, tuple[int, ...]]


def traces(network: nn.Module, example: Example | None = None) -> list[Trace]:
    """Returns the graphs of a network: in eval mode and, if it is another, in train mode.

    Leaves no trace in the network but what its own Python code does when it is called: modes and
    buffers stay, the example is run in eval mode and without gradients.

    Args:
        network: any module whose control flow does not depend on values.
        example: images `[B, C, H, W]`, or all inputs of the network; its first two rows are run.

    Raises:
        ValueError: if torch.fx cannot trace the network, or the example does not suit it.
    """
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(f"expected a bare network, got {type(network).__name__}: hand its .module")
    if hasattr(network, "_orig_mod"):
        raise ValueError("expected a bare network, got a compiled one: hand over its _orig_mod")
    inputs = [example] if isinstance(example, Tensor) else list(example or ())
    found: dict[str, Trace] = {}
    for training in (False, True):
        with mode(network, training=training):
            graph = _graph(network, len(inputs) or 1)
        steps = str([(n.op, n.target, n.args, n.kwargs) for n in graph.nodes])
        if steps not in found:
            found[steps] = Trace(graph, _shapes(network, graph, inputs) if inputs else {})
    return list(found.values())


def _defaults(network: nn.Module, given: int) -> dict[str, Any]:
    """The arguments of ``forward`` that are not given; traced as constants."""
    parameters = list(inspect.signature(network.forward).parameters.values())
    return {
        p.name: p.default for p in parameters[given:] if p.default is not inspect.Parameter.empty
    }


def _graph(network: nn.Module, given: int) -> fx.Graph:
    try:
        return _Tracer().trace(network, concrete_args=_defaults(network, given) or None)
    except Exception as error:  # whatever the network's own code raises on a proxy
        raise ValueError(
            f"torch.fx cannot trace {type(network).__name__}: {type(error).__name__}: {error}"
        ) from error


class _Shapes(fx.Interpreter):
    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(network, graph=graph)
        self.found: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.found[n] = tuple(value.shape)
        return value


def _shapes(
    network: nn.Module, graph: fx.Graph, inputs: Sequence[Tensor]
) -> dict[fx.Node, tuple[int, ...]]:
    shapes = _Shapes(network, graph)
    shapes.extra_traceback = False
    rest = list(_defaults(network, len(inputs)).values())
    saved = [(buffer, buffer.clone()) for buffer in network.buffers()]
    devices = [inputs[0].device] if inputs[0].is_cuda else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad(), mode(network, training=False):
            shapes.run(*(x[:2] for x in inputs), *rest)
    except Exception as error:  # whatever the network's own code raises
        got = ", ".join(f"{tuple(x.shape)} {x.dtype} on {x.device}" for x in inputs)
        raise ValueError(
            f"the example does not suit {type(network).__name__}: {type(error).__name__}: {error} "
            f"(got {got})"
        ) from error
    finally:
        for buffer, before in saved:
            buffer.copy_(before)
    return shapes.found


def argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    """Returns an argument of a function or method, given by place or by name."""
    if len(node.args) > place:
        return node.args[place]
    return node.kwargs.get(name, default)


def label(node: fx.Node, module: nn.Module | None) -> str:
    """Returns what a person calls a step: ``layer1.conv (Conv2d)`` or ``chunk in layer1``."""
    if module is not None:
        return f"{node.target} ({type(module).__name__})"
    if node.op == "placeholder":
        return f"the network's input {node.target}"
    if node.op == "get_attr":
        return f"the tensor {node.target}"
    if node.op == "output":
        return "the network's output"
    stack = list(node.meta.get("nn_module_stack") or {"": None})
    name = getattr(node.target, "__name__", str(node.target))
    return f"{name} in {stack[-1] or 'the network'}"
