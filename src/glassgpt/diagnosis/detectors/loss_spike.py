"""Sudden jumps of the training loss: GG-SPK-001, GG-SPK-002."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glassgpt.diagnosis.detectors.base import Detector
from glassgpt.diagnosis.findings import Finding
from glassgpt.diagnosis.series import log_loss, residuals, robust
from glassgpt.training.observers import StepMetrics


class OutlierFilter:
    """Decides whether a loss is an outlier among the normal ones before it.

    The level is the median of the last 32 normal log-losses. The spread is 1.4826 times the median absolute deviation
    of the last 128 from a straight line through them: without the line, a loss that falls fast would look widely
    spread and hide a jump. An outlier never enters the window, so a second spike cannot hide behind a first; but a
    loss that stays up for `LASTING_STEPS` is the new level, and the window restarts there.
    """

    WINDOW = 128
    """Normal steps that are remembered."""
    MIN_STEPS = 32
    """Normal steps before the first decision and in the level: the median of fewer is mostly chance."""
    SIGMAS = 6.0
    """Robust standard deviations above the level. Healthy runs of 600 steps with up to 8 % noise stay below."""
    MIN_NATS = 0.3
    """A smaller jump costs nothing, however quiet the loss was before."""
    LASTING_STEPS = 64
    """Outliers in a row after which they are the new level rather than a spike."""

    def __init__(self) -> None:
        self._normal: deque[float] = deque(maxlen=self.WINDOW)
        self._outliers: list[float] = []

    @property
    def level(self) -> float:
        """Median of the newest normal losses in nats; NaN before there are any."""
        recent = list(self._normal)[-self.MIN_STEPS :]
        return math.exp(statistics.median(recent)) if recent else math.nan

    @property
    def threshold(self) -> float:
        """Loss in nats above which the next one is an outlier; infinite before enough losses are known."""
        if len(self._normal) < self.MIN_STEPS:
            return math.inf
        level, sigma = self.level, robust(residuals(np.array(self._normal))).sigma
        return max(level * math.exp(min(self.SIGMAS * sigma, 500.0)), level + self.MIN_NATS)

    def is_outlier(self, loss: float) -> bool:
        """Process the next loss (nats) and return whether it is an outlier; a non-finite one always is."""
        if not math.isfinite(loss):
            return True
        # Most losses need no threshold, which is never below the first limit and costs five times as much.
        if loss <= self.level + self.MIN_NATS or loss <= self.threshold:
            self._normal.append(log_loss(loss))
            self._outliers.clear()
            return False
        self._outliers.append(log_loss(loss))
        if len(self._outliers) >= self.LASTING_STEPS:
            self._normal.clear()
            self._normal.extend(self._outliers)
            self._outliers.clear()
        return True

    def state_dict(self) -> dict[str, list[float]]:
        """Return both windows, as JSON."""
        return {"normal": list(self._normal), "outliers": list(self._outliers)}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Restore what `state_dict` returned."""
        self._normal = deque(state["normal"], maxlen=self.WINDOW)
        self._outliers = list(state["outliers"])


@dataclass
class Spike:
    """Consecutive steps whose loss is an outlier.

    Attributes:
        step: the first of them.
        peak: the highest loss in nats; infinite or NaN if one was not finite.
        peak_step: step of the peak.
        level: median of the normal losses before the spike.
        learning_rate: at the peak.
        steps: number of steps.
    """

    step: int
    peak: float
    peak_step: int
    level: float
    learning_rate: float
    steps: int = 1

    @property
    def is_lasting(self) -> bool:
        """True if the loss stayed high long enough to count as the new level."""
        return self.steps >= OutlierFilter.LASTING_STEPS

    @property
    def height(self) -> float:
        """The peak, with NaN counted as infinite so that spikes are comparable."""
        return self.peak if math.isfinite(self.peak) else math.inf

    def extend(self, step: int, loss: float, learning_rate: float) -> None:
        """Add the next step."""
        self.steps += 1
        if not loss <= self.height:  # also true of NaN
            self.peak, self.peak_step, self.learning_rate = loss, step, learning_rate


