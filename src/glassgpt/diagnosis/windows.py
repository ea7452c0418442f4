"""Statistics over the last steps that a single outlier, or a NaN, cannot spoil."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


class LogWindow:
    """Positive figures of the last accepted steps, in log space, where ratios are distances.

    Args:
        size: how many are kept.
        least: how many are needed before anything is called a spike.
        deviations: robust standard deviations above the median that make one.
        floor: least distance above the median, as a log ratio (or see `excess`).
    """

    def __init__(self, size: int = 128, least: int = 32, deviations: float = 6.0, floor: float = 0.0) -> None:
        self.values: deque[float] = deque(maxlen=size)
        self._least, self._deviations, self._floor = least, deviations, floor

    def median(self) -> float:
        """Of what is kept; NaN where there is nothing."""
        return math.exp(float(np.median(self.values))) if self.values else math.nan

    def is_spike(self, value: float) -> bool:
        """Whether a finite value stands out upwards; ask before `accept`."""
        if len(self.values) < self._least or value <= 0:
            return False
        logs = np.array(self.values)
        median = float(np.median(logs))
        spread = NORMAL_MAD * float(np.median(np.abs(logs - median)))
        return math.log(value) > median + max(self._floor, self._deviations * spread)

    def accept(self, value: float) -> None:
        """Take a value in; what is not finite and positive is left out."""
        if math.isfinite(value) and value > 0:
            self.values.append(math.log(value))


def slope_includes_zero(values: Sequence[float], *, resamples: int = 200, block: int = 25, seed: int = 0) -> bool:
    """Whether the 95 % interval of the slope of a series includes 0 or lies above it.

    A moving-block bootstrap of the residuals (Künsch 1989): neighbouring steps are alike, and must stay together.
    """
    y = np.asarray(values, dtype=np.float64)
    x = np.arange(len(y)) - (len(y) - 1) / 2
    scale = float((x * x).sum())
    slope = float((x * y).sum()) / scale
    residuals = y - y.mean() - slope * x
    generator = np.random.default_rng(seed)
    starts = generator.integers(len(y) - block + 1, size=(resamples, -(-len(y) // block)))
    index = (starts[:, :, None] + np.arange(block)).reshape(resamples, -1)[:, : len(y)]
    slopes = slope + (residuals[index] * x).sum(axis=1) / scale
    return bool(np.quantile(slopes, 0.975) >= 0)


def token_entropies(tokens: np.ndarray) -> tuple[float, float]:
    """Nats per token that the frequencies of tokens alone give, and those of pairs: H(x) and H(x_t | x_{t-1}).

    By counting; the second is too low where pairs are rare, which makes it a bound from below.
    """
    _, counts = np.unique(tokens, return_counts=True)
    pairs = tokens[:-1].astype(np.int64) * (int(tokens.max()) + 1) + tokens[1:]
    _, pair_counts = np.unique(pairs, return_counts=True)
    unigram = _entropy(counts)
    return unigram, max(0.0, _entropy(pair_counts) - unigram)


def _entropy(counts: np.ndarray) -> float:
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())
