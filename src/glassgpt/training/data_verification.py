"""Stop training when its data turns out to be damaged."""

from __future__ import annotations

from glassgpt.data.shards import TokenDataset
from glassgpt.data.verification import BackgroundVerification
from glassgpt.training.loss import ValidationLoss
from glassgpt.training.observers import Observer, StepMetrics

START_SECONDS = 1.0
"""Time that training waits at its start: most datasets are verified by then."""


class DataVerification(Observer):
    """Raises a `DataError` as soon as damage is found, at the latest at the end of the first epoch or of training.

    Args:
        dataset: verified in the background, from now on.
        max_steps: number of the last step.
        mixed_in: the dataset whose text is mixed in, or None.
    """

    def __init__(self, dataset: TokenDataset, max_steps: int, mixed_in: TokenDataset | None = None) -> None:
        self._verification = BackgroundVerification(dataset, mixed_in)
        self._files = [each.files for each in (dataset, mixed_in) if each is not None]
        self._train_tokens, self._max_steps = dataset.info.train.tokens, max_steps

    def start(self) -> None:
        """Wait a moment for the verification before training starts."""
        self._verification.check(wait=True, timeout=START_SECONDS)

    def on_step(self, metrics: StepMetrics) -> None:
        """Check for damage found so far."""
        self._verification.check(wait=metrics.tokens >= self._train_tokens)

    def on_validation(self, step: int, validation: ValidationLoss, is_best: bool) -> None:
        """Check before the last checkpoint is saved; a short run does not wait for shards that are still on an object store."""
        is_last = step >= self._max_steps
        self._verification.check(wait=is_last and not any(files.missing() for files in self._files))

    def close(self) -> None:
        """Stop verifying."""
        self._verification.close()