class LossSpikeDetector(Detector):
    """Reports a note at the first loss spike, and a warning when one lasts or they recur.

    A single spike that recovers is harmless and happens in good runs: with small initial weights and a high learning
    rate it reached 13 nats. It is a note (GG-SPK-002). Spikes that last or recur are a warning
    (GG-SPK-001).
    """

    codes = ("GG-SPK-001", "GG-SPK-002")
    RECURRING, RECURRING_WITHIN_STEPS = 3, 500
    """This many spikes that begin within this many steps count as recurring. PaLM's training had about twenty over
    its whole length and was healthy (Chowdhery et al. 2022, section 5.1), hence a window instead of a total."""
    CALM_STEPS = 20
    """Steps after an outlier before the loss counts as calm again."""
    CONFIDENCE = 0.7
    """The jump itself is certain, its cause is not: rate, batch and optimizer state all look alike in the loss."""

    def __init__(self) -> None:
        self._filter = OutlierFilter()
        self._starts: deque[int] = deque(maxlen=self.RECURRING)
        self._count = self._lasting = 0
        self._current: Spike | None = None
        self._highest: Spike | None = None
        self._steps_since_outlier = self.CALM_STEPS

    @property
    def is_calm(self) -> bool:
        """True if none of the last `CALM_STEPS` losses was an outlier."""
        return self._steps_since_outlier >= self.CALM_STEPS

    @property
    def count(self) -> int:
        """Number of spikes so far."""
        return self._count

    @property
    def highest(self) -> Spike | None:
        """The spike with the highest peak so far."""
        return self._highest

    def on_step(self, metrics: StepMetrics) -> Finding | None:
        """Return GG-SPK-002 where a spike begins, GG-SPK-001 where it lasts or is one of several."""
        level = self._filter.level
        self._steps_since_outlier += 1
        if not self._filter.is_outlier(metrics.loss):
            self._current = None
            return None
        self._steps_since_outlier = 0
        if self._current is None:
            return self._begin(metrics, level)
        was_lasting = self._current.is_lasting
        self._current.extend(metrics.step, metrics.loss, metrics.learning_rate)
        self._compare_with_highest(self._current)
        if was_lasting or not self._current.is_lasting:
            return None
        self._lasting += 1
        return self._recurring_or_lasting()

    def _begin(self, metrics: StepMetrics, level: float) -> Finding:
        self._current = Spike(metrics.step, metrics.loss, metrics.step, level, metrics.learning_rate)
        self._compare_with_highest(self._current)
        self._count += 1
        self._starts.append(metrics.step)
        recur = len(self._starts) == self.RECURRING and metrics.step - self._starts[0] < self.RECURRING_WITHIN_STEPS
        if recur:
            return self._recurring_or_lasting()
        return Finding("GG-SPK-002", "note", {"peak": metrics.loss, "usual": level}, self.CONFIDENCE)

    def _compare_with_highest(self, spike: Spike) -> None:
        if self._highest is None or spike.height >= self._highest.height:
            self._highest = spike

    def _recurring_or_lasting(self) -> Finding:
        assert self._highest is not None
        evidence = {
            "count": self._count,
            "peak": self._highest.peak,
            "step": self._highest.peak_step,
            "usual": self._highest.level,
            "recovered": self._count - self._lasting,
            "lasting": self._lasting,
            "rate": self._highest.learning_rate,
        }
        return Finding("GG-SPK-001", "warning", evidence, self.CONFIDENCE)

    def forget_after(self, step: int) -> None:
        """Restart the window, and forget spikes of later steps."""
        self._filter = OutlierFilter()
        self._current = None
        self._steps_since_outlier = self.CALM_STEPS
        self._starts = deque((start for start in self._starts if start <= step), maxlen=self.RECURRING)

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            "filter": self._filter.state_dict(),
            "starts": list(self._starts),
            "count": self._count,
            "lasting": self._lasting,
            "current": self._current and vars(self._current),
            "highest": self._highest and vars(self._highest),
            "steps_since_outlier": self._steps_since_outlier,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Detector`."""
        self._filter.load_state_dict(state["filter"])
        self._starts = deque(state["starts"], maxlen=self.RECURRING)
        self._count, self._lasting = state["count"], state["lasting"]
        self._current = Spike(**state["current"]) if state["current"] else None
        self._highest = Spike(**state["highest"]) if state["highest"] else None
        self._steps_since_outlier = state["steps_since_outlier"]


def find_spikes(steps: Sequence[int], losses: Sequence[float]) -> list[Spike]:
    """Return all spikes of a whole series of training losses, for drawing."""
    outliers = OutlierFilter()
    found: list[Spike] = []
    current: Spike | None = None
    for step, loss in zip(steps, losses, strict=True):
        level = outliers.level
        if not outliers.is_outlier(loss):
            current = None
        elif current is None:
            current = Spike(step, loss, step, level, math.nan)
            found.append(current)
        else:
            current.extend(step, loss, math.nan)
    return found
