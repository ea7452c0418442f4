"""A gradient scaler that keeps skipping steps: GG-SCL-001."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from glassgpt.diagnosis.detectors.base import Detector
from glassgpt.diagnosis.findings import Finding
from glassgpt.training.observers import StepMetrics


class LossScaleDetector(Detector):
    """Warns when the float16 gradient scaler skips a large share of the steps."""

    codes = ("GG-SCL-001",)
    sees_skipped_steps = True
    STEPS = 50
    """Size of the window. Finding the scale takes about ten skips at the start of a run, which is normal."""
    SHARE = 0.4
    """A scale that grows again after each step overflows at every second one."""

    def __init__(self) -> None:
        self._skipped: deque[bool] = deque(maxlen=self.STEPS)

    def on_step(self, metrics: StepMetrics) -> Finding | None:
        """Return GG-SCL-001 when too many of the last `STEPS` steps were skipped."""
        self._skipped.append(metrics.skipped)
        if sum(self._skipped) < self.SHARE * self.STEPS:
            return None
        return Finding("GG-SCL-001", "warning", {"count": sum(self._skipped), "steps": len(self._skipped)})

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"skipped": list(self._skipped)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Detector`."""
        self._skipped = deque(state["skipped"], maxlen=self.STEPS)
