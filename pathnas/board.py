"""TensorBoard event files of a run.

Three runs by name: ``env`` (what the search proposed and got), ``controller`` (how it learns) and
``control`` (what random search got). Steps are updates, except for ``trial/`` and ``time/trial``,
where they are trials in order of proposal. At the end of a search some of its trials become runs of
their own, ``trials/<number>``, whose steps are epochs. docs/runs.md has a table of all tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from pathnas import board_graph, costs, drawing
from pathnas import tree as trees
from pathnas.cell import Site
from pathnas.dotted import flattened
from pathnas.outcomes import Candidate
from pathnas.search import Record, Trial, Update

BEST = 10
"""Pictures of the best trees, at the end of a search."""

CURVES = 30
"""Trials of a search at most whose learning curves are written: the best :data:`BEST`, and others
spread evenly over the search. Each is a run of its own, and TensorBoard is slow with hundreds."""

NEW_BEST = 100
"""Pictures of new best trees at most, which bounds the files; each is some 20 KB."""

ENCODINGS = 2000
"""Trees in the projector at most; each is about a kilobyte."""

LAYOUT = {
    "search": {
        "best accuracy so far": ["Multiline", ["search/accuracy_best"]],
        "accuracy of all trials": ["Multiline", ["trial/accuracy"]],
    },
    "controller": {"entropy": ["Multiline", ["controller/entropy"]]},
}
"""Of the page of custom scalars: each chart has the search's line and its control's."""


class Board:
    """Writes the event files of a search and its control.

    A context manager, which closes the files.

    Args:
        folder: of the event files; each run gets a folder below it.
        sites: places of the network's cells; the pictures of trees go by what they cost there.
    """

    def __init__(self, folder: Path, sites: Sequence[Site] = ()) -> None:
        self._folder = folder
        self._sites = sites
        self._writers: dict[str, Any] = {}
        self._sums: dict[tuple[str, str], float] = {}
        self._pictures = 0
        self._shares: dict[str, list[dict[str, float]]] = {}

    def writer(self, name: str) -> Any:
        """Returns the writer of a named run, opened at first use."""
        if name not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            self._writers[name] = SummaryWriter(str(self._folder / name))
        return self._writers[name]

    def begin(self, config: str, resume: str) -> None:
        """Writes what is known from the start.

        Args:
            config: the resolved config, as YAML.
            resume: the command that continues the run.
        """
        self.writer("env").add_custom_scalars(LAYOUT)
        self.text("env", "run/config", config)
        self.text("env", "run/resume", resume)

    def update(
        self, name: str, update: Update, record: Record, seconds: float, budget: int
    ) -> None:
        """Writes what an update did.

        Args:
            name: ``"env"`` or ``"control"``.
            update: of the search.
            record: all trials so far.
            seconds: since the search began.
            budget: distinct trees that the search may train.
        """
        writer, step = self.writer(name), update.number
        failed = sum(trial.outcome.status != "ok" for trial in record.trials.values())
        writer.add_scalar("search/reward_mean", sum(update.rewards) / len(update.rewards), step)
        writer.add_scalar("search/trials", len(record.trials), step)
        writer.add_scalar("search/failed", failed, step)
        writer.add_scalar("time/seconds", seconds, step)
        writer.add_scalar("time/seconds_per_update", seconds / (step + 1), step)
        self._trials(name, update)
        writer.add_scalar("budget/trials_left", max(0, budget - len(record.trials)), step)
        for what in ("trial_seconds", "images"):
            writer.add_scalar(f"budget/{what}", self._sums.get((name, what), 0.0), step)
        for best in record.best():
            writer.add_scalar("search/reward_best", best.reward, step)
            writer.add_scalar("search/accuracy_best", best.outcome.accuracy, step)
            if best.update == step:
                self._new_best(name, best.candidate, best.outcome.accuracy, step)
        writer.flush()

    def _trials(self, name: str, update: Update) -> None:
        writer = self.writer(name)
        for trial in update.trials:
            outcome = trial.outcome
            for what, value in (("trial_seconds", outcome.seconds), ("images", outcome.images)):
                self._sums[name, what] = self._sums.get((name, what), 0.0) + value
            writer.add_scalar("time/trial", outcome.seconds, trial.number)
            if outcome.accuracy is not None:
                writer.add_scalar("trial/accuracy", outcome.accuracy, trial.number)
                writer.add_scalar("trial/reward", trial.reward, trial.number)
                if outcome.macs is not None:
                    writer.add_scalar("trial/multiply_adds", outcome.macs, trial.number)

    def _new_best(self, name: str, best: Candidate, accuracy: float | None, step: int) -> None:
        text = f"{best.key}\n\n{trees.indented(best.tree)}"
        self.text(name, "search/best_tree", text, step)
        if name == "env" and self._pictures < NEW_BEST:
            self._pictures += 1
            self._picture(name, "search/best_tree", best, accuracy, step)

    def _picture(
        self, name: str, tag: str, candidate: Candidate, accuracy: float | None, step: int
    ) -> None:
        widths = None
        if self._sites:
            found = costs.edges(candidate.tree, self._sites)
            widths = {path: cost.macs for path, cost in found.items()}
        title = None if accuracy is None else f"validation accuracy {accuracy:.4f} in its trial"
        picture = drawing.rgb(candidate.tree, None, title=title, costs=widths)
        self.writer(name).add_image(tag, picture, step, dataformats="HWC")

    def learner(self, name: str, update: Update) -> None:
        """Writes how a learner does and which actions its controller prefers."""
        writer = self.writer(name)
        for metric, value in update.metrics.items():
            writer.add_scalar(f"controller/{metric}", value, update.number)
        prefix = "frequency/"
        shares = {k[len(prefix) :]: v for k, v in update.metrics.items() if k.startswith(prefix)}
        self._shares.setdefault(name, []).append(shares)
        writer.flush()

    def searched(self, name: str, learner: str, record: Record) -> None:
        """Writes pictures and learning curves of a search that has ended; of its control none.

        The best trees, the best one last, where TensorBoard opens, the actions over time, and the
        training losses of :func:`curved` trials by epoch.

        Args:
            name: ``"env"`` or ``"control"``.
            learner: name under which its learner was written.
            record: all its trials.
        """
        if name == "control":
            return
        for place, trial in enumerate(reversed(record.best(BEST))):
            accuracy = trial.outcome.accuracy
            self._picture(name, "search/best_trees", trial.candidate, accuracy, place)
        shares = self._shares.get(learner, [])
        if shares and shares[0]:
            self.writer(learner).add_image("controller/actions", heat(shares), dataformats="HWC")
        for trial in curved(record):
            writer = self.writer(f"trials/{trial.number}")
            for epoch, loss in enumerate(trial.outcome.curve, start=1):
                writer.add_scalar("trial/loss", loss, epoch)
            writer.flush()

    def ended(self, summary: Mapping[str, Any], config: Mapping[str, Any], next_: str) -> None:
        """Writes the result, and settings beside it, so that runs can be compared.

        Args:
            summary: of the run.
            config: of the run, as nested dictionaries.
            next_: what may be done with the result.
        """
        from torch.utils.tensorboard.summary import hparams

        writer, metrics = self.writer("env"), {}
        for name, row in summary["networks"].items():
            for what in ("validation", "test", "macs"):
                if what in row:
                    metrics[f"result/{name}_{what}"] = float(row[what])
        for tag, value in metrics.items():
            writer.add_scalar(tag, value, 0)
        kept = {k: v for k, v in flattened(config).items() if k.startswith(SETTINGS)}
        plain = {k: v if isinstance(v, (bool, int, float)) else str(v) for k, v in kept.items()}
        for part in hparams(plain, dict(metrics)):
            writer.file_writer.add_summary(part)
        self.text("env", "run/next", next_)
        writer.flush()

    def encodings(self, name: str, trials: Sequence[Trial], encodings: Tensor) -> None:
        """Writes how a controller reads the trees of trials, for the projector.

        Args:
            name: under which the controller was written.
            trials: that succeeded; at most :data:`ENCODINGS`.
            encodings: of their trees, `[N, D]`.
        """
        labels = [[one.candidate.key, f"{one.outcome.accuracy:.4f}"] for one in trials]
        self.writer(name).add_embedding(
            encodings, labels, metadata_header=["tree", "accuracy"], tag="trees"
        )

    def network(self, network: nn.Module) -> None:
        """Writes the graph of the best network, or why there is none.

        Args:
            network: in eval mode.
        """
        from tensorboard.compat.proto.event_pb2 import Event

        try:
            graph = board_graph.definition(network)
        except Exception as error:  # of a person's own network, which may do what it likes
            self.text("env", "run/graph", f"torch.fx cannot trace the network: {error!r}")
            return
        # SummaryWriter's own way goes through torch.jit.trace, which is on its way out.
        event = Event(graph_def=graph.SerializeToString())
        self.writer("env").file_writer.add_event(event)

    def text(self, name: str, tag: str, text: str, step: int = 0) -> None:
        """Writes a text, such as the config, to a named run; TensorBoard shows it as it is."""
        self.writer(name).add_text(tag, "    " + text.replace("\n", "\n    "), step)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()


SETTINGS = (
    *("seed", "data.name", "base.network.name", "base.network.widths"),
    *("search.trials", "search.episodes", "search.depth", "search.max_macs", "search.ops"),
    *("search.controller.name", "search.controller.learning_rate", "search.controller.entropy"),
    *("search.trial.epochs", "search.trial.learning_rate", "final.training.epochs"),
)
"""What keys begin with that stand in the table of hyperparameters."""


def curved(record: Record) -> list[Trial]:
    """Returns the trials whose learning curves are shown, in order; see :data:`CURVES`."""
    known = [trial for trial in record.trials.values() if trial.outcome.curve]
    best = {trial.number for trial in record.best(BEST)}
    chosen = [trial for trial in known if trial.number in best]
    others = sorted((t for t in known if t.number not in best), key=lambda trial: trial.number)
    count = min(len(others), CURVES - len(chosen))
    chosen += [others[place * len(others) // count] for place in range(count)]
    return sorted(chosen, key=lambda trial: trial.number)


def heat(shares: Sequence[Mapping[str, float]]) -> NDArray[np.uint8]:
    """Draws the share of each action among the decisions of its kind, over the updates.

    Args:
        shares: in [0, 1] by action, one mapping an update, all with the same actions.

    Returns:
        `[H, W, 3]` uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(shares[0])
    height = 0.28 * len(names) + 1
    figure = Figure(figsize=(7.2, height), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.17, 0.55 / height, 0.81, 0.28 * len(names) / height))
    values = [[one[name] for one in shares] for name in names]
    axes.imshow(values, aspect="auto", vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("update")
    axes.set_title("share of each action among the decisions of its kind, white 0 to dark 1")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
