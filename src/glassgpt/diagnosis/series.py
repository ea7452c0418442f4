"""Robust statistics of time series, for the detectors. Free of torch.

Values that are not finite never enter a statistic: one NaN would blind it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAD_TO_SIGMA = 1.4826
"""Standard deviations in a median absolute deviation, for a normal distribution."""
BOOTSTRAP_BINS = 40
"""Few enough that the mean of a bin is nearly independent of the next."""
BOOTSTRAP_DRAWS = 2000
"""The ends of the 95 % interval then vary by about 2 % of its width."""


@dataclass(frozen=True)
class Robust:
    """Statistics that are robust to outliers.

    Attributes:
        median: the middle.
        sigma: 1.4826 times the median absolute deviation: the standard deviation, if the values were normal.
    """

    median: float
    sigma: float


def robust(values: Sequence[float] | Floats) -> Robust:
    """Return the median and robust standard deviation; values that are not finite are left out.

    Raises:
        ValueError: there is no finite value.
    """
    array = np.asarray(values, dtype=np.float64)
    finite = array[np.isfinite(array)]
    if not len(finite):
        raise ValueError("there is no finite value")
    median = float(np.median(finite))
    return Robust(median, MAD_TO_SIGMA * float(np.median(np.abs(finite - median))))


def residuals(values: Floats) -> Floats:
    """Return the deviations of a series (N,), N at least 2, from the straight line fitted to it."""
    at = np.arange(len(values)) - (len(values) - 1) / 2
    centred = values - values.mean()
    return centred - at * (at @ centred) / (at @ at)


def log_loss(loss: float) -> float:
    """Return the logarithm of a loss in nats; a loss of zero counts as 1e-12."""
    return math.log(max(loss, 1e-12))


@dataclass(frozen=True)
class Slope:
    """Slope of a series.

    Attributes:
        value: nats per step, negative when the series falls.
        low: lower end of the 95 % interval.
        high: upper end of it.
    """

    value: float
    low: float
    high: float

    @property
    def is_flat(self) -> bool:
        """True if the interval reaches 0 or lies above it, so that there is no evidence of a falling series."""
        return self.high >= 0


def slope(steps: Sequence[int], losses: Sequence[float], *, seed: int = 0) -> Slope:
    """Return the slope of the log-loss with a bootstrap interval, in nats per step at the median loss.

    Neighbouring steps are not independent, so they are averaged in bins first; then pairs (step, log-loss) are
    resampled with replacement (Efron 1979).

    Args:
        steps: (N,) numbers of the steps.
        losses: (N,) nats.
        seed: of the resampling.

    Raises:
        ValueError: there are fewer than two finite losses.
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    is_finite = np.isfinite(y)
    x, y = x[is_finite], np.log(np.maximum(y[is_finite], 1e-12))
    if len(x) < 2:
        raise ValueError("a slope needs two finite losses")
    bins = np.array_split(np.arange(len(x)), min(BOOTSTRAP_BINS, len(x)))
    x, y = (np.array([part[chosen].mean() for chosen in bins]) for part in (x, y))
    drawn = np.random.default_rng(seed).integers(len(x), size=(BOOTSTRAP_DRAWS, len(x)))
    slopes = _least_squares(x[drawn], y[drawn])
    scale = math.exp(float(np.median(y)))
    low, high = np.nanpercentile(slopes, (2.5, 97.5))
    return Slope(float(_least_squares(x[None], y[None])[0]) * scale, float(low) * scale, float(high) * scale)


def _least_squares(x: Floats, y: Floats) -> Floats:
    """Return slopes of y over x, each (draws, bins) -> (draws,); NaN where all x of a draw are the same."""
    dx, dy = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    spread = (dx * dx).sum(axis=1)
    return np.divide((dx * dy).sum(axis=1), spread, out=np.full(len(x), np.nan), where=spread > 0)


@dataclass(frozen=True)
class Validation:
    """One validation of a run.

    Attributes:
        step: after which step.
        loss: nats per token.
        tokens: how many tokens were evaluated.
    """

    step: int
    loss: float
    tokens: int

    @property
    def is_finite(self) -> bool:
        """True if the loss is a finite number."""
        return math.isfinite(self.loss)

    @property
    def standard_error(self) -> float:
        """Standard error of the loss in nats: the standard deviation of token losses is about as large as their mean."""
        return self.loss / math.sqrt(max(1, self.tokens))
