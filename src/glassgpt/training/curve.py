"""Smooth a curve of losses."""

from __future__ import annotations

SMOOTHING = 0.95


def smooth(values: list[float], weight: float = SMOOTHING) -> list[float]:
    """Return the exponential average of a series, corrected for its start at zero (Kingma and Ba 2015, section 3).

    Args:
        values: the series.
        weight: share of the average that each value keeps, below 1.
    """
    smoothed: list[float] = []
    average = 0.0
    for n, value in enumerate(values, start=1):
        average = weight * average + (1 - weight) * value
        smoothed.append(average / (1 - weight**n))
    return smoothed
