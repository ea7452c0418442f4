"""Line charts as hand-written SVG plus HTML labels: a few kilobytes of text that every browser displays offline.

The SVG is stretched to the size of its container. Labels are HTML elements placed by percentage, so their font size
stays the same on a phone and on a desktop screen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

SIZE = 1000
"""Width and height of the SVG, in its own units."""
MAX_COLUMNS = 600
"""A longer series is reduced to the lowest and the highest value of this many columns, so no spike is lost."""
TARGET_TICKS = 5
Style = Literal["faint", "line", "points"]


@dataclass(frozen=True)
class Series:
    """One series of values.

    Attributes:
        xs: steps, ascending.
        ys: values; values that are not finite are omitted.
        style: how it is drawn.
        color: CSS class that sets the color.
    """

    xs: Sequence[float]
    ys: Sequence[float]
    style: Style
    color: str


@dataclass(frozen=True)
class EventMarker:
    """A vertical line at a step, with a label that appears on hover."""

    step: float
    label: str
    color: str = "event"


@dataclass(frozen=True)
class ReferenceLine:
    """A labeled horizontal line to compare a series with."""

    value: float
    label: str


@dataclass(frozen=True)
class _Scale:
    """Maps values in [low, high] to coordinates in [first, last]."""

    low: float
    high: float
    first: float
    last: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.is_log else v for v in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.first + share * (self.last - self.first)


def render_chart(
    title: str,
    series: Sequence[Series],
    markers: Sequence[EventMarker] = (),
    references: Sequence[ReferenceLine] = (),
    *,
    log: bool = False,
) -> str:
    """Return a chart as one HTML element, or an empty string if no series has a value to show.

    Args:
        title: accessible name, for screen readers.
        series: drawn in this order.
        markers: events; those outside the steps of the series are omitted.
        references: reference lines; those outside the range of the series are omitted, so that they do not squeeze it.
        log: use a logarithmic y axis; values that are not positive are omitted.
    """
    drawn = [(one, _visible_points(one, log=log)) for one in series]
    all_points = [point for _, points in drawn for point in points]
    if not all_points:
        return ""
    x, y = _scales(all_points, log=log)
    references = [line for line in references if y.low <= line.value <= y.high]
    parts = [_grid(y)]
    parts += [_horizontal_line("level", y(line.value)) for line in references]
    parts += [_marker(marker, x) for marker in markers if x.low <= marker.step <= x.high]
    parts += [_curve(one, points, x, y) for one, points in drawn]
    labels = [_label("y", "top", y(v), format_tick(v)) for v in ticks(y.low, y.high, log=y.is_log)]
    labels += [_label("x", "left", x(v), format_tick(v)) for v in ticks(x.low, x.high) if v == int(v)]
    labels += [_label("level", "top", y(line.value), line.label) for line in references]
    svg = f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none">{"".join(parts)}</svg>'
    return f'<div class="plot" role="img" aria-label="{escape(title)}">{svg}{"".join(labels)}</div>'


def _visible_points(series: Series, *, log: bool) -> list[tuple[float, float]]:
    pairs = zip(series.xs, series.ys, strict=True)
    return _thin_out([(float(x), float(y)) for x, y in pairs if math.isfinite(y) and (y > 0 or not log)])


def _thin_out(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= 2 * MAX_COLUMNS:
        return points
    width = math.ceil(len(points) / MAX_COLUMNS)
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
    return _Scale(min(xs), max(xs), 0, SIZE), _Scale(low, high, SIZE, 0, is_log=log)


def ticks(low: float, high: float, *, log: bool = False) -> list[float]:
    """Return about five round values in [low, high]; on a logarithmic axis powers of ten, if there are at least two."""
    if log:
        powers = [10.0**n for n in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
        if len(powers) >= 2:
            return powers[:: math.ceil(len(powers) / TARGET_TICKS)]
    span = high - low
    if span <= 0:
        return [low]
    rough = span / TARGET_TICKS
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    first = math.ceil(low / step)
    return [n * step for n in range(first, first + 4 * TARGET_TICKS) if n * step <= high]


def format_tick(value: float) -> str:
    """Format a tick label: 1,500, 0.02, 3e-08."""
    digits = f"{value:.4g}"
    return f"{float(digits):,.10g}" if 1e-4 <= abs(value) < 1e7 else digits


def _label(kind: str, side: str, at: float, text: str) -> str:
    return f'<span class="{kind}" style="{side}:{100 * at / SIZE:.2f}%">{escape(text)}</span>'


def _horizontal_line(name: str, at: float) -> str:
    return f'<path class="{name}" d="M0 {at:.1f}H{SIZE}"/>'


def _grid(y: _Scale) -> str:
    return "".join(_horizontal_line("grid", y(value)) for value in ticks(y.low, y.high, log=y.is_log))


def _marker(marker: EventMarker, x: _Scale) -> str:
    label = escape(f"{marker.step:,.0f}: {marker.label}")
    path = f'd="M{x(marker.step):.1f} 0V{SIZE}"/>'
    hover_area = f'<path class="near" {path}'  # a line of two pixels is hard to point at
    return f'<g class="mark {escape(marker.color)}"><title>{label}</title>{hover_area}<path {path}</g>'


def _curve(series: Series, points: Sequence[tuple[float, float]], x: _Scale, y: _Scale) -> str:
    places = [f"{x(a):.1f} {y(b):.1f}" for a, b in points]
    color = escape(series.color)
    path = f'<path class="curve {series.style} {color}" d="M{"L".join(places)}"/>' if len(places) > 1 else ""
    if series.style == "points" or len(places) == 1:
        path += f'<path class="dot {color}" d="{"".join(f"M{place}h0" for place in places)}"/>'
    return path
