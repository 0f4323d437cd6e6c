"""Grafting: convolutions of any torch model become cells, which the transforms can grow.

The convolution alone becomes the cell, with its own weights, so that the model's output keeps its
bits; its batch norm and ReLU move in only if asked, and where torch.fx proves that they serve
nothing else.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, get_args

import torch
from torch import Tensor, nn

from pathnas.cell import Cell
from pathnas.ops import ConvUnit
from pathnas.places import Place, candidates, check_calls, convolutions
from pathnas.specs import Activation, CellSpec, Conv
from pathnas.tracing import Surround
from pathnas.wrappers import unwrapped

Selection: TypeAlias = str | Sequence[str] | Callable[[str, nn.Module], bool]
"""A module's name, a glob (``*`` matches dots too), several of these, or a predicate."""


def graft(
    model: nn.Module,
    cells: Selection,
    *,
    activation: Activation = "pre",
    absorb: bool = False,
    groups: int | None = None,
    inputs: Tensor | None = None,
) -> nn.Module:
    """Returns a copy of a model in which some convolutions are cells of one branch.

    The copy shares no tensor with the model, which stays as it was, and has its devices, dtypes
    and modes. In eval mode its output is the same, bit for bit. It also loads a ``state_dict`` of
    the model that it was made of.

    Args:
        model: any; DataParallel, DistributedDataParallel and torch.compile are taken off first.
        cells: which convolutions; see :data:`Selection`.
        activation: order of norm, ReLU and convolution in what will be grown in the cells.
        absorb: whether the batch norm and the ReLU beside each convolution move into its cell:
            those before it in a ``"pre"`` cell, those after it in a ``"post"`` cell.
        groups: of ``group_conv3x3`` at each cell's full width; None: the convolution's own.
        inputs: `[B, C, H, W]` to count calls with, see :func:`pathnas.places.candidates`.

    Raises:
        ValueError: if there is no such convolution, or one cannot become a cell; the message
            names all of them with their reasons. Or if the model's code needs a convolution there.
    """
    if activation not in get_args(Activation):
        raise ValueError(f"activation must be one of {get_args(Activation)}, got {activation!r}")
    model = unwrapped(model)
    names = selected(model, cells)
    places = {place.name: place for place in candidates(model, inputs=inputs)}
    plans, faults = [], []
    for name in names:
        try:
            plans.append(_plan(model, places[name], activation, absorb, groups))
        except ValueError as error:
            faults.append(f"{name}: {error}")
    if faults:
        what = " with norm and activation" if absorb else ""
        raise ValueError(f"expected convolutions that can become cells{what}; " + "; ".join(faults))
    try:
        grafted = deepcopy(model)
    except Exception as error:  # the model's own, of any kind
        raise ValueError(f"expected a model that deepcopy can copy, got {error!r}") from error
    prefixes: dict[str, str] = {}
    for name, (spec, surround) in zip(names, plans, strict=True):
        prefixes |= _insert(grafted, name, spec, surround)
    grafted.register_load_state_dict_pre_hook(Renaming(prefixes))
    check_calls(grafted, (places[name] for name in names), inputs)
    return grafted


def selected(model: nn.Module, cells: Selection) -> list[str]:
    """Returns the names of the convolutions that a selection means, in the model's order.

    Raises:
        ValueError: if a name, a glob or the predicate means none.
    """
    found = convolutions(model)
    if callable(cells):
        names = {name for name, conv in found.items() if cells(name, conv)}
        if not names:
            raise ValueError("expected a predicate that holds for a convolution, got one for none")
    else:
        texts = [cells] if isinstance(cells, str) else list(cells)
        names = {name for text in texts for name in _meant(model, found, text)}
        if not names:
            raise ValueError("expected at least one name or glob, got none")
    return [name for name in found if name in names]


def _meant(model: nn.Module, found: dict[str, nn.Module], text: str) -> list[str]:
    if not isinstance(text, str):
        raise ValueError(f"expected names or globs of convolutions, got {text!r}")
    if text in found:
        return [text]
    modules = dict(model.named_modules(remove_duplicate=False))
    if text in modules:
        inside = [name for name, m in modules.items() if isinstance(m, Cell)]
        cell = next((name for name in inside if f"{text}.".startswith(f"{name}.")), None)
        what = type(modules[text]).__name__ if cell is None else f"a part of the cell {cell!r}"
        raise ValueError(f"expected the name of a convolution, got {text!r}, which is {what}")
    names = [name for name in found if fnmatchcase(name, text)]
    if not names:
        near = difflib.get_close_matches(text, list(found), n=3, cutoff=0.0)
        raise ValueError(f"no convolution is named {text!r}; nearest: {', '.join(near) or 'none'}")
    return names


def _plan(
    model: nn.Module, place: Place, activation: Activation, absorb: bool, groups: int | None
) -> tuple[CellSpec, Surround | None]:
    """The spec of a cell, and what it absorbs."""
    if place.reason is not None or place.conv is None:
        raise ValueError(place.reason)
    spec = CellSpec(place.conv, activation, bare=not absorb, groups=groups)
    _ = spec.group_width  # raises if the groups do not divide the channels
    if not absorb:
        return spec, None
    surround = place.pre if activation == "pre" else place.post
    if isinstance(surround, str):
        raise ValueError(surround)
    norm = model.get_submodule(surround.norm)
    assert isinstance(norm, nn.BatchNorm2d)
    return replace(spec, eps=norm.eps, momentum=norm.momentum), surround


def _insert(
    model: nn.Module, name: str, spec: CellSpec, surround: Surround | None
) -> dict[str, str]:
    """Puts a cell in the place of a convolution, and returns where its tensors went."""
    conv = model.get_submodule(name)
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        cell = Cell(replace(spec, conv=Conv(1, 1), groups=None))  # its weights are not wanted
    cell.spec = spec
    cell.train(conv.training)
    unit = cell.root.edge(0).op
    assert isinstance(unit, ConvUnit)
    unit.convs[0] = conv
    inside = f"{name}.{UNIT}"
    renames = {f"{name}.": f"{inside}.convs.0."}
    if surround is not None:
        unit.norm = model.get_submodule(surround.norm)  # type: ignore[assignment]
        model.set_submodule(surround.norm, nn.Identity())
        renames[f"{surround.norm}."] = f"{inside}.norm."
        if surround.removable and surround.act is not None:
            model.set_submodule(surround.act, nn.Identity())
        elif surround.act is not None:
            # It acts on what autograd keeps of the cell's own ReLU.
            act = model.get_submodule(surround.act)
            assert isinstance(act, nn.ReLU)
            act.inplace = False
    model.set_submodule(name, cell)
    return renames


UNIT = "root.edges.0.op"
"""Where a cell of one branch holds its base operation."""


class Renaming:
    """A hook by which a grafted model loads the ``state_dict`` of the model that it was made of.

    Args:
        prefixes: of the model's keys, to those of the grafted model.
    """

    def __init__(self, prefixes: dict[str, str]) -> None:
        self.prefixes = prefixes

    def __call__(
        self, module: nn.Module, state: dict[str, Any], prefix: str, *unused: object
    ) -> None:
        """Renames keys in place; one of the grafted model stays as it is."""
        for old, new in self.prefixes.items():
            for key in [key for key in state if key.startswith(prefix + old)]:
                tensor = key[len(prefix + old) :]
                if "." not in tensor:
                    state[f"{prefix}{new}{tensor}"] = state.pop(key)
