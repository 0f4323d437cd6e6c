"""A user's own network as a base network: a function's model, grafted."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from pathnas import cell as cell_module
from pathnas.grafting import graft
from pathnas.networks import stages
from pathnas.specs import Activation
from pathnas.tree import BASE_TREE, Node


def grafted(
    *,
    channels: int,
    classes: int,
    model: str,
    cells: str | Sequence[str],
    activation: Activation = "pre",
    absorb: bool = False,
    options: Mapping[str, Any] | None = None,
    tree: Node = BASE_TREE,
) -> nn.Module:
    """Returns a grafted model, of fresh weights or those that its function gives it.

    On the meta device the function is still called on the CPU, since few models can be built
    without numbers.

    Args:
        channels: of the images; handed to the function if it names such an argument.
        classes: number of logits; likewise.
        model: ``package.module:function``, a function that returns the model.
        cells: names or globs, see :func:`pathnas.grafting.graft`.
        activation: see :func:`pathnas.grafting.graft`.
        absorb: see :func:`pathnas.grafting.graft`.
        options: further keyword arguments of the function.
        tree: the architecture of every cell; but the base tree's, all weights in the cells are
            fresh.

    Raises:
        ValueError: if the function cannot be called or returns no module, or the model cannot be
            grafted.
    """
    function = imported(model)
    sketching = torch.get_default_device().type == "meta"
    with (
        torch.device("cpu") if sketching else nullcontext(),
        torch.random.fork_rng(devices=[]) if sketching else nullcontext(),
    ):
        arguments = {**_named(function, channels=channels, classes=classes), **(options or {})}
        try:
            built = function(**arguments)
        except Exception as error:  # the user's own, of any kind
            raise ValueError(f"{model}(**{arguments}) failed: {error!r}") from error
        if not isinstance(built, nn.Module):
            raise ValueError(f"{model} must return a torch module, got {type(built).__name__}")
        network = graft(built, cells, activation=activation, absorb=absorb)
        if tree != BASE_TREE:
            stages.regrow(network, dict.fromkeys(cell_module.cells(network), tree))
    return network.to("meta") if sketching else network


def imported(path: str) -> Callable[..., Any]:
    """Returns the function of a path ``package.module:function``.

    Raises:
        ValueError: if there is none.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{path!r}: cannot import {module_name!r}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{path!r}: {module_name} has no function {name!r}")
    return function


def _named(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Those arguments that the function names; ``**kwargs`` may go anywhere, and names none."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in names}
