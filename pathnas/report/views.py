"""What a page shows of a run, worked out of its facts."""

from __future__ import annotations

import base64
import json
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from markupsafe import Markup

from pathnas import config as configs
from pathnas import costs, drawing, networks
from pathnas import tree as trees
from pathnas.facts import PHASES, Facts
from pathnas.report import charts
from pathnas.report.charts import Series
from pathnas.report.family import Family
from pathnas.search import place
from pathnas.tree import Node

NAMES = {
    "base": "base, where the search starts",
    "base_longer": "base, trained as long as the others",
    "wider_base": "wider base of the best tree's cost, from scratch",
    "best": "best tree of the search",
    "control": "best tree of random search",
}
"""Of the networks of a summary, in the order in which they are shown."""

LABELS = {
    "base": "base network",
    "search": "search",
    "control": "random search",
    "full": "full trainings",
    "test": "test",
}

PICTURES = 10
ROWS = 1000
"""Trials at most in the table, the best, so that a page stays small."""
COLUMNS = 40
ERRORS = 20


@dataclass(frozen=True)
class Drawn:
    """A tree and its picture.

    Attributes:
        row: of its trial, or of its network in the summary.
        tree: the tree on one line.
        text: over several lines.
        source: address of the picture, with the picture in it.
    """

    row: dict[str, Any]
    tree: str
    text: str
    source: str


class Painter:
    """Draws the trees of a run, with edges as wide as their multiply-adds in its network.

    Attributes:
        sites: places of the network's cells; none where they are not known.
        weighted: whether they are; otherwise all edges are of one width.
    """

    def __init__(self, facts: Facts) -> None:
        self.sites = _sites(facts)
        self.weighted = bool(self.sites)

    def draw(self, tree: Node, row: dict[str, Any]) -> Drawn:
        """Returns a tree with its picture."""
        weights = None
        if self.sites:
            weights = {path: cost.macs for path, cost in costs.edges(tree, self.sites).items()}
        picture = base64.b64encode(drawing.render(tree, "svg", costs=weights)).decode()
        source = f"data:image/svg+xml;base64,{picture}"
        return Drawn(row, str(tree), trees.indented(tree), source)


def _sites(facts: Facts) -> Sequence[Any]:
    """Returns the cells' places; none where only the user's own code could tell them."""
    about = facts.path / "best" / "about.json"
    if facts.config["plugins"] or facts.config["base"]["model"] or not about.is_file():
        return ()
    known = json.loads(about.read_text(encoding="utf-8"))
    shape, base = known["image_shape"], configs.restore(facts.config).base
    sketch = networks.sketch(channels=shape[0], classes=known["classes"], **base.arguments())
    return networks.sites(sketch, shape)


def best_trees(facts: Facts, painter: Painter) -> list[Drawn]:
    """Returns the pictures of the search's best trials, best first."""
    rows = facts.best(count=PICTURES)
    return [painter.draw(trees.from_json(facts.trees[row["key"]]), row) for row in rows]


def answer(facts: Facts, painter: Painter) -> Drawn | None:
    """Returns the tree that was found; of a run that goes on, the best so far; None: none yet."""
    if facts.summary is not None:
        tree = trees.from_dict(facts.summary["best_tree"])
        return painter.draw(tree, facts.summary["networks"]["best"])
    for row in facts.best():
        return painter.draw(trees.from_json(facts.trees[row["key"]]), row)
    return None


def verdict(facts: Facts) -> list[str]:
    """Returns in sentences what came out, and how sure one may be."""
    if facts.summary is None:
        return []
    found, count = facts.summary["networks"], facts.summary["test_images"]
    best = found["best"]
    said = [
        f"The best tree classifies {best['test']:.2%} of {count:,} test images right, at "
        f"{best['macs'] / found['base']['macs']:.2f} times the base network's multiply-adds."
    ]
    for name in ("base_longer", "wider_base", "control"):
        other = found.get(name, {})
        if "test" not in other:
            continue
        difference = 100 * (best["test"] - other["test"])
        error = 100 * math.sqrt(_variance(best["test"], count) + _variance(other["test"], count))
        way = "above" if difference >= 0 else "below"
        sure = "more" if abs(difference) > 2 * error else "not more"
        said.append(
            f"{abs(difference):.2f} points {way} the {NAMES[name]}: {sure} than two standard "
            f"errors of such a difference ({2 * error:.2f} points)."
        )
    return said


