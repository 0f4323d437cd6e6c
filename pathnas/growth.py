"""Growing a trained model of one's own: with calibration, a receipt and a log that replays.

:func:`transform` does path-level transforms to the cells that a module holds, and layer-level ones
(:mod:`pathnas.layers`) to any module. What it did stands in the :class:`Log` that the grown model
carries; :func:`replay` does it again to the same base, to the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import islice
from typing import get_args

import torch
from torch import Tensor, nn

from pathnas import deepening, ops, receipts, training
from pathnas import transforms as values
from pathnas.cell import Cell, CellEdge, cells, moments, set_moments
from pathnas.clones import clone
from pathnas.layers import Deepen, Widen
from pathnas.logs import Entry, Log, Shape, Statistic
from pathnas.ops import BatchNorm, Gate
from pathnas.receipts import Receipt
from pathnas.specs import Moments
from pathnas.steps import Step
from pathnas.transforms import EXACT, Birth, Network
from pathnas.wrappers import unwrapped

Patterns = str | Sequence[str]


def transform(
    model: Network,
    transforms: Sequence[Step],
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
        model: in any mode, on any device; for path-level transforms it must hold cells. What
            DataParallel or torch.compile stand around is taken, and names are those in it.
        transforms: done in order; both kinds may be mixed.
        calibrate: `[B, C, H, W]` of training images, normalized, without augmentation. With them,
            what is new is an identity in train mode on this batch too, as well as in eval mode on
            any image: see :func:`pathnas.training.calibrate`. None: moments that the model carries
            from before are used, if there are any.
        images: to measure the receipt on; None: those of `calibrate`; without both nothing is
            measured, and nothing can be widened, for which the channels are followed by a pass.
        cells: names of the cells to grow, or globs of names, in which ``*`` matches dots too; None:
            all. Layer-level transforms name their layer themselves.
        birth: how what is new is born; its noise is drawn from `seed`, so it must not bring a
            generator.
        seed: of all that is random.

    Raises:
        ValueError: if the model holds no cells for a path-level transform, a pattern matches none
            of them, or a transform does not fit; the message says what was expected, what came and
            where.
    """
    _check(transforms, birth)
    images = calibrate if images is None else images
    model = unwrapped(model)
    grown = clone(model)
    norms: list[Statistic] = []

    def bear(step: Deepen, norm: BatchNorm) -> None:
        deepening.calibrate(grown, norm, calibrate)
        norms.extend(_norm_statistics(step, norm))

    with _seeded(grown, seed):
        entry = _begin(grown, transforms, cells, calibrate=calibrate, images=images)
        entry = replace(entry, birth=birth, seed=seed)
        looks, parts = [receipts.look(grown, images)], []
        for step in _grow(grown, entry, bear):
            looks.append(receipts.look(grown, images))
            names = () if _layer_level(step) else entry.cells
            parts.append(receipts.compare(looks[-2], looks[-1], [step], birth, names))
    total = receipts.compare(looks[0], looks[-1], transforms, birth, entry.cells)
    entry = replace(entry, norms=tuple(norms), after=fingerprint(grown))
    _set_log(grown, _carried(model) + Log((entry,)))
    return grown, replace(total, steps=tuple(parts))


def _begin(
    grown: nn.Module,
    transforms: Sequence[Step],
    patterns: Patterns | None,
    *,
    calibrate: Tensor | None,
    images: Tensor | None,
) -> Entry:
    """Calibrates a copy that nothing was done to yet; returns what can be logged of it."""
    onto_cells = patterns is not None or not all(map(_layer_level, transforms))
    chosen = select(grown, patterns) if onto_cells else {}
    if calibrate is not None and cells(grown):
        try:
            training.calibrate(grown, calibrate)
        except (RuntimeError, ValueError) as error:  # torch's own, of some layer
            shape, line = tuple(calibrate.shape), " ".join(str(error).split())
            raise ValueError(
                f"calibrate: expected images that the model takes in train mode, got {shape}: "
                f"{line:.300}"
            ) from error
    layered = any(map(_layer_level, transforms))
    return Entry(
        tuple(transforms),
        tuple(chosen),
        EXACT,
        0,
        tuple(_statistics(grown)),
        before=fingerprint(grown),
        after="",
        example=None if images is None or not layered else _shape(images),
    )


