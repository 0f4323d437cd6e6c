"""Pages: one HTML file each, with all that it needs in it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import resources
from typing import Any

import yaml
from jinja2 import DictLoader, Environment, StrictUndefined

from pathnas.dotted import flattened
from pathnas.facts import Facts
from pathnas.report import charts, views
from pathnas.report.charts import Series
from pathnas.report.family import Family

EVENTS = 30


def run_page(facts: Facts) -> str:
    """Returns the page of a run, as HTML.

    What comes out of the record is escaped; nothing in the page is fetched from anywhere.
    """
    painter = views.Painter(facts)
    rows, left_out = views.table(facts, Family(facts, painter.sites))
    return _render(
        "run.html",
        title=facts.name,
        facts=facts,
        shape=_shape(facts),
        answer=views.answer(facts, painter),
        weighted=painter.weighted,
        best=views.best_trees(facts, painter),
        verdict=views.verdict(facts),
        commands=views.commands(facts),
        networks=_networks(facts),
        progress=views.progress(facts),
        spread=views.spread(facts),
        pareto=views.pareto(facts),
        front=views.front([row for row in facts.sound("search") if row["macs"]]),
        preferences=views.preferences(facts),
        learning=views.learning(facts),
        times=views.times(facts),
        trainings=views.trainings(facts),
        rows=rows,
        left_out=left_out,
        failures={name: facts.failures(name) for name in facts.trials if facts.failures(name)},
        errors=facts.errors[-views.ERRORS :],
        events=[(_moment(event["time"]), event) for event in facts.events[-EVENTS:]],
        config=yaml.safe_dump(facts.config, sort_keys=False),
    )


def comparison_page(runs: Sequence[Facts]) -> str:
    """Returns a page that puts runs side by side.

    Raises:
        ValueError: if there are fewer than two.
    """
    if len(runs) < 2:
        raise ValueError(f"expected at least two runs to compare, got {len(runs)}")
    names = [f"{number}. {facts.name}" for number, facts in enumerate(runs, start=1)]
    series = [
        Series(name, f"run{number % 6}", views.climbing(facts, "search"), "steps")
        for number, (name, facts) in enumerate(zip(names, runs, strict=True))
    ]
    across, up = "distinct trees trained", "best validation accuracy"
    flat = [flattened(facts.config) for facts in runs]
    keys = [key for key in {key: None for one in flat for key in one} if key != "runs"]
    differing = [
        (key, [one.get(key, "-") for one in flat])
        for key in keys
        if len({str(one.get(key, "-")) for one in flat}) > 1
    ]
    return _render(
        "comparison.html",
        title=" / ".join(facts.name for facts in runs),
        runs=list(zip(names, runs, strict=True)),
        answers=[views.answer(facts, views.Painter(facts)) for facts in runs],
        networks=[dict(_networks(facts)) for facts in runs],
        order=list(views.NAMES.items()),
        progress=charts.chart("best accuracy so far", across, up, series),
        differing=differing,
    )


def _networks(facts: Facts) -> list[tuple[str, dict[str, Any]]]:
    found = {} if facts.summary is None else facts.summary["networks"]
    return [(name, found[name]) for name in views.NAMES if name in found]


def _shape(facts: Facts) -> dict[str, Any]:
    """Returns what was searched, on what, and when."""
    search, data = facts.config["search"], facts.config["data"]
    base = facts.config["base"]["model"] or facts.config["base"]["network"]["name"]
    begun = facts.events[0]["time"] if facts.events else None
    return {
        "base": base,
        "data": data["name"],
        "images": {name: data.get(name) for name in ("train", "validation", "test")},
        "controller": search["controller"]["name"],
        "budget": search["trials"],
        "depth": search["depth"],
        "metric": search["reward"].get("metric", "accuracy"),
        "begun": None if begun is None else _moment(begun),
        "written": _moment(time.time()),
    }


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def _render(template: str, **values: Any) -> str:
    folder = resources.files("pathnas.report") / "templates"
    names = ("page.html", "style.css", "script.js", "run.html", "comparison.html")
    sources = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda value: f"{value:.2%}",
        "short": charts.short,
        "duration": views.duration,
    }
    environment.globals |= {"network_names": views.NAMES, "phase_names": views.LABELS}
    return environment.get_template(template).render(**values)
