"""A loss that rose far above its best value and stays there: GG-DIV-001."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

from glassgpt.diagnosis.detectors.base import Detector
from glassgpt.diagnosis.findings import Finding, Value
from glassgpt.training.observers import StepMetrics


class DivergenceDetector(Detector):
    """Compares the median of the last steps with the best such median of the run.

    Attributes:
        evidence: the two medians, by the names that the catalogue uses.
    """

    codes = ("GG-DIV-001",)
    WINDOW = 20
    """Steps whose median is the current loss: a spike of a few steps does not move it."""
    NATS, SHARE = 1.0, 0.25
    """Above the best median by this many nats and by this share of it: more than any spike of a healthy run leaves in
    a median of 20 steps."""
    SCATTER = 1.25
    """Above it also by this many times as much as the losses around the best median are: in small batches of rows that
    differ, such as text and captions of pictures, the median depends on which rows most batches had."""
    STEPS = 20
    """Consecutive steps that far away after which the loss will not recover by itself; spikes are shorter."""
    CONFIDENCE = 0.6
    """Nearly always the learning rate; only a replay can rule out weights that were changed by something else."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=self.WINDOW)
        self._best_median = math.inf
        self._scatter = 0.0  # of the steps of the best median
        self._steps_away = 0
        self.evidence: dict[str, Value] = {}

    @property
    def is_diverging(self) -> bool:
        """True if the loss has been far above its best for too long to recover."""
        return self._steps_away >= self.STEPS

    @property
    def is_near_best(self) -> bool:
        """True if the loss is not far above its best at present."""
        return self._steps_away == 0

    def on_step(self, metrics: StepMetrics) -> Finding | None:
        """Return GG-DIV-001 while the loss is diverging."""
        self._recent.append(metrics.loss)
        if len(self._recent) < self.WINDOW:
            return None
        median = statistics.median(self._recent)
        if median < self._best_median:
            self._best_median, self._scatter = median, scatter(self._recent)
        margin = max(self.NATS, self.SHARE * self._best_median, self.SCATTER * self._scatter)
        is_far = median > self._best_median + margin
        self._steps_away = self._steps_away + 1 if is_far else 0
        self.evidence = {"median": median, "best": self._best_median}
        return Finding("GG-DIV-001", "fatal", self.evidence, self.CONFIDENCE) if self.is_diverging else None

    def forget_after(self, step: int) -> None:
        """Reset: the best loss must be reached again."""
        self._recent.clear()
        self._best_median = math.inf
        self._steps_away = 0

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        best = self._best_median if math.isfinite(self._best_median) else None  # JSON has no infinity
        own = {"best_median": best, "scatter": self._scatter, "steps_away": self._steps_away}
        return {"recent": list(self._recent), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Detector`."""
        self._recent = deque(state["recent"], maxlen=self.WINDOW)
        self._best_median = math.inf if state["best_median"] is None else state["best_median"]
        self._scatter = state.get("scatter", 0.0)  # which older versions did not save
        self._steps_away = state["steps_away"]


def scatter(losses: Collection[float]) -> float:
    """Return how far the third highest loss is above the median; the two highest may be a spike."""
    return sorted(losses)[-3] - statistics.median(losses)
