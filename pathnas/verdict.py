"""What an audit's trainings say: how far rankings agree, and which trial can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pathnas import agreement
from pathnas.auditing import INHERITED, SCRATCH, Measured

CONTROL = "multiply-adds"
"""The row that trains nothing: what a tree costs, as a score."""


def findings(measured: Measured, seed: int, share: float) -> dict[str, Any]:
    """Returns what the trainings say, in values that JSON holds.

    Args:
        measured: the trainings.
        seed: of the bootstrap.
        share: of the ceiling, see :func:`recommended`.
    """
    full = (INHERITED, SCRATCH)
    scores: dict[str, Any] = {
        name: {"accuracy": of["accuracy"]} if name in full else of
        for name, of in measured.scores.items()
    }
    tests = sum(len(of) for name, of in scores.items() if name not in full)
    rows: dict[str, Any] = {}
    for name, of in {**scores, CONTROL: {"count": measured.macs}}.items():
        taus: dict[str, Any] = {
            other: {
                metric: asdict(
                    agreement.within(values, seed=seed, tests=tests)
                    if other == name
                    else agreement.between(
                        values, scores[other]["accuracy"], seed=seed, tests=tests
                    )
                )
                for metric, values in of.items()
            }
            for other in full
        }
        rows[name] = {
            "tau": taus,
            "scores": {metric: values.tolist() for metric, values in of.items()},
        }
        if name != CONTROL:
            spread = asdict(agreement.spread(of["accuracy"]))
            cost = {"images": measured.images[name], "seconds": measured.seconds[name]}
            rows[name] |= {**spread, **cost}
    best, reason = recommended(rows, share)
    return {
        "trees": measured.trees,
        "seeds": len(scores[INHERITED]["accuracy"][0]),
        "failed": measured.failed,
        "rows": rows,
        "recommended": best,
        "reason": reason,
    }


def recommended(rows: Mapping[str, Any], share: float) -> tuple[tuple[str, str] | None, str]:
    """Returns the cheapest trial and metric whose ranking is trustworthy, or None, and why.

    Trustworthy is a trial whose tau with full inherited training is above 0 although the best of
    several is looked for (the interval's lower end at the level divided by their number), and is at
    least a share of the ceiling, which is how two full trainings agree. If those agree no better
    than by chance, nothing is trustworthy.

    Args:
        rows: of :func:`findings`.
        share: in (0, 1].
    """
    ceiling = rows[INHERITED]["tau"][INHERITED]["accuracy"]
    if ceiling["low"] <= 0:
        return None, (
            f"two full trainings of the same trees agree no better than by chance "
            f"({_interval(ceiling)}): these trees differ too little for any ranking"
        )
    least = share * ceiling["tau"]
    trusted = {
        (name, metric): tau["tau"]
        for name, row in rows.items()
        if name not in (INHERITED, SCRATCH, CONTROL)
        for metric, tau in row["tau"][INHERITED].items()
        if tau["strict"] > 0 and tau["tau"] >= least
    }
    if not trusted:
        return None, (
            f"no trial's tau is surely above 0 and at least {least:.2f}, {share:.0%} of the ceiling"
        )
    best = min(trusted, key=lambda way: (rows[way[0]]["images"], -trusted[way]))
    tau = trusted[best]
    reason = f"tau {tau:.2f} is surely above 0 and at least {least:.2f}, {share:.0%} of the ceiling"
    control = rows[CONTROL]["tau"][INHERITED]["count"]["tau"]
    if abs(control) >= tau:
        reason += f"; but counting {CONTROL} ranks as well at no cost (tau {control:.2f})"
    return best, reason


def table(found: Mapping[str, Any]) -> str:
    """Returns the findings as lines for a person."""
    trees, rows = len(found["trees"]), found["rows"]
    lines = [
        f"{trees} random trees, {found['seeds']} seeds; base network {found['base']:.4f}",
        *(f"left out: {why}" for why in found["failed"].values()),
        "",
        f"{'validation accuracy':<32}{'mean':>8}{'sd trees':>10}{'sd seeds':>10}"
        f"{'images':>12}{'seconds':>9}",
    ]
    lines += [
        f"{name:<32}{row['mean']:>8.4f}{row['things']:>10.4f}{row['seeds']:>10.4f}"
        f"{row['images']:>12,}{row['seconds']:>9.2f}"
        for name, row in rows.items()
        if name != CONTROL
    ]
    for other in (INHERITED, SCRATCH):
        lines += ["", *_agreements(rows, other)]
    lines += [
        "95% intervals by a bootstrap over trees; one training against one; a full training with",
        "itself is one seed against another, the ceiling. Metrics as in search.reward.metric",
        "",
    ]
    if found["recommended"] is None:
        return "\n".join([*lines, f"no trial can be recommended: {found['reason']}"])
    trial, metric = found["recommended"]
    return "\n".join([*lines, f"recommended: {trial}, by its {metric}: {found['reason']}"])


def _agreements(rows: Mapping[str, Any], other: str) -> list[str]:
    """Returns the lines that tell how all rankings agree with one."""
    metrics = list(
        {metric: None for name in rows if name != CONTROL for metric in rows[name]["tau"][other]}
    )
    lines = [
        f"{'Kendall tau with':<32}{other}",
        " " * 32 + "".join(f"{m:<22}" for m in metrics).rstrip(),
    ]
    for name, row in rows.items():
        taus = row["tau"][other]
        cells = [_interval(taus[m]) if m in taus else "" for m in metrics]
        if name == CONTROL:
            cells = [_interval(taus["count"])]
        lines.append(f"{name:<32}" + "".join(f"{cell:<22}" for cell in cells).rstrip())
    return lines


def _interval(tau: Mapping[str, float]) -> str:
    return f"{tau['tau']:.2f} ({tau['low']:.2f} to {tau['high']:.2f})"
