"""How each step of a network treats channels: the rules by which a :class:`Flow` is found."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx, nn

from pathnas import graphs
from pathnas.flow import Fixed, Flow, Layout
from pathnas.graphs import Example, Trace, argument

Rule = Callable[["Walk", fx.Node, Layout], Layout | None]


def follow(network: nn.Module, example: Example) -> Flow:
    """Returns the channels of a network, followed through its graphs.

    Args:
        network: whose forward pass torch.fx can trace; it is left as it is.
        example: inputs, for the shapes (see :func:`pathnas.graphs.traces`).

    Raises:
        ValueError: if the network cannot be traced, or the example does not suit it.
    """
    flow = Flow()
    for trace in graphs.traces(network, example):
        Walk(flow, network, trace).run()
    return flow


def _owners(network: nn.Module) -> dict[int, set[str]]:
    """The names of the modules that hold each parameter, by its id."""
    owners: dict[int, set[str]] = {}
    for name, module in network.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(name)
    return owners


class Walk:
    """Follows the channels through one graph."""

    def __init__(self, flow: Flow, network: nn.Module, trace: Trace) -> None:
        self.flow, self.shapes, self.nodes = flow, trace.shapes, list(trace.graph.nodes)
        self.modules = dict(network.named_modules())
        self.owners = _owners(network)
        self.found: dict[fx.Node, Layout | Fixed] = {}
        self.calls: dict[str, int] = {}
        self.read: set[str] = set()
        self.sizes: dict[fx.Node, Layout] = {}
        for node in self.nodes:
            if node.op == "call_module":
                self.calls[str(node.target)] = self.calls.get(str(node.target), 0) + 1
            elif node.op == "get_attr":
                self.read.add(str(node.target).rpartition(".")[0])

    def run(self) -> None:
        """Takes all steps in order."""
        for node in self.nodes:
            layout = self._step(node)
            if isinstance(layout, Layout):
                self.flow.see(layout)
            if layout is not None:
                self.found[node] = layout

    def module(self, node: fx.Node) -> nn.Module | None:
        """Returns the module that a step calls, if it does."""
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def label(self, node: fx.Node) -> str:
        """Returns what a person calls a step."""
        return graphs.label(node, self.module(node))

    def operands(self, node: fx.Node) -> Iterator[tuple[fx.Node, Layout]]:
        """Yields what a step reads whose channels are followed."""
        for operand in node.all_input_nodes:
            layout = self.found.get(operand)
            if isinstance(layout, Layout):
                yield operand, layout

    def fix(self, node: fx.Node, why: str) -> Fixed:
        """Holds all that a step reads fixed, and what it yields."""
        for _, layout in self.operands(node):
            self.flow.fix(layout.channels, f"{self.label(node)}, {why}")
        return Fixed(f"{self.label(node)}, {why}")

    def _step(self, node: fx.Node) -> Layout | Fixed | None:
        if node.op in ("placeholder", "get_attr"):
            return Fixed(f"{self.label(node)}, {GIVEN}")
        if node.op == "output":
            return self.fix(node, GIVEN)
        module = self.module(node)
        kind = graphs.kind(node, module)
        if kind in ("conv", "linear"):
            return self._layer(node, kind)
        layouts = list(self.operands(node))
        if kind != "reshape" or not layouts:
            self.counted([n for n in node.all_input_nodes if n in self.sizes], node)
        if not layouts:
            return self._nothing_to_follow(node)
        if kind in RULES and (node in self.shapes or kind in ("size", "getattr", "harmless")):
            try:
                if len(node.all_input_nodes) > 1 and kind in ONE_OPERAND:
                    raise _Unclear("by arguments that are not constant")
                return RULES[kind](self, node, layouts[0][1])
            except _Unclear as error:
                return self.fix(node, str(error))
        return self.fix(
            node, "which may mix them" if module is None else "whose width cannot change"
        )

    def counted(self, sizes: list[fx.Node], node: fx.Node) -> None:
        """Holds fixed the channels whose number a step uses."""
        for size in sizes:
            self.flow.fix(self.sizes[size].channels, f"{self.label(node)}, which uses their number")

    def _nothing_to_follow(self, node: fx.Node) -> Fixed | None:
        for operand in node.all_input_nodes:
            found = self.found.get(operand)
            if isinstance(found, Fixed):
                return found
        return Fixed(f"{self.label(node)}, {GIVEN}") if node in self.shapes else None

    def _layer(self, node: fx.Node, kind: str) -> Layout | Fixed:
        """Follows the channels into and out of a convolution or linear layer."""
        name = str(node.target)
        layer: Any = self.modules[name]
        x = node.all_input_nodes[0] if node.all_input_nodes else None
        given = self.found.get(x) if x is not None else None
        shape = self.shapes[node]
        dim = len(shape) - 1 if kind == "linear" else 1
        why = self.unfit(name, layer)
        if kind == "conv" and len(shape) != len(layer.kernel_size) + 2:
            why = "which is called without a batch dimension"
        if why is None and isinstance(given, Layout) and given.dim != dim:
            why = f"which mixes along dimension {dim}"
        reads = given if isinstance(given, Layout) and why is None else None
        groups = getattr(layer, "groups", 1)
        depthwise = groups > 1 and groups == layer.in_channels
        if why is not None:
            why = self.fix(node, why).why
        elif depthwise and isinstance(given, Fixed):
            why = given.why
        if reads is not None:
            self.enter(name, reads)
        if depthwise and reads is not None:
            yields = reads._replace(span=reads.span * (layer.out_channels // groups))
            return self.flow.outputs.setdefault(name, yields)
        if name not in self.flow.outputs:
            self.flow.outputs[name] = Layout(self.flow.fresh(shape[dim]), dim)
        yields = self.flow.outputs[name]
        if why is not None:
            self.flow.fix(yields.channels, why)
        if groups > 1 and not depthwise:
            self._divide(name, groups, yields, reads)
        return yields

    def _divide(self, name: str, groups: int, yields: Layout, reads: Layout | None) -> None:
        for layout in (yields, reads):
            if layout is not None and len(layout.channels) % groups == 0:
                self.flow.blocks(name, layout.channels, groups)

    def enter(self, name: str, layout: Layout) -> None:
        """Notes what a layer reads; in another mode of the network it must be the same."""
        before = self.flow.inputs.setdefault(name, layout)
        if before.span == layout.span and len(before.channels) == len(layout.channels):
            self.flow.tie(before.channels, layout.channels)
        else:
            self.flow.fix((*before.channels, *layout.channels), f"{name}, which reads two widths")

    def unfit(self, name: str, layer: nn.Module) -> str | None:
        """Why the weights of a layer cannot be changed, if they cannot."""
        if self.calls[name] > 1:
            return "which is called more than once"
        if name in self.read:
            return "whose weights are read from outside of it"
        if layer._parameters.get("weight") is None and getattr(layer, "weight", None) is not None:
            return "whose weight is computed from others"
        if any(len(self.owners[id(p)]) > 1 for p in layer.parameters()):
            return "which shares its weights"
        return None


class _Unclear(Exception):
    """A step that may do more than keep its channels; the message goes on the step's name."""