def _variance(share: float, count: int) -> float:
    return share * (1 - share) / max(1, count)


def commands(facts: Facts) -> list[tuple[str, str]]:
    """Returns what one may do next with a run, each with the command for it."""
    folder, name = shlex.quote(str(facts.path)), shlex.quote(facts.name)
    resume = f"python -m pathnas.run --resume {folder}"
    if facts.summary is None:
        again = "Look again (this page is of the moment when it was written)"
        return [("Go on", resume), (again, f"python -m pathnas.report {folder}")]
    return [
        ("Export as plain PyTorch", f"python -m pathnas.export {folder} --to {name}-net"),
        ("Train the tree anew, in full", f"python -m pathnas.train {folder} --to {name}-trained"),
        ("Search on", f"{resume} --extend trials={facts.config['search']['trials']}"),
    ]


def progress(facts: Facts) -> Markup:
    """Draws the best accuracy so far of the search and of its control."""
    series = [
        Series(LABELS[name], name, climbing(facts, name), "steps") for name in ("search", "control")
    ]
    if "base" in facts.trainings:
        level, last = facts.trainings["base"]["accuracy"], max(map(len, facts.trials.values()))
        series.append(Series("base network", "base", [(0, level), (max(1, last), level)], "line"))
    return charts.chart(
        "best accuracy so far", "distinct trees trained", "best validation accuracy", series
    )


def climbing(facts: Facts, search: str) -> list[charts.Point]:
    """Returns the best validation accuracy after each trial."""
    rows = facts.sound(search)
    best = accumulate((row["accuracy"] for row in rows), max)
    return [(row["number"] + 1, value) for row, value in zip(rows, best, strict=True)]


def spread(facts: Facts) -> Markup:
    """Draws the accuracy of every trial, in order of proposal."""
    series = [
        Series(
            LABELS[name],
            name,
            [(row["number"] + 1, row["accuracy"]) for row in facts.sound(name)],
            notes=[f"{row['accuracy']:.4f} {row['key']}" for row in facts.sound(name)],
        )
        for name in ("control", "search")
    ]
    return charts.chart("all trials", "trial", "validation accuracy", series)


