"""A full training from its newest checkpoint to its result."""

from __future__ import annotations

import platform
import time
from contextlib import ExitStack, closing
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import nn

import pathnas
from pathnas import best, evaluators, files, interrupts, networks, training
from pathnas import tree as trees
from pathnas.console import Console
from pathnas.data import Source
from pathnas.plan import Plan
from pathnas.train_job import Job, evaluation_batches
from pathnas.train_settings import config_of
from pathnas.trainer import Trainer


def run(job: Job, test: Source | None, *, console: Console) -> dict[str, Any]:
    """Trains from the newest checkpoint to the end, tests once, and writes the result.

    Args:
        job: the training.
        test: the test images, in the first process.
        console: for lines and the bar; quiet in all processes but the first.

    Returns:
        What stands in ``result.json``.

    Raises:
        FloatingPointError: if the training diverges.
        ValueError: if no checkpoint is good.
        OSError: if the folder cannot be written.
    """
    from torch.utils.tensorboard import SummaryWriter

    start = time.perf_counter()
    devices = [job.group.device] if job.group.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        trainer = Trainer(job, console)
        trainer.resume()
        writer = None
        if job.group.first:
            # Scalars of epochs that a killed process wrote and that come again are hidden.
            writer = SummaryWriter(str(job.folder.tensorboard), purge_step=trainer.done + 1)
            stack.enter_context(closing(writer))
        trainer.fit(writer)
        accuracy = _test(job, trainer.scored, test)
        result = {**trainer.report(), **_about(job), "test": accuracy}
        result["seconds"] = round(time.perf_counter() - start, 3)
        if writer is not None:
            writer.add_scalar("test/accuracy", accuracy, trainer.done)
            with interrupts.deferred():
                _write(job, trainer.scored, result)
    return result


def _test(job: Job, network: nn.Module, test: Source | None) -> float:
    """Returns the test accuracy; the test set is handed to the other processes only here."""
    if test is not None:
        Plan.prepare_set(test, job.folder.data / "test")
    job.group.told(0)
    batches = evaluation_batches(job, job.setting(), "test")
    return training.accuracy(network, batches, job.group.total)


def _about(job: Job) -> dict[str, Any]:
    setting = job.setting()
    sketch = networks.sketch(
        channels=setting.image_shape[0],
        classes=setting.classes,
        tree=job.tree,
        image_shape=setting.image_shape,
        **job.settings.network.model_dump(),
    )
    return {
        "folder": str(job.folder.path),
        "tree": trees.key(job.tree),
        "parameters": networks.parameters(sketch),
        "macs": networks.macs(sketch, setting.image_shape),
        "test_images": len(setting.source("test")),
        "seed": job.settings.seed,
        "processes": job.group.size,
        "versions": {
            "pathnas": pathnas.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
        },
    }


def _write(job: Job, network: nn.Module, result: dict[str, Any]) -> None:
    """Writes weights and description, as a ``best`` folder, and the result last."""
    folder, settings = job.folder, job.settings
    tensors = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    files.write(folder.weights, to_safetensors(tensors))
    described = evaluators.Training(
        job.setting(),
        settings.network.model_dump(),
        settings.recipe,
        settings.seed,
        job.tree,
        save=folder.weights,
    )
    best.describe(
        folder.path,
        described,
        settings=config_of(settings),
        about={name: result[name] for name in ("validation", "test")},
    )
    files.write_json(folder.path / "result.json", result)
