"""Parallel coordinates of the trials of a sweep: an axis for each setting and one for the loss, a line for each trial.

The SVG is stretched to the size of its container, as that of `glassgpt.diagnosis.chart`; labels are HTML elements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from glassgpt.diagnosis.chart import SIZE, format_tick
from glassgpt.sweep.records import TrialRecord, ranked
from glassgpt.sweep.show import format_value, format_values, short_names
from glassgpt.sweep.space import Choices, Range, Space, Value

QUINTILES = 5


def trial_class(record: TrialRecord, order: Sequence[TrialRecord]) -> str:
    """Return the CSS class of a trial: `best`, the quintile of its loss `q0` … `q4`, or how it ended otherwise.

    Args:
        record: the trial.
        order: the complete trials, the best first.
    """
    if not record.is_complete:
        return "unfinished" if record.outcome is None else record.outcome.kind
    rank = next(n for n, each in enumerate(order) if each.number == record.number)
    return "best" if rank == 0 else f"q{rank * QUINTILES // len(order)}"


def share(dimension: Range, value: float) -> float:
    """Return the place of a value on its axis, from 0 at the low end to 1."""
    low, high, at = (math.log(v) if dimension.log else v for v in (dimension.low, dimension.high, value))
    return (at - low) / (high - low)


def render_parallel_coordinates(space: Space, trials: Sequence[TrialRecord], loss_label: str) -> str:
    """Return the picture as one HTML element; empty without trials that have ended.

    Args:
        space: the settings, in the order of the axes.
        trials: all trials. One that was pruned or failed has no point on the last axis; one that diverged is at its top.
        loss_label: HTML of the name of the last axis.
    """
    order = ranked(trials)
    ended = [each for each in trials if each.outcome is not None]
    if not ended:
        return ""
    losses = (order[0].loss, order[-1].loss) if order else (0.0, 1.0)
    width = SIZE / len(space)
    axes = "".join(f'<path class="axis" d="M{n * width:.1f} 0V{SIZE}"/>' for n in range(len(space) + 1))
    drawn = [*(each for each in ended if not each.is_complete), *reversed(order)]  # the best on top
    lines = "".join(_line(each, space, order, losses) for each in drawn)
    svg = f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none">{axes}{lines}</svg>'
    names = [escape(name.replace("_", " ")) for name in short_names(each.name for each in space).values()]
    labels = "".join(_labels(n * 100 / len(space), *_ends(each), names[n]) for n, each in enumerate(space))
    labels += _labels(100, f"{losses[0]:.4g}", f"{losses[1]:.4g}", loss_label)
    return (
        f'<div class="wide"><div class="plot parallel" role="img" aria-label="{len(ended)}" '
        f'style="min-width: {5.5 * (len(space) + 1):.1f}rem">{svg}{labels}</div></div>'
    )


def _line(record: TrialRecord, space: Space, order: Sequence[TrialRecord], losses: tuple[float, float]) -> str:
    width = SIZE / len(space)
    points = [(n * width, SIZE * (1 - _place(each, record.values[each.name]))) for n, each in enumerate(space)]
    kind = trial_class(record, order)
    if record.is_complete:
        spread = losses[1] - losses[0]
        points.append((SIZE, SIZE * (1 - (record.loss - losses[0]) / spread) if spread else SIZE))
    elif kind == "diverged":
        points.append((SIZE, 0))
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    outcome = f"{record.loss:.4f}" if record.is_complete else f"{kind} {record.outcome.code if record.outcome else ''}"
    title = escape(f"{record.number}: {outcome.strip()} · {format_values(record.values)}")
    return (
        f'<g class="trial {kind}"><title>{title}</title><path class="near" d="M{path}"/>'
        f'<path class="line" d="M{path}"/></g>'
    )


def _place(dimension: Range | Choices, value: Value) -> float:
    if isinstance(dimension, Range):
        return share(dimension, float(value))
    return dimension.values.index(value) / (len(dimension.values) - 1)


def _ends(dimension: Range | Choices) -> tuple[str, str]:
    """Return the labels of the lower and the upper end of an axis."""
    if isinstance(dimension, Range):
        return format_tick(dimension.low), format_tick(dimension.high)
    return format_value(dimension.values[0]), format_value(dimension.values[-1])


def _labels(at: float, low: str, high: str, name: str) -> str:
    return "".join(
        f'<span class="{kind}" style="left:{at:.2f}%">{text}</span>'
        for kind, text in (("high", escape(high)), ("low", escape(low)), ("name", name))
    )
