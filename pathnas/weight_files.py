"""A trained network's files: its weights, and beside them what growing it needs.

All are safetensors: the ``state_dict``, the moments of the edges (:func:`pathnas.cell.moments`) and
what the optimizer remembered (:mod:`pathnas.optimizer_state`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pathnas import cell, files, optimizer_state


def moments_file(weights: Path) -> Path:
    """Returns where the moments stand beside a network's weights."""
    return weights.with_suffix(".moments.safetensors")


def optimizer_file(weights: Path) -> Path:
    """Returns where the optimizer's state stands beside a network's weights."""
    return weights.with_suffix(".optimizer.safetensors")


def load_weights(network: nn.Module, path: Path) -> None:
    """Gives a network the weights of a safetensors file.

    Raises:
        ValueError: if the file is none or its tensors do not fit, with the first that differ.
    """
    try:
        network.load_state_dict(load_file(path))
    except Exception as error:  # safetensors raises its own exceptions, torch RuntimeError
        line = " ".join(str(error).split())
        raise ValueError(f"{path}: expected the weights of this network: {line:.300}") from error


def save_weights(
    network: nn.Module, path: Path, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Writes a network's weights, and beside them its moments and its optimizer's state.

    Each file is written aside and then renamed.
    """
    remembered = {} if optimizer is None else optimizer_state.read(optimizer, network)
    for target, tensors in (
        (moments_file(path), cell.moments(network)),
        (optimizer_file(path), remembered),
        (path, network.state_dict()),
    ):
        part = files.aside(target)
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, part)
        files.install(part, target)