def front(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the trials that no other beats in accuracy without more multiply-adds."""
    found: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["macs"], -row["accuracy"])):
        if not found or row["accuracy"] > found[-1]["accuracy"]:
            found.append(row)
    return found


def pareto(facts: Facts) -> Markup:
    """Draws accuracy over multiply-adds, with the front of the search."""
    known = {
        name: [row for row in facts.sound(name) if row["macs"]] for name in ("control", "search")
    }
    series = [
        Series(
            LABELS[name],
            name,
            [(row["macs"], row["accuracy"]) for row in rows],
            notes=[f"{row['accuracy']:.4f} {row['key']}" for row in rows],
        )
        for name, rows in known.items()
    ]
    best = front(known["search"])
    line = [(row["macs"], row["accuracy"]) for row in best]
    series.append(Series("front of the search", "front", line, "steps"))
    return charts.chart("cost", "multiply-adds for one image", "validation accuracy", series)


def preferences(facts: Facts) -> Markup:
    """Draws how often the controller took each action, over the updates."""
    updates = facts.updates.get("search", [])
    names = [name for name in (updates[0]["metrics"] if updates else {}) if "frequency/" in name]
    rows = []
    for name in names:
        shares = [update["metrics"].get(name, 0.0) for update in updates]
        rows.append((name.partition("/")[2], _thinned(shares)))
    return charts.heat(rows, f"updates, 1 to {len(updates)}")


def _thinned(values: Sequence[float]) -> list[float]:
    """Returns at most :data:`COLUMNS` means of neighbours."""
    count = min(len(values), COLUMNS)
    cuts = [round(n * len(values) / count) for n in range(count + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]


def learning(facts: Facts) -> Markup:
    """Draws the entropy of the controller's decisions."""
    points = [
        (update["number"] + 1, update["metrics"]["entropy"])
        for update in facts.updates.get("search", [])
        if "entropy" in update["metrics"]
    ]
    series = [Series("entropy of a decision", "search", points, "line")]
    return charts.chart("entropy", "update", "nats", series)


def times(facts: Facts) -> Markup:
    """Draws the seconds of each phase."""
    whole = sum(facts.seconds.get(name, 0.0) for name in PHASES) or 1.0
    rows = [
        (LABELS[name], seconds, f"{duration(seconds)} ({seconds / whole:.0%})")
        for name in PHASES
        if (seconds := facts.seconds.get(name)) is not None
    ]
    return charts.bars(rows)


def table(facts: Facts, family: Family) -> tuple[list[dict[str, Any]], int]:
    """Returns the trials for the table, and how many are left out of it.

    Of too many the failed ones and the best are kept. Each has `details`, what else is known, the
    training loss of its last epoch as `loss`, None if that is unknown, and its drawn `curve`.
    """
    rows = [row for name in ("search", "control") for row in facts.trials.get(name, [])]
    kept = sorted(rows, key=lambda row: (row["accuracy"] is not None, *_place(row)))
    numbers = {(row["search"], row["number"]) for row in kept[:ROWS]}
    shown = [
        {**row, "details": _details(facts, row, family), **_curve(facts, row)}
        for row in rows
        if (row["search"], row["number"]) in numbers
    ]
    return shown, len(rows) - len(shown)


def _place(row: dict[str, Any]) -> tuple[float, float, int]:
    return place(row["stopped"], row["reward"] or 0.0, row["number"])


def trainings(facts: Facts) -> list[dict[str, Any]]:
    """Returns the full trainings done, in order; each as a trial's row of :func:`table` has it."""
    return [
        {"name": _training(name), **one, **_drawn(one["curve"])}
        for name, one in facts.trainings.items()
        if not name.startswith("test of ")
    ]


def _training(name: str) -> str:
    """Writes the name under which a training is recorded for a person.

    >>> _training("control-2"), _training("wider_base-1-first")
    ('random search, tree 2', 'wider base, run 1, first part')
    """
    known = re.fullmatch(r"([a-z_]+)(?:-([0-9]+))?(?:-(first|everything))?", name)
    if known is None:
        return name
    kind, number, part = known.groups()
    label = {"base_longer": "base, trained longer", "wider_base": "wider base"}.get(kind)
    said = [label or LABELS.get(kind, kind)]
    if number is not None:
        said.append(f"{'tree' if kind in ('search', 'control') else 'run'} {number}")
    if part is not None:
        said.append("first part" if part == "first" else "again, on validation images too")
    return ", ".join(said)


def _curve(facts: Facts, row: dict[str, Any]) -> dict[str, Any]:
    return _drawn(facts.curves.get((row["search"], row["number"]), ()))


def _drawn(losses: Sequence[float]) -> dict[str, Any]:
    if not losses:
        return {"loss": None, "curve": ""}
    return {"loss": losses[-1], "curve": charts.spark(losses, _thinned(losses))}


def _details(facts: Facts, row: dict[str, Any], family: Family) -> str:
    tree = trees.from_json(facts.trees[row["key"]])
    lines = [trees.indented(tree), "", f"family     {family.line(row, tree)}"]
    lines += family.receipt(tree)
    known = {name: row[name] for name in ("parameters", "images", "seed", "attempt", "error")}
    lines += [f"{name:<10} {value}" for name, value in known.items() if value is not None]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Writes seconds for a person.

    >>> duration(4.7), duration(130.5), duration(7322)
    ('4.7 s', '2 min 10 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60} min"
