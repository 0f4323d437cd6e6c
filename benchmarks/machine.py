"""The machine and the versions beside every number; light, since worker processes import it."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def facts() -> str:
    """Returns one line on the machine and the versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        f"{names[0] if names else platform.processor()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} thread, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )
