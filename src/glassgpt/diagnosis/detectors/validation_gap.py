"""Validation that has nothing to do with training: GG-VAL-001."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from glassgpt.diagnosis.detectors.base import Detector, RunContext
from glassgpt.diagnosis.findings import Finding
from glassgpt.diagnosis.series import Validation
from glassgpt.training.observers import StepMetrics


class UnrelatedValidationDetector(Detector):
    """Warns when no validation is better than token frequencies although the training loss is far better."""

    codes = ("GG-VAL-001",)
    WINDOW = 50
    """Steps whose median is the training loss at a validation; fewer are not judged."""
    EVALUATIONS = 2
    """Validations in a row; a single one may come during a loss spike."""
    NATS = 0.3
    """Distance of the training loss below the baseline."""
    CONFIDENCE = 0.93

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._recent: deque[float] = deque(maxlen=self.WINDOW)
        self._count = 0
        self._best: float | None = None

    def on_step(self, metrics: StepMetrics) -> Finding | None:
        """Process the training loss."""
        self._recent.append(metrics.loss)

    def on_validation(self, validation: Validation) -> Finding | None:
        """Return GG-VAL-001 while validation stays above the unigram baseline, and training far below."""
        if not validation.is_finite:
            return None
        self._best = validation.loss if self._best is None else min(self._best, validation.loss)
        if len(self._recent) < self.WINDOW:
            return None
        training = statistics.median(self._recent)
        self._count = self._count + 1 if self._is_unrelated(training, self._best) else 0
        if self._count < self.EVALUATIONS:
            return None
        evidence = {"validation": self._best, "training": training, "unigram": self._baseline()}
        return Finding("GG-VAL-001", "fatal", evidence, self.CONFIDENCE)

    def _is_unrelated(self, training: float, best: float) -> bool:
        # The two losses first, because counting the baseline takes a second or two.
        return training < best - self.NATS and training < self._baseline() - self.NATS < best - self.NATS

    def _baseline(self) -> float:
        """Return what token frequencies cost, or a uniform guess if that is cheaper."""
        baseline = self._context.baseline()
        return min(baseline.unigram, baseline.uniform)

    def forget_after(self, step: int) -> None:
        """See `Detector`."""
        self._recent.clear()
        self._count, self._best = 0, None

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"recent": list(self._recent), "count": self._count, "best": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Detector`."""
        self._recent = deque(state["recent"], maxlen=self.WINDOW)
        self._count, self._best = state["count"], state["best"]
