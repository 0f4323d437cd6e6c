"""Whether what was exported computes what the source network computes."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

TOLERANCE = 1e-4
"""Most change of the logits, relative to the largest; for single precision."""


@dataclass(frozen=True)
class Parity:
    """How near one exported form comes to the source.

    Attributes:
        form: what was compared.
        relative: max |change| over max |logit|.
        agreeing: images with the same largest logit.
        images: number of images.
    """

    form: str
    relative: float
    agreeing: int
    images: int

    @property
    def holds(self) -> bool:
        """Whether the change is within the tolerance."""
        return self.relative <= TOLERANCE

    def __str__(self) -> str:
        return f"{self.form:<12}{self.relative:>10.1e}   {self.agreeing} of {self.images}"


def compare(form: str, expected: Tensor, found: Tensor) -> Parity:
    """Compares logits `[B, classes]`; anything that is not finite is infinitely far."""
    change, scale = (expected - found).abs().max().item(), expected.abs().max().item()
    relative = change / scale if scale else change
    same = int((expected.argmax(1) == found.argmax(1)).sum())
    return Parity(form, relative if math.isfinite(relative) else math.inf, same, len(expected))


@torch.no_grad()
def logits(network: nn.Module, images: Tensor) -> Tensor:
    """Returns the logits `[B, classes]` of a network in eval mode."""
    return network.eval()(images)


CHILD = """
import importlib.util, sys
folder, entry, given, wanted, *sys.path[:] = sys.argv[1:]
sys.modules["pathnas"] = None  # importing it fails
spec = importlib.util.spec_from_file_location("model", folder + "/model.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
network = getattr(module, entry)(pretrained=True).eval()
with torch.no_grad():
    save_file({"logits": network(load_file(given)["images"])}, wanted)
"""


def logits_of_source(folder: Path, entry: str, images: Tensor, scratch: Path) -> Tensor:
    """Returns the logits of the exported ``model.py``, run in a process without pathnas.

    Args:
        folder: holds ``model.py`` and ``model.safetensors``.
        entry: name of the function.
        images: `[B, C, H, W]`.
        scratch: a folder for the files between the processes.

    Raises:
        RuntimeError: if the process fails, with its last line.
    """
    given, wanted = scratch / "images.safetensors", scratch / "logits.safetensors"
    save_file({"images": images.contiguous()}, given)
    paths = [path for path in sys.path if path]
    words = [
        sys.executable,
        "-I",
        "-B",
        "-c",
        CHILD,
        str(folder),
        entry,
        str(given),
        str(wanted),
        *paths,
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"the exported model.py does not run: {last:.300}")
    return load_file(wanted)["logits"]


def logits_of_onnx(file: Path, images: Tensor) -> Tensor:
    """Returns the logits of an ONNX file, run by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(found)
