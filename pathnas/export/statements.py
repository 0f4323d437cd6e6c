"""The ``forward`` of a traced module as statements that a person would write."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
import torch.nn.functional as F
from torch import fx

from pathnas.export.expressions import (
    Arg,
    Call,
    Expr,
    Infix,
    Join,
    Slice,
    grouped,
    literal,
    sequence,
)
from pathnas.export.lowering import identifier


@dataclass(frozen=True)
class Statement:
    """``before`` and an expression, such as ``x = `` and ``self.stem(x)``."""

    before: str
    expr: Expr


INFIX = {
    "add": ("+", 5),
    "sub": ("-", 5),
    "mul": ("*", 6),
    "truediv": ("/", 6),
    "floordiv": ("//", 6),
    "mod": ("%", 6),
    "matmul": ("@", 6),
    "eq": ("==", 1),
    "ne": ("!=", 1),
    "lt": ("<", 1),
    "le": ("<=", 1),
    "gt": (">", 1),
    "ge": (">=", 1),
}
AUGMENTED = {f"i{name}": f"{INFIX[name][0]}=" for name in ("add", "sub", "mul", "truediv")}
LETTERS = "yzuvw"


def inputs(graph: fx.Graph) -> list[str]:
    """Returns the names of the arguments of a graph's ``forward``."""
    return [_input(node) for node in graph.nodes if node.op == "placeholder"]


def statements(graph: fx.Graph) -> list[Statement]:
    """Returns the body of ``forward``: a line for each call, operators within the line they serve.

    Raises:
        ValueError: if the graph calls what is not torch's.
    """
    return list(_Writer(graph).write())


class _Writer:
    """Writes one graph; knows which expressions wait to be written within the next line."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.texts: dict[fx.Node, Expr] = {}
        self.waiting: dict[fx.Node, Expr] = {}
        self.written: set[fx.Node] = set()
        self.names = _names(set(inputs(graph)))

    def write(self) -> Iterator[Statement]:
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.texts[node] = _input(node)
                continue
            if node.op == "get_attr":
                self.texts[node] = f"self.{node.target}"
                continue
            if node.op == "output":
                yield from self._flush(node)
                yield Statement("return ", self._value(node.args[0]))
                continue
            if _waits(node):
                self.texts[node] = self.waiting[node] = self._expression(node)
                continue
            yield from self._flush(node)
            yield self._statement(node)

    def _flush(self, node: fx.Node) -> Iterator[Statement]:
        """Writes what waits and is not part of the line of `node`, which may change it in place."""
        within = self._within(node)
        inner = {part for other in self.waiting for part in self._within(other)}
        for other in [*self.waiting]:
            if other not in within | inner:
                self.written |= self._within(other)
                yield self._assign(other, self.waiting[other])
        self.waiting.clear()
        self.written |= {node, *within}

    def _within(self, node: fx.Node) -> set[fx.Node]:
        """Returns the nodes that are written as parts of a node's expression."""
        found: set[fx.Node] = set()
        todo = list(node.all_input_nodes)
        while todo:
            if (other := todo.pop()) in self.waiting:
                found.add(other)
                todo.extend(other.all_input_nodes)
        return found

    def _statement(self, node: fx.Node) -> Statement:
        name = getattr(node.target, "__name__", "")
        if node.op == "call_function" and _operator(node) and name in AUGMENTED:
            target = self._value(node.args[0])
            if isinstance(target, str) and target.isidentifier():
                self.texts[node] = target
                return Statement(f"{target} {AUGMENTED[name]} ", self._value(node.args[1]))
        return self._assign(node, self._expression(node))

    def _assign(self, node: fx.Node, expr: Expr) -> Statement:
        self.written.add(node)
        name = self._reusable(node)
        if name is None:
            own = str(node.target) if node.op == "call_module" else ""
            free = own.startswith("branch") and own not in self.texts.values()
            name = own if free else next(self.names)
        self.texts[node] = name
        return Statement(f"{name} = ", expr)

    def _reusable(self, node: fx.Node) -> str | None:
        """Returns the name of an input that nothing else reads any more."""
        todo = list(reversed(node.all_input_nodes))
        while todo:
            other = todo.pop()
            text = self.texts[other]
            if isinstance(text, str) and text.isidentifier():
                alike = [n for n, t in self.texts.items() if t == text and n in self._alive()]
                if not alike:
                    return text
            else:
                todo.extend(reversed(other.all_input_nodes))
        return None

    def _alive(self) -> set[fx.Node]:
        return {node for node in self.texts if not set(node.users) <= self.written}

    def _expression(self, node: fx.Node) -> Expr:
        match node.op:
            case "call_module":
                return Call(f"self.{node.target}", self._arguments(node))
            case "call_method":
                if not str(node.target).isidentifier():
                    raise ValueError(f"expected the name of a method, got {node.target!r:.60}")
                head = Join((grouped(self._value(node.args[0])), f".{node.target}"))
                return Call(head, self._arguments(node, first=1))
        return self._function(node)

    def _function(self, node: fx.Node) -> Expr:
        name = getattr(node.target, "__name__", "")
        if node.target is getattr and len(node.args) == 2 and str(node.args[1]).isidentifier():
            return Join((grouped(self._value(node.args[0])), f".{node.args[1]}"))
        if _operator(node):
            if name in INFIX:
                left, right = (self._value(arg) for arg in node.args)
                return Infix(INFIX[name][0], left, right, INFIX[name][1])
            if name in AUGMENTED:
                left, right = (self._value(arg) for arg in node.args)
                return Infix(*_plain(name, left, right))
            if name == "neg":
                return Join(("-", grouped(self._value(node.args[0]))))
            if name == "getitem":
                return self._subscript(node)
        for home, module in (("F", F), ("torch", torch)):
            if name and getattr(module, name, None) is node.target:
                return Call(f"{home}.{name}", self._arguments(node))
        home = getattr(node.target, "__module__", "")
        raise ValueError(f"expected functions of torch, got {home}.{name or node.target}")

    def _subscript(self, node: fx.Node) -> Expr:
        index = node.args[1]
        items = index if isinstance(index, tuple) else (index,)
        args = tuple(Arg(self._index(item)) for item in items)
        return Call(grouped(self._value(node.args[0])), args, "[]")

    def _index(self, item: object) -> Expr:
        if not isinstance(item, slice):
            return self._value(item)
        start = "" if item.start in (None, 0) else self._value(item.start)
        stop = "" if item.stop is None else self._value(item.stop)
        if item.step in (None, 1):
            return Slice(start, stop)
        return Join((start, ":", stop, ":", self._value(item.step)))

    def _arguments(self, node: fx.Node, first: int = 0) -> tuple[Arg, ...]:
        if not all(name.isidentifier() for name in node.kwargs):
            raise ValueError(f"expected the names of arguments, got {list(node.kwargs)!r:.100}")
        named = [
            Arg(self._value(value), name)
            for name, value in node.kwargs.items()
            if not _is_default(node, name, value)
        ]
        return (*(Arg(self._value(value)) for value in node.args[first:]), *named)

    def _value(self, value: object) -> Expr:
        if isinstance(value, fx.Node):
            return self.texts[value]
        if isinstance(value, list | tuple):
            return sequence([self._value(item) for item in value], tuple_=isinstance(value, tuple))
        if isinstance(value, dict):
            pairs = [Join((literal(k), ": ", self._value(v))) for k, v in value.items()]
            return Call("", tuple(Arg(pair) for pair in pairs), "{}")
        return literal(value)


