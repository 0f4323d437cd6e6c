"""The epochs of a full training: one after another, validated, shown, kept."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import torch

from pathnas import checkpoints, evaluators, interrupts, training
from pathnas.console import Console
from pathnas.parallel import sync_norms
from pathnas.train_job import EpochBatches, Job, evaluation_batches
from pathnas.weight_average import WeightAverage


class Trainer:
    """The training itself: network, what is scored, and what is kept of every epoch.

    Args:
        job: the training.
        console: shows it.

    Attributes:
        scored: the network that is validated, tested and kept: the average if there is one.
        done: epochs that have ended.
        rows: one for each of them.
    """

    def __init__(self, job: Job, console: Console) -> None:
        self.job, self.console = job, console
        setting, group = job.setting(), job.group
        network = job.network(setting).to(group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = sync_norms(network, group) if job.settings.sync_norm else network
        decay = job.settings.average
        self.average = WeightAverage(network, decay) if decay else None
        self.scored = self.average.network if self.average else self.network
        self.batches = EpochBatches(job, setting, console.advance)
        self.validation = evaluation_batches(job, setting, "validation")
        self.rows: list[dict[str, Any]] = []
        self.done = 0
        self._state: dict[str, Any] | None = None
        self._clock = 0.0
        self._writer: Any = None

    def resume(self) -> None:
        """Goes back to the newest good checkpoint, if there is one."""
        group, folder = self.job.group, self.job.folder.checkpoints
        found = checkpoints.newest(folder, self.console.line) if group.first else None
        self.done = group.told(found[0] if found else 0)
        if not self.done:
            return
        state = found[1] if found else checkpoints.of_epoch(folder, self.done)
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.rows, self._state = state["rows"], state["training"]
        self.batches.epoch = self.done
        self.console.line(f"going on after epoch {self.done} of {self.job.settings.recipe.epochs}")
        if state["processes"] != group.size:
            self.console.line(
                f"so far {state['processes']} processes, now {group.size}: "
                "the weights will not be the same to the last bit"
            )

    def fit(self, writer: Any = None) -> None:
        """Trains to the end.

        Args:
            writer: of TensorBoard; None: nothing is written there.

        Raises:
            FloatingPointError: if the training diverges.
        """
        self._writer = writer
        recipe, average = self.job.settings.recipe, self.average
        hooks = training.Hooks(
            resume=self._state,
            step_end=None if average is None else lambda: average.update(self.network),
            epoch_end=self._epoch_end,
            across=self.job.group.total,
            weight=lambda: self.job.group.weight,
        )
        left = (recipe.epochs - self.done) * len(self.batches)
        self._clock = time.perf_counter()
        wrapped = self.job.group.wrap(self.network) if left else self.network
        fitted = recipe.model_dump(include=evaluators.FITTED)
        with self.console.progress("training", left) if left else nullcontext():
            training.fit(wrapped, self.batches, hooks=hooks, **fitted)
        if not self.rows:  # no epochs were asked for
            self.rows.append({"epoch": 0, "validation": self._validate()})

    def _validate(self) -> float:
        return training.accuracy(self.scored, self.validation, self.job.group.total)

    @torch.no_grad()
    def _epoch_end(self, epoch: training.Epoch) -> None:
        self.job.group.share_norms(self.network)
        if self.average is not None:
            self.job.group.share_norms(self.average.network)
        self.done = epoch.number
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        row = {
            "epoch": epoch.number,
            "loss": epoch.loss,
            "validation": self._validate(),
            "learning_rate": epoch.learning_rate,
            "images": epoch.images,
            "seconds": round(seconds, 3),
        }
        self.rows.append(row)
        if not self.job.group.first:
            return
        self._show(row)
        last = self.job.settings.recipe.epochs
        if epoch.number % self.job.settings.checkpoint_epochs == 0 or epoch.number == last:
            with interrupts.deferred():
                self._save(epoch)

    def _save(self, epoch: training.Epoch) -> None:
        state = {
            "network": self.network.state_dict(),
            "training": epoch.state(),
            "rows": self.rows,
            "processes": self.job.group.size,
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        checkpoints.save(self.job.folder.checkpoints, epoch.number, state)
        self.job.folder.write_epochs(self.rows)

    def _show(self, row: dict[str, Any]) -> None:
        epochs, best_row = self.job.settings.recipe.epochs, self.best()
        before = self.rows[-2]["images"] if len(self.rows) > 1 else 0
        rate = (row["images"] - before) / max(row["seconds"], 1e-3)
        self.console.line(
            f"epoch {row['epoch']:4d}/{epochs}  loss {row['loss']:.4f}  "
            f"validation {row['validation']:.4f}  best {best_row['validation']:.4f} "
            f"(epoch {best_row['epoch']})  {rate:,.0f} images/s  "
            f"left {_span(row['seconds'] * (epochs - row['epoch']))}"
        )
        if self._writer is not None:
            for tag, key in SCALARS.items():
                self._writer.add_scalar(tag, row[key], row["epoch"])
            self._writer.add_scalar("time/images_per_second", rate, row["epoch"])
            self._writer.flush()

    def best(self) -> dict[str, Any]:
        """Returns the row of the first epoch of the highest validation accuracy."""
        return max(self.rows, key=lambda row: row["validation"])

    def report(self) -> dict[str, Any]:
        """Returns what the training brought."""
        last, best_row = self.rows[-1], self.best()
        return {
            "validation": last["validation"],
            "best_validation": best_row["validation"],
            "best_epoch": best_row["epoch"],
            "epochs": last["epoch"],
            "images": last.get("images", 0),
            "training_seconds": round(sum(row.get("seconds", 0.0) for row in self.rows), 3),
        }


SCALARS = {
    "train/loss": "loss",
    "train/learning_rate": "learning_rate",
    "validation/accuracy": "validation",
}
"""Tags of TensorBoard, and the key of an epoch's row."""


def _span(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"
