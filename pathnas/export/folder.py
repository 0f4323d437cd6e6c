"""Writes a folder that holds a network and needs nothing of pathnas."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from pathnas import best, config, data, files, networks
from pathnas.best import Best
from pathnas.config import Config
from pathnas.export import card, parity, source
from pathnas.export.lowering import identifier, plain
from pathnas.export.parity import Parity
from pathnas.networks.learned_group import condensed

FILES = ("tree.json", "network.safetensors", "config.yaml", "about.json")
IMAGES = 8


@dataclass(frozen=True)
class Request:
    """What to export, and how.

    Attributes:
        found: the network.
        settings: of the run that found it.
        name: of the function in ``model.py``.
        images: normalized, `[B, C, H, W]`, to compare on; at least two.
        fuse: whether to merge batch norms into convolutions.
        onnx: whether to write ``model.onnx``.

    Raises:
        ValueError: if the name cannot be used.
    """

    found: Best
    settings: Config
    name: str
    images: Tensor
    fuse: bool = False
    onnx: bool = False

    def __post_init__(self) -> None:
        source.check_name(self.name)


def load(
    folder: Path, *, name: str | None = None, fuse: bool = False, onnx: bool = False
) -> Request:
    """Reads the folder of a run, or the ``best`` folder in it.

    Args:
        folder: of either.
        name: of the function; None: the run's name.
        fuse: see :class:`Request`.
        onnx: see :class:`Request`.

    Raises:
        FileNotFoundError: if a file is missing, with its name.
        ValueError: if a file is damaged.
        ImportError: if ONNX is wanted and its packages are not there.
    """
    if onnx:
        check_onnx()
    inner = folder / "best"
    inner = inner if inner.is_dir() else folder
    missing = [file for file in FILES if not (inner / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"expected a run folder that holds best/, or a best folder, got {folder}: it lacks "
            f"{', '.join(missing)}"
        )
    found, settings = best.load(inner), config.load(inner / "config.yaml")
    images = _samples(inner.parent / "data" / "validation", found)
    return Request(found, settings, name or _default_name(settings.name), images, fuse, onnx)


def _default_name(run: str) -> str:
    try:
        return source.check_name(identifier(run).strip("_").lower())
    except ValueError:
        return "network"


def check_onnx() -> None:
    """Raises an ImportError that says what to install, if ONNX's packages are absent."""
    absent = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if absent:
        raise ImportError(
            f"--onnx needs the extra pathnas[onnx] (pip install 'pathnas[onnx]'), {absent[0]} is "
            "not installed"
        )


def _samples(folder: Path, found: Best) -> Tensor:
    """Returns a few of the run's validation images, or noise if the run kept none in memory."""
    if (folder / "pixels.npy").is_file():
        batches = data.batches(
            data.open_source(folder), batch_size=IMAGES, normalization=found.normalization
        )
        images, _ = next(iter(batches))
        if len(images) > 1:
            return images.contiguous()
    generator = torch.Generator().manual_seed(0)
    return torch.randn(IMAGES, *found.image_shape, generator=generator)


def write(request: Request, target: Path, *, force: bool = False) -> list[Parity]:
    """Writes the folder and returns how near each form in it comes to the source network.

    The folder is written aside, checked and renamed, so it is there whole or not at all.

    Args:
        request: what to export.
        target: the folder to make.
        force: whether to put it in the place of an earlier export.

    Raises:
        FileExistsError: if the target exists (with `force`: if it is no export).
        ValueError: if the network cannot be written as source.
        RuntimeError: if a form does not compute what the source does.
    """
    check_target(target, force=force)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _aside(target) as folder, tempfile.TemporaryDirectory() as scratch:
        parities = _fill(folder, request, Path(scratch))
        _replace(folder, target)
    return parities


def check_target(target: Path, *, force: bool) -> None:
    """Raises a FileExistsError unless a folder may be written there."""
    if not target.exists() and not target.is_symlink():
        return
    if not force:
        raise FileExistsError(f"{target} exists; --force replaces an earlier export")
    if target.is_symlink() or not (target / "arch.json").is_file():
        raise FileExistsError(f"{target} is no earlier export, so it is not replaced")


def _fill(folder: Path, request: Request, scratch: Path) -> list[Parity]:
    deployed = condensed(request.found.network)  # of a CondenseNet; of any other network a copy
    network = plain(deployed, fuse=request.fuse, example=request.images).eval()
    if not isinstance(network, fx.GraphModule | nn.Sequential):
        network = nn.Sequential(network).eval()
    expected = parity.logits(request.found.network, request.images)
    name, classes = request.name, request.found.classes
    about = f"{name}: an image classifier of {classes} classes in plain PyTorch, found by pathnas."
    files.write(folder / "model.py", source.write(network, name, classes=classes, about=about))
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "model.safetensors").chmod((folder / "model.py").stat().st_mode)
    parities = [parity.compare("plain", expected, parity.logits(network, request.images))]
    outputs = parity.logits_of_source(folder, name, request.images, scratch)
    parities.append(parity.compare("model.py", expected, outputs))
    if request.onnx:
        file = folder / "model.onnx"
        _write_onnx(network, request.images, file)
        outputs = parity.logits_of_onnx(file, request.images)
        parities.append(parity.compare("model.onnx", expected, outputs))
    failed = [str(found) for found in parities if not found.holds]
    if failed:
        raise RuntimeError(
            f"expected the logits of the source within {parity.TOLERANCE:.0e}, got (relative "
            f"change, images with the same class): {'; '.join(' '.join(f.split()) for f in failed)}"
        )
    facts = card.Facts(
        name,
        request.found,
        request.settings,
        parameters=networks.parameters(network),
        macs=networks.macs(deployed, request.found.image_shape),
        fused=request.fuse,
        onnx=request.onnx,
    )
    files.write(folder / "arch.json", card.architecture(facts))
    files.write(folder / "README.md", card.readme(facts, parities))
    return parities


def _write_onnx(network: nn.Module, images: Tensor, file: Path) -> None:
    """Writes an ONNX file for any number of images, its weights within it."""
    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(
        network,
        (images[:2],),
        file,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """Makes a hidden folder beside the target, which is gone after the block if still there."""
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.part-", dir=target.parent))
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(folder: Path, target: Path) -> None:
    """Renames a folder to the target; an earlier export there goes away only after that."""
    if not target.exists():
        folder.rename(target)
        return
    with _aside(target) as old:
        target.rename(old / target.name)
        try:
            folder.rename(target)
        except OSError:
            (old / target.name).rename(target)
            raise
