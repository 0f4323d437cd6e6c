"""Sets of images in folders that worker processes open, memory-mapped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from pathnas import files
from pathnas.data.sets import Files, Images, Source


def save(source: Source, folder: str | os.PathLike[str]) -> None:
    """Writes a set into a new folder that worker processes can open; aside first, then renamed.

    Images become `pixels.npy` (`[N, H, W, C]`, the order that batches are made from) and
    `labels.npy`; a set on disk becomes `files.json`, which names the image files.

    Raises:
        FileExistsError: `folder` exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; a set of images is written once.")
    aside = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    aside.mkdir(parents=True)
    try:
        _write(source, aside)
        files.install(aside, folder)
    except BaseException:
        shutil.rmtree(aside)
        raise


def _write(source: Source, folder: Path) -> None:
    if isinstance(source, Files):
        with open(folder / "files.json", "w", encoding="utf-8") as file:
            json.dump(asdict(source), file)
            file.flush()
            os.fsync(file.fileno())
        return
    arrays = {"pixels": source.pixels.permute(0, 2, 3, 1).contiguous(), "labels": source.labels}
    for name, tensor in arrays.items():
        with open(folder / f"{name}.npy", "wb") as stream:
            np.save(stream, tensor.numpy(), allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())


def digest(source: Source) -> str:
    """Returns the SHA-256 of a set's content, in hexadecimal digits.

    Of a set on disk: of the names of its files below their root, and their labels.
    """
    if isinstance(source, Files):
        content = json.dumps([source.paths, source.labels, source.size])
        return hashlib.sha256(content.encode()).hexdigest()
    found = hashlib.sha256(str(list(source.pixels.shape)).encode())
    for tensor in (source.pixels.permute(0, 2, 3, 1).contiguous(), source.labels):
        found.update(tensor.numpy().data)
    return found.hexdigest()


def is_saved(source: Source, folder: str | os.PathLike[str]) -> bool:
    """Tells whether a folder holds exactly this set, undamaged."""
    try:
        found = open_source(folder)
    except Exception:  # damaged files make numpy, json and torch raise what they like
        return False
    if isinstance(source, Files) or isinstance(found, Files):
        return source == found
    return digest(found) == digest(source)


def open_source(folder: str | os.PathLike[str]) -> Source:
    """Opens what :func:`save` wrote; pixels stay on disk, memory-mapped and shared by processes.

    Writing into the tensors changes this process's copy only, never the file.

    Raises:
        FileNotFoundError: The folder holds no set of images.
    """
    folder = Path(folder)
    if (folder / "files.json").is_file():
        content = json.loads((folder / "files.json").read_text(encoding="utf-8"))
        labels = tuple(content["labels"])
        return Files(content["root"], tuple(content["paths"]), labels, content["size"])
    # Copy-on-write pages look writable, so torch has nothing to warn of; pages that nobody writes
    # to are never copied.
    pixels = np.load(folder / "pixels.npy", mmap_mode="c", allow_pickle=False)
    labels = np.load(folder / "labels.npy", allow_pickle=False)
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(labels))
