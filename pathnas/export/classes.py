"""The classes of a network made of torch's own modules, as source.

Every traced module becomes a class; modules of one structure share it, and the numbers by which
they differ (widths, strides) become constructor arguments. Nothing from outside gets into the text
but identifiers, constants written by ``repr`` and comments reduced to harmless characters.
"""

from __future__ import annotations

import builtins
import re
import textwrap
from dataclasses import dataclass, field

from torch import fx, nn

from pathnas.export import parameters, template
from pathnas.export.expressions import (
    INDENT,
    WIDTH,
    Arg,
    Call,
    Expr,
    Hole,
    fill,
    holes,
    layout,
    skeleton,
)
from pathnas.export.lowering import identifier
from pathnas.export.parameters import CLASSES, Parameters
from pathnas.export.statements import inputs

IMPORTED = {"F", "OrderedDict", "Path", "load_file", "nn", "self", "super", "torch"}


@dataclass
class _Class:
    """What is known of a class: its name, its arguments, and their values for each instance."""

    name: str
    parameters: Parameters
    text: str


@dataclass
class _Group:
    """Modules of one structure."""

    hint: str
    depth: int
    modules: list[fx.GraphModule] = field(default_factory=list)


def classifier(model: nn.Module, classes: int) -> str | None:
    """Returns the name of the last linear layer of so many outputs; None if there is none."""
    found = None
    for name, module in model.named_modules():
        if type(module) is nn.Linear and module.out_features == classes:
            found = name
    return found


class Source:
    """Writes the classes of a network.

    Args:
        model: of torch's own modules, ``Sequential`` and ``GraphModule``; the network itself one of
            the latter two.
        classes: number of logits; where the last linear layer has as many it takes
            ``num_classes``.
        reserved: names that no class may have.

    Attributes:
        root: name of the network's class.
        classifier: name of the layer that ``num_classes`` changes, or None.
        text: of all classes.

    Raises:
        ValueError: if a module cannot be written, with its name.
    """

    def __init__(self, model: nn.Module, classes: int, reserved: set[str] | None = None) -> None:
        _refuse_shared(model)
        self.model = model
        self.classifier = classifier(model, classes)
        if self.classifier is not None and _within_traced(model, self.classifier):
            self.classifier = None
        self.taken = IMPORTED | set(dir(builtins)) | (reserved or set())
        self.key_of: dict[int, str] = {}
        self.groups: dict[str, _Group] = {}
        self.classes: dict[str, _Class] = {}
        self._collect(model)
        for key, group in sorted(self.groups.items(), key=lambda item: item[1].depth):
            self._write(key, group)
        if isinstance(model, nn.Sequential):
            self._write_sequential(model)
        self.root = next(reversed(self.classes.values())).name
        self.text = "\n\n\n".join(found.text for found in self.classes.values())

    def _collect(self, module: nn.Module) -> int:
        """Groups all traced modules by structure, inner ones first; returns how deep they nest."""
        if id(module) in self.key_of:
            return self.groups[self.key_of[id(module)]].depth
        depth = max((self._collect(child) for child in module.children()), default=0)
        if not isinstance(module, fx.GraphModule):
            return depth
        hint = identifier(module.meta.get("class", type(module).__name__))
        parts = template.parts_of(module, self._new_by_key, self._classifier())
        key = "\n".join([hint, _doc(module), *(f"{p.before}{skeleton(p.expr)}" for p in parts)])
        self.key_of[id(module)] = key
        self.groups.setdefault(key, _Group(hint, depth + 1)).modules.append(module)
        return depth + 1

    def _classifier(self) -> nn.Module | None:
        return self.model.get_submodule(self.classifier) if self.classifier is not None else None

    def _new_by_key(self, module: nn.Module) -> Expr:
        return f"<{list(self.groups).index(self.key_of[id(module)])}>"

    def _new(self, module: nn.Module) -> Expr:
        """Returns the call that makes a traced module whose class is written already."""
        key = self.key_of[id(module)]
        place = next(i for i, other in enumerate(self.groups[key].modules) if other is module)
        known = self.classes[key]
        args = [
            Arg(Hole(column[place], name), None if "channels" in name else name)
            for name, column in known.parameters.columns.items()
        ]
        args.sort(key=lambda arg: arg.name is not None)
        return Call(known.name, tuple(args))

    def _write(self, key: str, group: _Group) -> None:
        found = [template.parts_of(m, self._new, self._classifier()) for m in group.modules]
        solved = parameters.find([[h for p in parts for h in holes(p.expr)] for parts in found])
        name = self._free(group.hint)
        texts = iter(solved.texts)
        body = _Body(list(solved.columns))
        for part in found[0]:
            count = sum(1 for _ in holes(part.expr))
            body.add(part, [next(texts) for _ in range(count)])
        module = group.modules[0]
        text = body.text(name, _doc(module), inputs(module.graph), _defaults(solved))
        self.classes[key] = _Class(name, solved, text)

    def _write_sequential(self, model: nn.Sequential) -> None:
        expr = template.made(model, self._new, self._classifier())
        assert isinstance(expr, Call)
        solved = parameters.find([list(holes(expr))])
        made = fill(Call("super().__init__", expr.args, broken=True), iter(solved.texts))
        name = self._free("Network")
        lines = [
            f"class {name}(nn.Sequential):",
            f'{INDENT}"""The network: its parts, one after another."""',
            "",
            _define(list(solved.columns), _defaults(solved)),
            layout(made, INDENT * 2),
        ]
        self.classes[name] = _Class(name, solved, "\n".join(lines))

    def _free(self, hint: str) -> str:
        number, found = 1, hint
        while found in self.taken:
            number += 1
            found = f"{hint}{number}"
        self.taken.add(found)
        return found


