"""Growing a trained model of one's own: with calibration, a receipt and a log that replays.

:func:`transform` works on any module that holds cells. What it did stands in the :class:`Log` that
the grown model carries; :func:`replay` does it again to the same base, to the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import get_args

import torch
from torch import Tensor, nn

from pathnas import receipts, training
from pathnas import transforms as values
from pathnas.cell import Cell, CellEdge, cells, moments, set_moments
from pathnas.clones import clone
from pathnas.logs import Entry, Log, Statistic
from pathnas.ops import Gate
from pathnas.receipts import Receipt
from pathnas.transforms import EXACT, Birth, Network, Transform

Patterns = str | Sequence[str]


def transform(
    model: Network,
    transforms: Sequence[Transform],
    *,
    calibrate: Tensor | None = None,
    images: Tensor | None = None,
    cells: Patterns | None = None,
    birth: Birth = EXACT,
    seed: int = 0,
) -> tuple[Network, Receipt]:
    """Returns a grown copy of a model, and a receipt of what growing did.

    The copy shares no tensor with the model, which stays as it was, and carries the log of what
    was done (:func:`log`). The receipt costs one forward pass more than there are transforms; use
    :func:`pathnas.transforms.grow` to grow without receipt and log.

    Args:
        model: a module that holds cells, in any mode, on any device.
        transforms: done in order.
        calibrate: `[B, C, H, W]` of training images, normalized, without augmentation. With them,
            what is new is an identity in train mode on this batch too, as well as in eval mode on
            any image: see :func:`pathnas.training.calibrate`. None: moments that the model carries
            from before are used, if there are any.
        images: to measure the receipt on; None: those of `calibrate`; without both nothing is
            measured.
        cells: names of the cells to grow, or globs of names, in which ``*`` matches dots too; None:
            all.
        birth: how what is new is born; its noise is drawn from `seed`, so it must not bring a
            generator.
        seed: of all that is random.

    Raises:
        ValueError: if the model holds no cells, a pattern matches none of them, or a transform
            does not fit; the message says what was expected, what came and where.
    """
    _check(transforms, birth)
    images = calibrate if images is None else images
    grown = clone(model)
    chosen = select(grown, cells)
    with _seeded(grown, seed):
        if calibrate is not None:
            training.calibrate(grown, calibrate)
        entry = Entry(
            tuple(transforms),
            tuple(chosen),
            birth,
            seed,
            tuple(_statistics(grown)),
            fingerprint(grown),
            "",
        )
        looks, steps = [receipts.look(grown, images)], []
        for step in _grow(chosen, entry):
            looks.append(receipts.look(grown, images))
            steps.append(receipts.compare(looks[-2], looks[-1], [step], birth, entry.cells))
    total = receipts.compare(looks[0], looks[-1], transforms, birth, entry.cells)
    entry = replace(entry, after=fingerprint(grown))
    _set_log(grown, _carried(model) + Log((entry,)))
    return grown, replace(total, steps=tuple(steps))


def log(model: nn.Module) -> Log:
    """Returns the transforms that were done to a model; empty if :func:`transform` never was.

    Training and whatever else changes weights is not in it. A copy of the model carries it too;
    its ``state_dict`` does not.
    """
    return _carried(model)


def replay(base: Network, log: Log) -> Network:
    """Returns a copy of a model with all of a log done to it: the logged model, bit for bit.

    Args:
        base: the model that the log began with, rebuilt or loaded; it stays as it was.
        log: what was done.

    Raises:
        ValueError: if the base is another model, the model was changed (trained, say) between two
            entries of the log, or this library grows to other bits than the one that wrote the log.
    """
    grown = clone(base)
    for place, entry in enumerate(log):
        found = fingerprint(grown)
        if found != entry.before:
            raise ValueError(_other_state(place, found, entry))
        absent = [name for name in entry.cells if name not in cells(grown)]
        if absent:
            raise ValueError(f"entry {place} of the log: the model has no cell {absent[0]!r}")
        chosen = {name: cells(grown)[name] for name in entry.cells}
        _set_statistics(grown, entry.statistics)
        with _seeded(grown, entry.seed):
            for _ in _grow(chosen, entry):
                pass
        if fingerprint(grown) != entry.after:
            raise ValueError(
                f"entry {place} of the log: expected to grow to the model {entry.after:.12}, got "
                f"{fingerprint(grown):.12}; was the log written by another version of torch?"
            )
    _set_log(grown, _carried(base) + log)
    return grown


def fingerprint(model: nn.Module) -> str:
    """Returns a hash of a model's state, trees and gates; equal only for equal models.

    Where the tensors are, their memory format and the mode (train or eval) do not count.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        if isinstance(module, Cell):
            digest.update(f"{name}: {module.tree}\n".encode())
        elif isinstance(module, Gate):
            digest.update(f"{name}: {module.a!r}\n".encode())
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name}: {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy().data)
    return digest.hexdigest()


