"""Modules that stand around a model: they are taken off before it is changed.

A copy of them would still call the model that they were put around.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def unwrapped(model: M) -> M:
    """Returns what DataParallel, DistributedDataParallel or torch.compile stand around.

    Raises:
        ValueError: if it is no module, or one that cannot be changed any more.
    """
    found: Any = model  # a wrapper passes for the type of what it stands around
    while True:
        if isinstance(found, nn.DataParallel | nn.parallel.DistributedDataParallel):
            found = found.module
        elif isinstance(getattr(found, "_orig_mod", None), nn.Module):  # torch.compile
            found = found._orig_mod
        elif isinstance(found, torch.jit.ScriptModule):
            raise ValueError("expected a model in Python, got a ScriptModule: take its source")
        elif isinstance(found, nn.Module):
            return cast(M, found)
        else:
            raise ValueError(f"expected a torch module, got {type(found).__name__}")
