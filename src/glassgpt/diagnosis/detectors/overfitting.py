"""Validation that gets worse while training gets better: GG-OVF-001."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from glassgpt.diagnosis.detectors.base import Detector
from glassgpt.diagnosis.findings import Finding
from glassgpt.diagnosis.series import Validation
from glassgpt.training.observers import StepMetrics


class OverfittingDetector(Detector):
    """Warns when the last validations are all above the best one while the training loss kept falling."""

    codes = ("GG-OVF-001",)
    EVALUATIONS = 3
    """Validations in a row above the limit; one or two happen by chance."""
    STANDARD_ERRORS, MIN_NATS = 2.0, 0.02
    """The limit is the best validation and two standard errors. Validations of many tokens have tiny standard errors,
    and a rise below 0.02 nats costs nothing."""
    WINDOW = 50
    """Steps whose median is the training loss at a validation."""
    CONFIDENCE = 0.9

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=self.WINDOW)
        self._best: Validation | None = None
        self._training_loss_at_best = 0.0
        self._above = 0

    def on_step(self, metrics: StepMetrics) -> Finding | None:
        """Process the training loss."""
        self._recent.append(metrics.loss)

    def on_validation(self, validation: Validation) -> Finding | None:
        """Return GG-OVF-001 when the last `EVALUATIONS` validations were all too far above the best."""
        if not validation.is_finite:
            return None
        if self._best is None or validation.loss < self._best.loss:
            self._best, self._training_loss_at_best, self._above = validation, self._training_loss(), 0
            return None
        limit = self._best.loss + self.STANDARD_ERRORS * self._best.standard_error
        self._above = self._above + 1 if validation.loss > limit else 0
        fell = self._training_loss() < self._training_loss_at_best
        if self._above < self.EVALUATIONS or validation.loss <= self._best.loss + self.MIN_NATS or not fell:
            return None
        evidence = {
            "best_step": self._best.step,
            "best": self._best.loss,
            "last": validation.loss,
            "evaluations": self._above,
        }
        return Finding("GG-OVF-001", "warning", evidence, self.CONFIDENCE)

    def _training_loss(self) -> float:
        return statistics.median(self._recent) if self._recent else 0.0

    def forget_after(self, step: int) -> None:
        """Drop a best validation that was rolled back."""
        self._recent.clear()
        self._above = 0
        if self._best is not None and self._best.step > step:
            self._best = None

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            "recent": list(self._recent),
            "best": self._best and asdict(self._best),
            "training_loss_at_best": self._training_loss_at_best,
            "above": self._above,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Detector`."""
        self._recent = deque(state["recent"], maxlen=self.WINDOW)
        self._best = Validation(**state["best"]) if state["best"] else None
        self._training_loss_at_best, self._above = state["training_loss_at_best"], state["above"]
