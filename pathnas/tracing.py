"""What a model does with its modules, as torch.fx sees it: calls, readers, sole consumers."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.parameter import is_lazy


class Unproven(Exception):
    """What was asked is not so, or torch.fx cannot tell; the message says why."""


@dataclass(frozen=True)
class Surround:
    """The batch norm and the ReLU that stand with a convolution and serve nothing else.

    Attributes:
        norm: module name of the batch norm.
        act: module name of the ReLU; None: a function.
        removable: whether the ReLU is a module that is called here alone. One that stays behind
            an activated output does no harm: it leaves non-negative numbers as they are.
    """

    norm: str
    act: str | None
    removable: bool


class Trace:
    """A model's graph of calls in its present mode; or why there is none.

    Args:
        model: a stand-in, see :func:`skeleton`, since its code is run once.
        leaves: types of modules that count as one call.
        failure: why it cannot be traced, if that is known.
    """

    def __init__(
        self, model: nn.Module, leaves: tuple[type[nn.Module], ...] = (), failure: str = ""
    ) -> None:
        self.modules = dict(model.named_modules())
        self.names = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
        self.failure = failure
        nodes: list[fx.Node] = []
        try:
            nodes = [] if failure else list(_Tracer(leaves).trace(model).nodes)
        except Exception as error:  # the model's own, which never saw such stand-ins
            self.failure = f"torch.fx cannot trace it: {_line(error)}"
        self._calls: dict[str, list[fx.Node]] = {}
        for node in nodes:
            if node.op == "call_module":
                self._calls.setdefault(str(node.target), []).append(node)
        self._read = {str(node.target) for node in nodes if node.op == "get_attr"}

    def calls(self, name: str) -> int | None:
        """Returns how often a forward pass calls a module; None: not known."""
        return None if self.failure else len(self._calls.get(name, ()))

    def reads(self, name: str) -> bool:
        """Tells whether the model's code uses a module's weights without calling it."""
        return any(target.startswith(f"{name}.") for target in self._read)

    def after(self, name: str) -> Surround:
        """Returns the batch norm that alone reads a convolution, and the ReLU that reads it.

        Raises:
            Unproven: if there are none.
        """
        norm = _sole_user(self._call(name), "its output")
        self._norm(norm, self._module(name, nn.Conv2d).out_channels)
        act = _sole_user(norm, "the output of its batch norm")
        if act.op != "call_module":
            if not _is_pure_relu(act):
                raise Unproven(f"after its batch norm comes {_word(act)}, no ReLU out of place")
            return Surround(str(norm.target), None, False)
        target = str(act.target)
        self._relu(target)
        return Surround(str(norm.target), target, self._alone(target))

    def before(self, name: str) -> Surround:
        """Returns the ReLU that a convolution alone reads, and the batch norm that feeds it.

        Raises:
            Unproven: if there are none.
        """
        conv = self._call(name)
        act = conv.args[0] if conv.args else None
        if not isinstance(act, fx.Node) or act.op != "call_module":
            raise Unproven("its input does not come from a module, but a ReLU must be one to move")
        self._relu(str(act.target))
        if _sole_user(act, "its input") is not conv or not self._alone(str(act.target)):
            raise Unproven(f"its ReLU {act.target} serves others too")
        norm = act.args[0] if act.args else None
        if not isinstance(norm, fx.Node):
            raise Unproven("no batch norm feeds its ReLU")
        self._norm(norm, self._module(name, nn.Conv2d).in_channels)
        if _sole_user(norm, "the output of its batch norm") is not act:
            raise Unproven(f"its batch norm {norm.target} serves others too")
        return Surround(str(norm.target), str(act.target), True)

    def _call(self, name: str) -> fx.Node:
        if self.failure:
            raise Unproven(self.failure)
        calls = self._calls.get(name, [])
        if len(calls) != 1:
            raise Unproven(f"it is called {len(calls)} times in a forward pass")
        return calls[0]

    def _alone(self, name: str) -> bool:
        """Whether a module has one name and is called once."""
        return len(self._calls[name]) == 1 and self.names[id(self.modules[name])] == 1

    def _module(self, name: str, kind: type[Any]) -> Any:
        module = self.modules[name]
        if type(module) is not kind:
            raise Unproven(f"{name} is a {type(module).__name__}, no {kind.__name__}")
        if has_hooks(module):
            raise Unproven(f"{name} has hooks")
        return module

    def _norm(self, node: fx.Node, width: int) -> None:
        if node.op != "call_module":
            raise Unproven(f"{_word(node)} stands where a batch norm would")
        name = str(node.target)
        norm = self._module(name, nn.BatchNorm2d)
        if norm.num_features != width or norm.weight is None or norm.running_mean is None:
            raise Unproven(f"{name} is no batch norm with weights and statistics of {width}")
        if not self._alone(name) or self.reads(name):
            raise Unproven(f"{name} is used elsewhere too")

    def _relu(self, name: str) -> None:
        self._module(name, nn.ReLU)


def traces(model: nn.Module, leaves: tuple[type[nn.Module], ...] = ()) -> tuple[Trace, Trace]:
    """Traces a model in eval mode and in train mode, where some do other things.

    Args:
        model: is neither run nor changed.
        leaves: types of modules that count as one call.
    """
    try:
        copy = skeleton(model)
    except Exception as error:  # the model's own, of any kind
        failed = Trace(model, failure=f"deepcopy cannot copy it: {_line(error)}")
        return failed, failed
    return Trace(copy.eval(), leaves), Trace(copy.train(), leaves)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # else the model's code could change the stand-ins' buffers

    def __init__(self, leaves: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self.leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)


def skeleton(model: nn.Module) -> nn.Module:
    """Returns a copy without memory: its parameters and buffers are on the meta device."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        if is_lazy(parameter):
            continue
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    for buffer in model.buffers():
        if not is_lazy(buffer):
            memo[id(buffer)] = buffer.to("meta")
    return deepcopy(model, memo)


def has_hooks(module: nn.Module) -> bool:
    """Tells whether anything is hooked to a module's calls or to its state."""
    return any(bool(value) for name, value in vars(module).items() if name.endswith("_hooks"))


def _sole_user(node: fx.Node, what: str) -> fx.Node:
    users = list(node.users)
    if any(user.op == "output" for user in users):
        raise Unproven(f"{what} is an output of the model")
    if len(users) != 1:
        raise Unproven(f"{what} is read {len(users)} times, not once")
    return users[0]


def _word(node: fx.Node) -> str:
    """What a node calls."""
    return str(getattr(node.target, "__name__", node.target))


def _is_pure_relu(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target == "relu"
    inplace = node.kwargs.get("inplace", node.args[1] if len(node.args) > 1 else False)
    return node.target in (F.relu, torch.relu) and not inplace
