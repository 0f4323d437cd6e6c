"""TensorBoard event files of a run.

Three runs by name: ``env`` (what the search proposed and got), ``controller`` (how it learns) and
``control`` (what random search got). Steps are updates, except for ``trial/``, where they are
trials in order of proposal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pathnas import tree as trees
from pathnas.search import Record, Update


class Board:
    """Writes the event files of a search and its control.

    A context manager, which closes the files.

    Args:
        folder: of the event files; each run gets a folder below it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def writer(self, name: str) -> Any:
        """Returns the writer of a named run, opened at first use."""
        if name not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            self._writers[name] = SummaryWriter(str(self._folder / name))
        return self._writers[name]

    def update(self, name: str, update: Update, record: Record, seconds: float) -> None:
        """Writes what an update did.

        Args:
            name: ``"env"`` or ``"control"``.
            update: of the search.
            record: all trials so far.
            seconds: since the search began.
        """
        writer, step = self.writer(name), update.number
        writer.add_scalar("search/reward_mean", sum(update.rewards) / len(update.rewards), step)
        writer.add_scalar("search/trials", len(record.trials), step)
        writer.add_scalar("time/seconds", seconds, step)
        writer.add_scalar("time/seconds_per_update", seconds / (step + 1), step)
        for trial in update.trials:
            writer.add_scalar("time/trial", trial.outcome.seconds, trial.number)
            if trial.outcome.accuracy is not None:
                writer.add_scalar("trial/accuracy", trial.outcome.accuracy, trial.number)
                writer.add_scalar("trial/reward", trial.reward, trial.number)
        for best in record.best():
            writer.add_scalar("search/reward_best", best.reward, step)
            writer.add_scalar("search/accuracy_best", best.outcome.accuracy, step)
            if best.update == step:
                tree = best.candidate.tree
                self.text(name, "search/best_tree", f"{tree}\n\n{trees.indented(tree)}", step)
        writer.flush()

    def learner(self, name: str, update: Update) -> None:
        """Writes how a learner does and which actions its controller prefers."""
        writer = self.writer(name)
        for metric, value in update.metrics.items():
            writer.add_scalar(f"controller/{metric}", value, update.number)
        writer.flush()

    def text(self, name: str, tag: str, text: str, step: int = 0) -> None:
        """Writes a text, such as the config, to a named run; TensorBoard shows it as it is."""
        self.writer(name).add_text(tag, "    " + text.replace("\n", "\n    "), step)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()
