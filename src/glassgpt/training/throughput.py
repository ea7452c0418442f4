"""Training speed, and the metrics of a step."""

from __future__ import annotations

from collections import deque

from glassgpt.training.observers import StepMetrics
from glassgpt.training.outcomes import Applied

WINDOW_STEPS = 20


class Throughput:
    """Averages speed over the last steps.

    Args:
        batch_tokens: tokens per step, over all ranks.
        flops_per_token: see `glassgpt.model.accounting.flops_per_token`.
        peak_flops: FLOP/s of all devices together, or None if unknown.
    """

    def __init__(self, batch_tokens: int, flops_per_token: int, peak_flops: float | None) -> None:
        self._batch_tokens, self._flops_per_token, self._peak_flops = batch_tokens, flops_per_token, peak_flops
        self._durations: deque[float] = deque(maxlen=WINDOW_STEPS)

    def add(self, seconds: float) -> None:
        """Record the duration of a step."""
        self._durations.append(seconds)

    def metrics(self, applied: Applied, seconds: float, tokens: int) -> StepMetrics:
        """Return the metrics of a step for observers.

        Args:
            applied: the step.
            seconds: time trained so far.
            tokens: trained on so far; the batch size may have changed at a resume.
        """
        speed = len(self._durations) * self._batch_tokens / sum(self._durations)
        return StepMetrics(
            step=applied.step,
            loss=applied.loss,
            learning_rate=applied.learning_rate,
            grad_norm=applied.grad_norm,
            tokens=tokens,
            seconds=seconds,
            tokens_per_second=speed,
            mfu=speed * self._flops_per_token / self._peak_flops if self._peak_flops else None,
            data_seconds=applied.data_seconds,
            skipped=applied.scaler_skipped,
            loss_metrics=applied.loss_metrics,
        )
