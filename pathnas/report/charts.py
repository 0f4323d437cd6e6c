"""Charts as inline SVG: no library in the page; its style sheet colours them, light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

Point = tuple[float, float]

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 42


@dataclass(frozen=True)
class Series:
    """One set of points.

    Attributes:
        name: for the legend.
        style: class of the style sheet, such as ``"search"``.
        points: in order; for a scatter each may have a text in `notes`.
        kind: ``"dots"``, ``"line"``, or ``"steps"``, a value that holds until the next.
        notes: shown when the pointer rests on a point.
    """

    name: str
    style: str
    points: Sequence[Point]
    kind: str = "dots"
    notes: Sequence[str] = ()


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Returns round numbers within a range, about as many as asked.

    >>> ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= count + 1e-9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def short(value: float) -> str:
    """Writes a number in a few letters.

    >>> short(1_500_000), short(45_372), short(0.95), short(3.0)
    ('1.5M', '45.4k', '0.95', '3')
    """
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.4g}"


def chart(title: str, across: str, up: str, series: Sequence[Series]) -> Markup:
    """Draws series in one frame, with axes that fit them.

    Args:
        title: told to screen readers.
        across: label of the horizontal axis.
        up: label of the vertical axis.
        series: what is drawn; empty ones are left out.

    Returns:
        An ``<svg>``, or a sentence if there is nothing to draw.
    """
    series = [one for one in series if one.points]
    if not series:
        return Markup('<p class="empty">Nothing to draw yet.</p>')
    xs, ys = zip(*(point for one in series for point in one.points), strict=True)
    frame = _Frame(*_range(xs), *_range(ys))
    parts = [frame.axes(across, up)]
    parts += [frame.draw(one) for one in series]
    legend = Markup("").join(
        Markup('<span class="key {}">{}</span>').format(one.style, one.name) for one in series
    )
    return Markup(
        '<figure><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        "<figcaption>{}</figcaption></figure>"
    ).format(WIDTH, HEIGHT, title, Markup("").join(parts), legend)


def _range(values: Sequence[float]) -> Point:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or abs(high) * 0.05 or 0.5
    return (low - margin if low != 0 else low), high + margin


@dataclass(frozen=True)
class _Frame:
    """Maps values to places in the picture."""

    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        share = (value - self.left) / (self.right - self.left)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def axes(self, across: str, up: str) -> Markup:
        floor = HEIGHT - BOTTOM
        parts = []
        for value in ticks(self.low, self.high):
            line = '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>'
            text = '<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>'
            y = self.y(value)
            parts.append(Markup(line).format(LEFT, WIDTH - RIGHT, y, y))
            parts.append(Markup(text).format(LEFT - 6, y + 4, short(value)))
        for value in ticks(self.left, self.right, 7):
            text = '<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>'
            parts.append(Markup(text).format(self.x(value), floor + 16, short(value)))
        middle, height = (LEFT + WIDTH - RIGHT) / 2, (TOP + floor) / 2
        label = '<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>'
        parts.append(Markup(label).format(middle, HEIGHT - 6, across))
        turned = '<text class="label" transform="translate(12 {}) rotate(-90)" '
        turned += 'text-anchor="middle">{}</text>'
        parts.append(Markup(turned).format(height, up))
        return Markup("").join(parts)

    def draw(self, series: Series) -> Markup:
        places = [(self.x(x), self.y(y)) for x, y in series.points]
        if series.kind == "dots":
            notes = [*series.notes, *[""] * (len(places) - len(series.notes))]
            dot = '<circle class="{}" cx="{}" cy="{}" r="3.5"><title>{}</title></circle>'
            return Markup("").join(
                Markup(dot).format(series.style, x, y, note)
                for (x, y), note in zip(places, notes, strict=True)
            )
        path = f"M{places[0][0]} {places[0][1]}"
        for x, y in places[1:]:
            path += f"H{x}V{y}" if series.kind == "steps" else f"L{x} {y}"
        return Markup('<path class="{}" d="{}"><title>{}</title></path>').format(
            series.style, path, series.name
        )


SPARK = (72, 18)
"""Width and height of a sparkline, in pixels."""


def spark(values: Sequence[float], points: Sequence[float]) -> Markup:
    """Draws a small curve without axes, over its own range, for a cell of a table.

    Args:
        values: by epoch; the first and last are told where the pointer rests.
        points: what is drawn of them, evenly spaced.

    Returns:
        An ``<svg>``; nothing for fewer than two points, which make no curve.
    """
    if len(points) < 2:
        return Markup("")
    (wide, tall), low, span = SPARK, min(points), max(points) - min(points)
    step = (wide - 4) / (len(points) - 1)
    places = [
        f"{2 + n * step:.1f} {2 + (tall - 4) * (1 - (y - low) / span if span else 0.5):.1f}"
        for n, y in enumerate(points)
    ]
    note = f"{values[0]:.4g} in epoch 1, {values[-1]:.4g} in epoch {len(values)}"
    svg = '<svg class="spark" viewBox="0 0 {} {}" role="img"><title>{}</title><path d="{}"></path>'
    return Markup(svg + "</svg>").format(wide, tall, note, "M" + "L".join(places))


def heat(rows: Sequence[tuple[str, Sequence[float]]], across: str) -> Markup:
    """Draws shares over time, a row a name, the fuller the larger.

    Args:
        rows: names and shares in [0, 1]; all of one length.
        across: label of the horizontal axis.
    """
    columns = max((len(shares) for _, shares in rows), default=0)
    if not columns:
        return Markup('<p class="empty">Nothing to draw yet.</p>')
    left, tall = 110, 20
    height, wide = tall * len(rows) + 30, (WIDTH - left - RIGHT) / columns
    parts = []
    for line, (name, shares) in enumerate(rows):
        y = line * tall
        text = '<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>'
        parts.append(Markup(text).format(left - 6, y + 14, name))
        cell = '<rect class="heat" x="{:.1f}" y="{}" width="{:.2f}" height="{}" '
        cell += 'fill-opacity="{:.2f}"><title>{}: {:.0%}</title></rect>'
        parts += [
            Markup(cell).format(left + n * wide, y, wide + 0.3, tall - 2, share, name, share)
            for n, share in enumerate(shares)
        ]
    label = '<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>'
    parts.append(Markup(label).format((left + WIDTH) / 2, height - 8, across))
    svg = '<figure><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg></figure>'
    return Markup(svg).format(WIDTH, height, "shares of actions", Markup("").join(parts))


def bars(rows: Sequence[tuple[str, float, str]]) -> Markup:
    """Draws one bar a row.

    Args:
        rows: names, lengths and what stands beside the bars.
    """
    longest = max((length for _, length, _ in rows), default=0)
    if not longest > 0:
        return Markup('<p class="empty">Nothing to draw yet.</p>')
    left, tall, space = 110, 26, WIDTH - 110 - 150
    bar = '<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>'
    bar += '<rect class="bar" x="{}" y="{}" width="{:.1f}" height="{}"/>'
    bar += '<text class="tick" x="{:.1f}" y="{}">{}</text>'
    parts = []
    for line, (name, length, note) in enumerate(rows):
        y, wide = line * tall, max(1.0, space * length / longest)
        place = (left - 6, y + 16, name, left, y + 3, wide, tall - 8, left + wide + 6, y + 16, note)
        parts.append(Markup(bar).format(*place))
    svg = '<figure><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg></figure>'
    return Markup(svg).format(WIDTH, tall * len(rows) + 4, "bars", Markup("").join(parts))