def _input(node: fx.Node) -> str:
    """Returns an argument's name, other than those that the source means something by."""
    name = identifier(str(node.target))
    return f"{name}_" if name in ("self", "torch", "nn", "F") else name


def _names(taken: set[str]) -> Iterator[str]:
    for number in count(1):
        for letter in LETTERS:
            name = letter if number == 1 else f"{letter}{number}"
            if name not in taken:
                yield name


def _is_default(node: fx.Node, name: str, value: object) -> bool:
    """Tells whether a function written in Python has this value by itself."""
    if node.op != "call_function" or not inspect.isfunction(node.target):
        return False
    known = inspect.signature(node.target).parameters.get(name)
    return known is not None and type(known.default) is type(value) and known.default == value


def _operator(node: fx.Node) -> bool:
    name = getattr(node.target, "__name__", "")
    return name != "" and getattr(operator, name, None) is node.target


def _plain(name: str, left: Expr, right: Expr) -> tuple[str, Expr, Expr, int]:
    sign, rank = INFIX[name.removeprefix("i")]
    return sign, left, right, rank


def _waits(node: fx.Node) -> bool:
    """Tells whether a node is written within the line of the one that reads it."""
    if len(node.users) != 1:
        return False
    [user] = node.users
    if user.op == "output":
        return user.args[0] is node and user is node.next
    light = node.op == "call_function" and (
        node.target is getattr or (_operator(node) and node.target.__name__ in {*INFIX, "getitem"})  # type: ignore[union-attr]
    )
    return light and _uses(user, node) == 1


def _uses(user: fx.Node, node: fx.Node) -> int:
    found = 0

    def seen(other: fx.Node) -> fx.Node:
        nonlocal found
        found += other is node
        return other

    fx.map_arg((user.args, user.kwargs), seen)
    return found