class _Body:
    """Collects the lines of one class."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.made: list[str] = []
        self.kept: list[str] = []
        self.forward: list[str] = []

    def add(self, part: template.Part, texts: list[str]) -> None:
        """Lays out a part of the template with texts in its holes."""
        if part.forward:
            used = {name: None for text in texts for name in text.split() if name in self.arguments}
            self.kept += [name for name in used if name not in self.kept]
            texts = [
                f"self.{text}" if text.split()[0] in self.arguments else text for text in texts
            ]
        expr = fill(part.expr, iter(texts))
        lines = self.forward if part.forward else self.made
        lines.append(layout(expr, INDENT * 2, part.before))

    def text(self, name: str, doc: str, takes: list[str], defaults: dict[str, int]) -> str:
        """Returns the class."""
        tensors = ", ".join(["self", *(f"{one}: torch.Tensor" for one in takes)])
        lines = [f"class {name}(nn.Module):"]
        if doc:
            lines += [textwrap.indent(doc, INDENT), ""]
        lines += [
            _define(self.arguments, defaults),
            f"{INDENT * 2}super().__init__()",
            *(f"{INDENT * 2}self.{one} = {one}" for one in self.kept),
            *self.made,
            "",
            f"{INDENT}def forward({tensors}) -> torch.Tensor:",
            *self.forward,
        ]
        return "\n".join(lines)


def _define(names: list[str], defaults: dict[str, int]) -> str:
    """Returns the line that begins the constructor: channels first, defaults last."""
    args = [Arg("self")]
    for name in sorted(names, key=lambda name: (name in defaults, "channels" not in name)):
        default = f" = {defaults[name]}" if name in defaults else ""
        args.append(Arg(f"{name}: int{default}"))
    return layout(Call("def __init__", tuple(args)), INDENT, after=" -> None:")


def _defaults(solved: Parameters) -> dict[str, int]:
    return {CLASSES: solved.columns[CLASSES][0]} if CLASSES in solved.columns else {}


def _within_traced(model: nn.Module, name: str) -> bool:
    """Tells whether a layer is part of a class other than the network's own."""
    steps = name.split(".")[:-1]
    above = [model.get_submodule(".".join(steps[: n + 1])) for n in range(len(steps))]
    return any(isinstance(module, fx.GraphModule) for module in above)


def _refuse_shared(model: nn.Module) -> None:
    """Raises if a tensor has two names: a class would make it twice."""
    seen: dict[int, str] = {}
    tensors = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in tensors:
        if id(tensor) in seen:
            raise ValueError(
                "expected tensors that stand in one place each, got the same one as "
                f"{seen[id(tensor)]} and {name}"
            )
        seen[id(tensor)] = name
    kinds = {tensor.dtype for _, tensor in tensors if tensor.is_floating_point()}
    if len(kinds) > 1:
        raise ValueError(f"expected weights of one floating dtype, got {sorted(map(str, kinds))}")


def _doc(module: nn.Module) -> str:
    """Returns the docstring of a class, or nothing."""
    text = harmless(str(getattr(module, "meta", {}).get("doc", "")))
    return docstring(text, WIDTH - len(INDENT)) if text else ""


def docstring(text: str, width: int = WIDTH) -> str:
    """Returns a harmless text as a docstring of at most that width."""
    if len(text) + 6 <= width:
        return f'"""{text}"""'
    return "\n".join(['"""' + textwrap.fill(text, width, initial_indent="   ")[3:], '"""'])


def harmless(text: str) -> str:
    """Returns a text of one line without what could end a docstring."""
    text = re.sub(r"[^0-9A-Za-z_ .,:;()<>=+/*%-]", "", text)
    return text if len(text) <= 1000 else f"{text[:1000]}..."
