"""Curves as SVG, drawn by hand: a few hundred bytes of text that every browser shows without asking anybody."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 860, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 26
MOST_POINTS = 600
"""Columns that a curve is drawn with: of each, its lowest and its highest value, so that no spike is lost."""
TICKS = 5
Style = Literal["faint", "line", "points"]


@dataclass(frozen=True)
class Curve:
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
class Mark:
    """An event: a line at a step, with a text that appears when pointed at."""

    step: float
    label: str
    colour: str = "event"


@dataclass(frozen=True)
class Level:
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
    title: str, curves: Sequence[Curve], marks: Sequence[Mark] = (), levels: Sequence[Level] = (), *, log: bool = False
) -> str:
    """The picture as an `<svg>` element; empty where no curve has a value to show.

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
    parts = [_grid(x, y)]
    parts += [_level(level, y) for level in levels if y.low <= level.value <= y.high]
    parts += [_mark(mark, x) for mark in marks if x.low <= mark.step <= x.high]
    parts += [_curve(curve, points, x, y) for curve, points in shown]
    name = escape(title)
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}"><title>{name}</title>'
    return head + "".join(parts) + "</svg>"


def _points(curve: Curve, *, log: bool) -> list[tuple[float, float]]:
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
        _Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT),
        _Scale(low, high, HEIGHT - BOTTOM, TOP, is_log=log),
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


def _grid(x: _Scale, y: _Scale) -> str:
    lines = [
        f'<path class="grid" d="M{LEFT} {y(v):.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.4g}</text>'
        for v in ticks(y.low, y.high, log=y.is_log)
    ]
    lines += [
        f'<text class="tick" x="{x(v):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{v:,.0f}</text>'
        for v in ticks(x.low, x.high)
        if v == int(v)
    ]
    return "".join(lines)


def _level(level: Level, y: _Scale) -> str:
    at, label = y(level.value), escape(level.label)
    return (
        f'<path class="level" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="tick" x="{WIDTH - RIGHT - 4}" y="{at - 4:.1f}" text-anchor="end">{label}</text>'
    )


def _mark(mark: Mark, x: _Scale) -> str:
    label = escape(f"{mark.step:,.0f}: {mark.label}")
    path = f"M{x(mark.step):.1f} {TOP}V{HEIGHT - BOTTOM}"
    return f'<path class="mark {escape(mark.colour)}" d="{path}"><title>{label}</title></path>'


def _curve(curve: Curve, points: Sequence[tuple[float, float]], x: _Scale, y: _Scale) -> str:
    places = [f"{x(a):.1f} {y(b):.1f}" for a, b in points]
    colour = escape(curve.colour)
    path = f'<path class="curve {curve.style} {colour}" d="M{"L".join(places)}"/>' if len(places) > 1 else ""
    if curve.style == "points" or len(places) == 1:
        dots = [place.split() for place in places]
        path += "".join(f'<circle class="dot {colour}" cx="{a}" cy="{b}" r="3"/>' for a, b in dots)
    return path
