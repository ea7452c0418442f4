"""Curves drawn by hand, as SVG with its labels beside it: a few kilobytes of text that every browser shows without
asking anybody.

The picture is stretched to the place it is given, in a telephone as on a desk; figures and names are not part of it,
but stand at their share of its width and height, so that they keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

SIDE = 1000
"""Units that the picture is wide, and high."""
MOST_POINTS = 600
"""Columns that a curve is drawn with: of each, its lowest and its highest value, so that no spike is lost."""
TICKS = 5
Style = Literal["faint", "line", "points"]


@dataclass(frozen=True)
class Series:
    """One series.

    Attributes:
        xs: steps, rising.
        ys: values; those that are not finite are left out.
        style: how it is drawn.
        colour: class of the page's style sheet that gives the colour.
    """

    xs: Sequence[float]
    ys: Sequence[float]
    style: Style
    colour: str


@dataclass(frozen=True)
class EventMarker:
    """An event: a line at a step, with a text that appears when pointed at."""

    step: float
    label: str
    colour: str = "event"


@dataclass(frozen=True)
class ReferenceLine:
    """A value to hold a curve against, with its name."""

    value: float
    label: str


@dataclass(frozen=True)
class _Scale:
    """From values to places on the picture."""

    low: float
    high: float
    first: float
    last: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.is_log else v for v in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.first + share * (self.last - self.first)


def draw(
    title: str,
    curves: Sequence[Series],
    marks: Sequence[EventMarker] = (),
    levels: Sequence[ReferenceLine] = (),
    *,
    log: bool = False,
) -> str:
    """The picture with its labels as one element; empty where no curve has a value to show.

    Args:
        title: read by those who cannot see it.
        curves: drawn in this order.
        marks: events; those outside the curves' steps are left out.
        levels: values; only those within the curves' range are shown, so that none squeezes them.
        log: a logarithmic scale; values that are not positive are left out.
    """
    shown = [(curve, _points(curve, log=log)) for curve in curves]
    everything = [point for _, points in shown for point in points]
    if not everything:
        return ""
    x, y = _scales(everything, log=log)
    parts = [_grid(y)]
    parts += [_line("level", y(level.value)) for level in _within(levels, y)]
    parts += [_mark(mark, x) for mark in marks if x.low <= mark.step <= x.high]
    parts += [_curve(curve, points, x, y) for curve, points in shown]
    labels = [_label("y", "top", y(v), number(v)) for v in ticks(y.low, y.high, log=y.is_log)]
    labels += [_label("x", "left", x(v), number(v)) for v in ticks(x.low, x.high) if v == int(v)]
    labels += [_label("level", "top", y(level.value), level.label) for level in _within(levels, y)]
    svg = f'<svg viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none">{"".join(parts)}</svg>'
    return f'<div class="plot" role="img" aria-label="{escape(title)}">{svg}{"".join(labels)}</div>'


def _points(curve: Series, *, log: bool) -> list[tuple[float, float]]:
    pairs = zip(curve.xs, curve.ys, strict=True)
    good = [(float(x), float(y)) for x, y in pairs if math.isfinite(y) and (y > 0 or not log)]
    return _thinned(good)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= 2 * MOST_POINTS:
        return points
    width = math.ceil(len(points) / MOST_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), width):
        column = points[start : start + width]
        kept += sorted({min(column, key=lambda p: p[1]), max(column, key=lambda p: p[1])})
    return kept


def _scales(points: Sequence[tuple[float, float]], *, log: bool) -> tuple[_Scale, _Scale]:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - abs(low) / 2 - 0.5, high + abs(high) / 2 + 0.5)
    return (
        _Scale(min(xs), max(xs), 0, SIDE),
        _Scale(low, high, SIDE, 0, is_log=log),
    )


def ticks(low: float, high: float, *, log: bool = False) -> list[float]:
    """Round values between two others, about five; powers of ten on a logarithmic scale where there are enough."""
    if log:
        powers = [10.0**n for n in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
        if len(powers) >= 2:
            return powers[:: math.ceil(len(powers) / TICKS)]
    span = high - low
    if span <= 0:
        return [low]
    rough = span / TICKS
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    first = math.ceil(low / step)
    return [n * step for n in range(first, first + 4 * TICKS) if n * step <= high]


def number(value: float) -> str:
    """A figure as one reads it: 1,500, 0.02, 3e-08."""
    digits = f"{value:.4g}"
    return f"{float(digits):,.10g}" if 1e-4 <= abs(value) < 1e7 else digits


def _within(levels: Sequence[ReferenceLine], y: _Scale) -> list[ReferenceLine]:
    return [level for level in levels if y.low <= level.value <= y.high]


def _label(kind: str, side: str, at: float, text: str) -> str:
    return f'<span class="{kind}" style="{side}:{100 * at / SIDE:.2f}%">{escape(text)}</span>'


def _line(name: str, at: float) -> str:
    return f'<path class="{name}" d="M0 {at:.1f}H{SIDE}"/>'


def _grid(y: _Scale) -> str:
    return "".join(_line("grid", y(value)) for value in ticks(y.low, y.high, log=y.is_log))


def _mark(mark: EventMarker, x: _Scale) -> str:
    label = escape(f"{mark.step:,.0f}: {mark.label}")
    path = f'd="M{x(mark.step):.1f} 0V{SIDE}"/>'
    wide = f'<path class="near" {path}'  # two pixels are hard to point at
    return f'<g class="mark {escape(mark.colour)}"><title>{label}</title>{wide}<path {path}</g>'


def _curve(curve: Series, points: Sequence[tuple[float, float]], x: _Scale, y: _Scale) -> str:
    places = [f"{x(a):.1f} {y(b):.1f}" for a, b in points]
    colour = escape(curve.colour)
    path = f'<path class="curve {curve.style} {colour}" d="M{"L".join(places)}"/>' if len(places) > 1 else ""
    if curve.style == "points" or len(places) == 1:
        path += f'<path class="dot {colour}" d="{"".join(f"M{place}h0" for place in places)}"/>'
    return path
