"""What is compared of several searches: curves of their trials, figures of these, a picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAST = 50
"""Trials at the end whose mean tells what a controller proposes once it has learned."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of Okabe and Ito's palette, one for each controller."""


@dataclass(frozen=True)
class Curve:
    """The trials of one search, in order of proposal.

    Attributes:
        rewards: of each trial; at least one.
        seconds: from the start of the search to the update that learned from it.
        tests: test accuracies after full trainings, by name: ``test`` of the best tree, ``base`` of
            the base network trained as long, ``wider`` of a wider base network of the best tree's
            multiply-adds; what was not trained is absent.
    """

    rewards: list[float]
    seconds: list[float]
    tests: Mapping[str, float] = field(default_factory=dict)

    def best_so_far(self, trials: int) -> NDArray[np.float64]:
        """Returns the best reward after each of some trials, `[trials]`.

        A search that ended before so many keeps its best; what went beyond is left out.
        """
        best = np.maximum.accumulate(np.array(self.rewards[:trials]))
        return np.pad(best, (0, trials - len(best)), mode="edge")

    def figures(self, trials: int) -> dict[str, float]:
        """Returns ``best``, ``last`` (mean of the last :data:`LAST`), ``area`` and the tests.

        The area is that under the best so far, divided by the number of trials. Beside them stand
        ``trials``, how many there were, and ``seconds``, how long they took.
        """
        best = self.best_so_far(trials)
        return {
            "best": float(best[-1]),
            "last": statistics.fmean(self.rewards[:trials][-LAST:]),
            "area": float(best.mean()),
            "trials": float(min(trials, len(self.rewards))),
            "seconds": self.seconds[min(trials, len(self.seconds)) - 1],
            **self.tests,
        }


Curves = Mapping[str, Sequence[Curve]]
"""By controller, one curve a seed; the seeds are the same for all."""


def summary(curves: Curves, trials: int) -> dict[str, Any]:
    """Returns the figures of each seed, and what they say against random search if it is there.

    ``random_95`` is the 95th percentile of the rewards of all random trials; ``last_above`` and
    ``area_ahead`` count the seeds whose mean of the last trials lies above it, and whose area is
    larger than that of random search with the same seed.
    """
    rows = {name: [curve.figures(trials) for curve in some] for name, some in curves.items()}
    found: dict[str, Any] = {"trials": trials, "controllers": rows}
    if "random" not in curves:
        return found
    chance = [reward for curve in curves["random"] for reward in curve.rewards[:trials]]
    limit = found["random_95"] = float(np.percentile(chance, 95))
    found["last_above"] = {
        name: sum(row["last"] > limit for row in some) for name, some in rows.items()
    }
    found["area_ahead"] = {
        name: sum(
            row["area"] > other["area"] for row, other in zip(some, rows["random"], strict=True)
        )
        for name, some in rows.items()
    }
    return found


def table(found: Mapping[str, Any]) -> str:
    """Returns the figures of :func:`summary` as a table: mean and standard error over the seeds."""
    rows = found["controllers"]
    titles = {
        **{"best": "best", "last": f"last {LAST}", "area": "area"},
        **{"test": "test: best", "base": "test: base", "wider": "test: wider base"},
        "seconds": "seconds",
    }
    names = [name for name in titles if _all_have(rows, name)]
    lines = [f"{'controller':<12}" + "".join(f"{titles[n]:>20}" for n in names)]
    for controller, some in rows.items():
        cells = [_mean_and_error([row[name] for row in some]) for name in names]
        lines.append(f"{controller:<12}" + "".join(f"{cell:>20}" for cell in cells))
    if "random_95" in found:
        seeds = len(rows["random"])
        lines.append(f"95th percentile of random trials: {found['random_95']:.4f}")
        for name in rows:
            if name != "random":
                lines.append(
                    f"{name}: last {LAST} above it for {found['last_above'][name]} of {seeds} "
                    f"seeds, area ahead of random for {found['area_ahead'][name]}"
                )
    return "\n".join(lines)


def _all_have(rows: Mapping[str, list[dict[str, float]]], name: str) -> bool:
    return all(name in row for some in rows.values() for row in some)


def _mean_and_error(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.4f}"
    return f"{mean:.4f} ± {statistics.stdev(values) / len(values) ** 0.5:.4f}"


def draw(curves: Curves, trials: int) -> Figure:
    """Returns the picture: best so far against trials and against seconds, mean and band.

    The band reaches one standard deviation over the seeds to either side.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    by_trials, by_seconds = figure.subplots(1, 2, sharey=True)
    end = max(curve.seconds[-1] for some in curves.values() for curve in some)
    grid = np.linspace(0, end, 200)
    for index, (name, some) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        rows = np.stack([curve.best_so_far(trials) for curve in some])
        _band(by_trials, np.arange(1, trials + 1), rows, colour, name)
        _band(by_seconds, grid, np.stack([_at(curve, grid) for curve in some]), colour, name)
    by_trials.set(xlabel="trials (distinct trees)", ylabel="best reward so far")
    by_seconds.set(xlabel="seconds of the search")
    by_trials.legend()
    return figure


def _at(curve: Curve, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the best reward at each time; NaN before the first trial has ended."""
    best = np.maximum.accumulate(np.array(curve.rewards))
    ended = np.searchsorted(np.maximum.accumulate(np.array(curve.seconds)), grid, side="right")
    return np.where(ended > 0, best[np.maximum(ended, 1) - 1], np.nan)


def _band(axes: Axes, x: NDArray[Any], rows: NDArray[np.float64], colour: str, name: str) -> None:
    known = ~np.isnan(rows).any(axis=0)
    x, rows = x[known], rows[:, known]
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    axes.plot(x, mean, color=colour, label=name)
    axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