def log(model: nn.Module) -> Log:
    """Returns the transforms that were done to a model; empty if :func:`transform` never was.

    Training and whatever else changes weights is not in it. A copy of the model carries it too;
    its ``state_dict`` does not.
    """
    return _carried(unwrapped(model))


def replay(base: Network, log: Log) -> Network:
    """Returns a copy of a model with all of a log done to it: the logged model, bit for bit.

    Args:
        base: the model that the log began with, rebuilt or loaded; it stays as it was.
        log: what was done.

    Raises:
        ValueError: if the base is another model, the model was changed (trained, say) between two
            entries of the log, or this library grows to other bits than the one that wrote the log.
    """
    base = unwrapped(base)
    grown = clone(base)
    for place, entry in enumerate(log):
        found = fingerprint(grown)
        if found != entry.before:
            raise ValueError(_other_state(place, found, entry))
        absent = [name for name in entry.cells if name not in cells(grown)]
        if absent:
            raise ValueError(f"entry {place} of the log: the model has no cell {absent[0]!r}")
        _set_statistics(grown, entry.statistics)
        with _seeded(grown, entry.seed):
            for _ in _grow(grown, entry, _reborn(entry)):
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


def _grow(
    model: nn.Module, entry: Entry, bear: Callable[[Deepen, BatchNorm], None]
) -> Iterator[Step]:
    """Does an entry's steps in place, and yields each when it is done.

    Args:
        model: to be changed.
        entry: of which `norms` and `after` are not looked at.
        bear: brings to life the norm that a layer was inserted with.
    """
    birth = replace(entry.birth, generator=torch.Generator().manual_seed(entry.seed))
    chosen = {name: cells(model)[name] for name in entry.cells}
    trees = {name: cell.tree for name, cell in chosen.items()}
    example = _example(model, entry.example)
    for step in entry.transforms:
        if isinstance(step, Widen):
            step.apply(model, birth, example)
        elif isinstance(step, Deepen):
            norm = step.apply(model, birth, example)
            if norm is not None:
                bear(step, norm)
        else:
            for name, cell in chosen.items():
                trees[name] = values.grow_cell(name, cell, trees[name], step, birth)
        yield step


def _reborn(entry: Entry) -> Callable[[Deepen, BatchNorm], None]:
    """Returns what gives norms, one after the other, the moments that an entry holds."""
    remaining = iter(entry.norms)

    def bear(step: Deepen, norm: BatchNorm) -> None:
        two = list(islice(remaining, 2))
        if len(two) < 2:
            raise ValueError(f"expected the moments of the norm of {step} in the log, got none")
        mean, var = (_tensor(one, norm.weight.device) for one in two)
        ops.undo_norm(norm, Moments(mean, var))

    return bear


def _layer_level(step: Step) -> bool:
    return isinstance(step, Widen | Deepen)


def _shape(images: Tensor) -> Shape:
    # Batch norm cannot normalize a single image of one pixel in train mode.
    sizes = (min(2, len(images)), *images.shape[1:])
    return Shape(_dtype_name(images), sizes)


def _example(model: nn.Module, shape: Shape | None) -> Tensor | None:
    if shape is None:
        return None
    device = next(model.parameters()).device
    return torch.zeros(shape.sizes, dtype=getattr(torch, shape.dtype), device=device)


def _check(transforms: Sequence[Step], birth: Birth) -> None:
    kinds = get_args(Step)
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


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _statistics(model: nn.Module) -> Iterator[Statistic]:
    for name, tensor in moments(model).items():
        yield Statistic(name, _dtype_name(tensor), tuple(tensor.tolist()))


def _norm_statistics(step: Deepen, norm: BatchNorm) -> Iterator[Statistic]:
    for name, tensor in (("mean", norm.running_mean), ("var", norm.running_var)):
        assert tensor is not None
        yield Statistic(f"{step.layer}.{name}", _dtype_name(tensor), tuple(tensor.tolist()))


def _tensor(statistic: Statistic, device: torch.device) -> Tensor:
    return torch.tensor(statistic.values, dtype=getattr(torch, statistic.dtype), device=device)


def _set_statistics(model: nn.Module, statistics: Sequence[Statistic]) -> None:
    for edge in model.modules():
        if isinstance(edge, CellEdge):
            edge.moments = None
    device = next(model.parameters()).device
    set_moments(model, {one.name: _tensor(one, device) for one in statistics})


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
