"""Gradients that are clipped at nearly every step: GG-CLP-001."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from glassgpt.diagnosis.detectors.base import Detector, RunContext
from glassgpt.diagnosis.findings import Finding
from glassgpt.training.observers import StepMetrics


class ClippingDetector(Detector):
    """Reports a note when nearly all recent gradients after warmup exceeded the clipping threshold.

    It is a note: AdamW and Muon hardly depend on the length of gradients that are all scaled alike, and there were
    good runs with a median norm of three times the clip.
    """

    codes = ("GG-CLP-001",)
    STEPS = 200
    """Size of the window; a shorter one would judge the steep beginning of a run alone."""
    SHARE = 0.95
    """Share of clipped steps above which clipping scales every update instead of limiting outliers."""

    def __init__(self, context: RunContext) -> None:
        self._clip_norm, self._warmup_steps = context.config.train.clip_norm, context.warmup_steps
        self._norms: deque[float] = deque(maxlen=self.STEPS)

    @property
    def steps(self) -> int:
        """Number of steps in the window."""
        return len(self._norms)

    @property
    def share(self) -> float:
        """Fraction of recent steps whose gradient was clipped, in [0, 1]; 0 before there are any."""
        return sum(norm > self._clip_norm for norm in self._norms) / max(1, len(self._norms))

    @property
    def median(self) -> float:
        """Median gradient norm of the recent steps before clipping; 0 before there are any."""
        return statistics.median(self._norms) if self._norms else 0.0

    def on_step(self, metrics: StepMetrics) -> Finding | None:
        """Return GG-CLP-001 when nearly all of the last `STEPS` steps were clipped."""
        if not self._clip_norm or metrics.step <= self._warmup_steps or not math.isfinite(metrics.grad_norm):
            return None
        self._norms.append(metrics.grad_norm)
        if len(self._norms) < self.STEPS or self.share < self.SHARE:
            return None
        evidence = {
            "share": 100 * self.share,
            "clip_norm": self._clip_norm,
            "median": self.median,
            "wanted": float(f"{2 * self.median:.1g}"),
        }
        return Finding("GG-CLP-001", "note", evidence)

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"norms": list(self._norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Detector`."""
        self._norms = deque(state["norms"], maxlen=self.STEPS)