def _elementwise(walk: Walk, node: fx.Node, layout: Layout) -> Layout | None:
    shape = walk.shapes[node]
    tensors = [n for n in node.all_input_nodes if n in walk.shapes]
    at = {n: f.dim + len(shape) - len(walk.shapes[n]) for n, f in walk.operands(node)}
    if len(set(at.values())) != 1:
        raise _Unclear("which combines them with another dimension")
    [dim] = set(at.values())
    whole: Layout | None = None
    for operand in tensors:
        place = dim - len(shape) + len(walk.shapes[operand])
        other = walk.found.get(operand)
        if place < 0 or walk.shapes[operand][place] != shape[dim]:  # broadcast
            if isinstance(other, Layout):
                walk.flow.fix(other.channels, f"{walk.label(node)}, which broadcasts them")
            continue
        if isinstance(other, Fixed):
            raise _Unclear(f"which ties them to {other.why}")
        if isinstance(other, Layout) and whole is not None:
            if whole.span != other.span:
                raise _Unclear("which combines channels of unequal sizes")
            walk.flow.tie(whole.channels, other.channels)
        elif isinstance(other, Layout):
            whole = other
    if whole is None:
        raise _Unclear("which broadcasts them")
    return whole._replace(dim=dim)


def _cat(walk: Walk, node: fx.Node, layout: Layout) -> Layout | None:
    parts = argument(node, 0, "tensors", ())
    shape = walk.shapes[node]
    dim = argument(node, 1, "dim", 0) % len(shape)
    if not isinstance(parts, list | tuple):
        raise _Unclear("of parts that are not a list")
    if any(f.dim != layout.dim or f.span != layout.span for _, f in walk.operands(node)):
        raise _Unclear("which combines channels of unequal sizes")
    if dim != layout.dim:
        return _elementwise(walk, node, layout)
    channels: tuple[int, ...] = ()
    for part in parts:
        found, size = walk.found.get(part), walk.shapes[part][dim]
        if not isinstance(found, Layout):
            if size % layout.span:
                raise _Unclear("which combines channels of unequal sizes")
            found = Layout(walk.flow.fresh(size // layout.span))
            walk.flow.fix(found.channels, getattr(walk.found.get(part), "why", str(part)))
        channels += found.channels
    return layout._replace(channels=channels)


def _norm(walk: Walk, node: fx.Node, layout: Layout) -> Layout | None:
    name, norm = str(node.target), walk.module(node)
    assert norm is not None
    if isinstance(norm, nn.PReLU) and norm.num_parameters == 1:
        return layout
    own = any(t is not None for t in (*norm._parameters.values(), *norm._buffers.values()))
    why = walk.unfit(name, norm) if own else None
    if why is None and (layout.dim != 1 or len(walk.shapes[node]) < 2):
        why = "which does not go along their dimension"
    if why is not None:
        raise _Unclear(why)
    walk.enter(name, layout)
    walk.flow.outputs[name] = layout
    return layout


def _spatial(walk: Walk, node: fx.Node, layout: Layout) -> Layout | None:
    dimensions = graphs.spatial_dimensions(node, walk.module(node))
    rank = len(walk.shapes[node])
    if layout.dim != 1 or rank < 3 or dimensions not in (None, rank - 2):
        raise _Unclear("which goes along their dimension")
    return layout


def _pad(walk: Walk, node: fx.Node, layout: Layout) -> Layout | None:
    sizes = argument(node, 1, "pad", None)
    if not isinstance(sizes, list | tuple) or not all(isinstance(size, int) for size in sizes):
        raise _Unclear("by sizes that are not constant")
    if len(sizes) // 2 >= len(walk.shapes[node]) - layout.dim:
        raise _Unclear("which goes along their dimension")
    return layout


def _flatten(walk: Walk, node: fx.Node, layout: Layout) -> Layout | None:
    module, x = walk.module(node), node.all_input_nodes[0]
    rank = len(walk.shapes[x])
    if isinstance(module, nn.Flatten):
        start, end = module.start_dim, module.end_dim
    else:
        start, end = argument(node, 1, "start_dim", 0), argument(node, 2, "end_dim", -1)
    return _merged(walk.shapes[x], layout, start % rank, end % rank)


def _merged(shape: tuple[int, ...], layout: Layout, start: int, end: int) -> Layout:
    """The layout after dimensions `start` to `end` have become one."""
    if start > layout.dim:
        return layout
    if end < layout.dim:
        return layout._replace(dim=layout.dim - (end - start))
    if math.prod(shape[start : layout.dim]) != 1 and start != layout.dim:
        raise _Unclear("which merges them with the dimension before")
    inner = math.prod(shape[layout.dim + 1 : end + 1])
    return layout._replace(dim=start, span=layout.span * inner)


def _reshape(walk: Walk, node: fx.Node, layout: Layout) -> Layout | None:
    """Follows ``x.view(b, -1)``, and views that name the number of channels where these stay."""
    sizes: Any = node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = tuple(sizes[0])
    before, after = walk.shapes[node.all_input_nodes[0]], walk.shapes[node]
    dim, named = layout.dim, [n for n in node.all_input_nodes if n in walk.sizes]
    if before[:dim] == after[:dim] and len(sizes) == len(after):
        if dim == 1 and len(after) == 2 and sizes[1] == -1:
            walk.counted(named, node)
            return _merged(before, layout, 1, len(before) - 1)
        if before[dim] == after[dim] and sizes[dim] == -1:
            walk.counted(named, node)
            return layout
        width = walk.sizes.get(sizes[dim]) if isinstance(sizes[dim], fx.Node) else None
        if before[dim] == after[dim] and width is not None and width.span == layout.span:
            walk.counted([n for n in named if n is not sizes[dim]], node)
            walk.flow.tie(layout.channels, width.channels)
            return layout
    walk.counted(named, node)
    raise _Unclear("which may mix them")


def _reduce(walk: Walk, node: fx.Node, layout: Layout) -> Layout | None:
    rank = len(walk.shapes[node.all_input_nodes[0]])
    dims = argument(node, 1, "dim", None)
    dims = [dims] if isinstance(dims, int) else dims
    keep = argument(node, 2, "keepdim", False)
    if not isinstance(dims, list | tuple) or layout.dim in [d % rank for d in dims]:
        raise _Unclear("which goes along their dimension")
    gone = 0 if keep else sum(d % rank < layout.dim for d in dims)
    return layout._replace(dim=layout.dim - gone)


def _squeeze(walk: Walk, node: fx.Node, layout: Layout) -> Layout | None:
    before, rank = walk.shapes[node.all_input_nodes[0]], len(walk.shapes[node])
    place = argument(node, 1, "dim", None)
    if not isinstance(place, int):
        raise _Unclear("which may drop their dimension")
    if graphs.function_name(node).startswith("unsqueeze"):
        return layout._replace(dim=layout.dim + (place % rank <= layout.dim))
    place %= len(before)
    if place == layout.dim:
        raise _Unclear("which may drop their dimension")
    return layout._replace(dim=layout.dim - (before[place] == 1 and place < layout.dim))


def _permute(walk: Walk, node: fx.Node, layout: Layout) -> Layout | None:
    rank = len(walk.shapes[node])
    if graphs.function_name(node) == "transpose":
        a, b = (argument(node, i, f"dim{i - 1}", None) % rank for i in (1, 2))
        dims = list(range(rank))
        dims[a], dims[b] = b, a
    else:
        given: Any = node.args[1:] or (node.kwargs.get("dims"),)
        given = given[0] if isinstance(given[0], tuple | list) else given
        dims = [d % rank for d in given]
    return layout._replace(dim=dims.index(layout.dim))


def _getitem(walk: Walk, node: fx.Node, layout: Layout) -> Layout | None:
    index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    kept = len(index) <= layout.dim or index[layout.dim] == slice(None)
    if not kept or not all(isinstance(entry, slice) for entry in index):
        raise _Unclear("which may choose among them")
    return layout


def _size(walk: Walk, node: fx.Node, layout: Layout) -> Layout | None:
    rank = len(walk.shapes[node.all_input_nodes[0]])
    method = graphs.function_name(node)
    name = argument(node, 1, "dim", None)
    if method == "getattr" and name in ("device", "dtype", "ndim", "is_cuda", "requires_grad"):
        return None
    if method == "size" and isinstance(name, int):
        if name % rank == layout.dim:
            walk.sizes[node] = layout
        return None
    if method != "size" and name != "shape":
        raise _Unclear("which may read their number")
    for user in node.users:
        place = user.args[1] if user.target is operator.getitem else None
        if isinstance(place, int):
            if place % rank == layout.dim:
                walk.sizes[user] = layout
        elif not isinstance(place, slice) or layout.dim in range(rank)[place]:
            raise _Unclear("which reads their number")
    return None


def _harmless(walk: Walk, node: fx.Node, layout: Layout) -> Layout | None:
    return None


GIVEN = "whose width is given"
ONE_OPERAND = (
    "pad",
    "flatten",
    "reduce",
    "squeeze",
    "permute",
    "transpose",
    "getitem",
    "norm",
    "prelu",
)
RULES: dict[str, Rule] = {
    "elementwise": _elementwise,
    "cat": _cat,
    "norm": _norm,
    "prelu": _norm,
    "spatial": _spatial,
    "pad": _pad,
    "flatten": _flatten,
    "reshape": _reshape,
    "reduce": _reduce,
    "squeeze": _squeeze,
    "permute": _permute,
    "transpose": _permute,
    "getitem": _getitem,
    "size": _size,
    "getattr": _size,
    "harmless": _harmless,
}