def select(model: nn.Module, patterns: Patterns | None = None) -> dict[str, Cell]:
    """Returns the cells of a model whose names match, by name, in order.

    Args:
        model: that holds cells.
        patterns: names or globs; None: all cells.

    Raises:
        ValueError: if there are no cells, or none for one of the patterns.
    """
    found = cells(model)
    if not found:
        raise ValueError(
            f"expected a module with cells, got {type(model).__name__} without: build one of "
            f"pathnas.networks, or graft cells into a model of your own"
        )
    if patterns is None:
        return found
    asked = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in asked:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise ValueError(
                f"cells: expected names or globs of cells, got {pattern!r}, which matches none of "
                f"{', '.join(list(found)[:20])}{', ...' if len(found) > 20 else ''}"
            )
    return {n: cell for n, cell in found.items() if any(fnmatchcase(n, p) for p in asked)}


def _grow(chosen: Mapping[str, Cell], entry: Entry) -> Iterator[Transform]:
    """Does an entry's transforms in place, and yields each when it is done to all cells."""
    birth = replace(entry.birth, generator=torch.Generator().manual_seed(entry.seed))
    trees = {name: cell.tree for name, cell in chosen.items()}
    for one in entry.transforms:
        for name, cell in chosen.items():
            trees[name] = values.grow_cell(name, cell, trees[name], one, birth)
        yield one


def _check(transforms: Sequence[Transform], birth: Birth) -> None:
    kinds = get_args(Transform)
    for place, one in enumerate(transforms):
        if not isinstance(one, kinds):
            names = ", ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"transforms[{place}]: expected one of {names}, got {one!r:.100}")
    if birth.generator is not None:
        raise ValueError("birth: expected one without a generator, noise is drawn from `seed`")


@contextmanager
def _seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """Seeds torch's global generators for a block, for user's operations that draw from them."""
    devices = {p.device.index for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices=sorted(index for index in devices if index is not None)):
        torch.manual_seed(seed)
        yield


def _statistics(model: nn.Module) -> Iterator[Statistic]:
    for name, tensor in moments(model).items():
        yield Statistic(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.tolist()))


def _set_statistics(model: nn.Module, statistics: Sequence[Statistic]) -> None:
    for edge in model.modules():
        if isinstance(edge, CellEdge):
            edge.moments = None
    device = next(model.parameters()).device
    tensors = {
        one.name: torch.tensor(one.values, dtype=getattr(torch, one.dtype), device=device)
        for one in statistics
    }
    set_moments(model, tensors)


def _carried(model: nn.Module) -> Log:
    found = vars(model).get("growth_log", Log())
    assert isinstance(found, Log)
    return found


def _set_log(model: nn.Module, found: Log) -> None:
    model.growth_log = found  # type: ignore[assignment]  # a value, neither tensor nor module


def _other_state(place: int, found: str, entry: Entry) -> str:
    words = f"expected the model {entry.before:.12}, got {found:.12}"
    if place == 0:
        return f"the base is not the model that the log began with: {words}"
    return (
        f"entry {place} of the log began with another model than entry {place - 1} left, so it was "
        f"changed in between (trained?): {words}; replay log[{place}:] from its state then"
    )
