"""Validation of a run that is trained on preferences."""

from __future__ import annotations

from contextlib import nullcontext

from glassgpt.data.preferences.batches import PairTokens, pairs_in_order
from glassgpt.training.preference import PreferenceLoss, PreferenceValidation, validate_preferences
from glassgpt.training.trainable import TrainableModel

MAX_PAIRS = 8
"""Most pairs in a forward pass; a micro-batch that is right for short pairs in training could need too much memory."""


class PreferenceValidator:
    """Computes the loss on the held-out pairs.

    Args:
        trained: the model in training; what is validated is its average, if it has one.
        pairs: the held-out pairs.
    """

    def __init__(self, trained: TrainableModel, pairs: PairTokens) -> None:
        self._trained, self._pairs = trained, pairs

    def run(self) -> PreferenceValidation:
        """Return the loss. Every rank computes all of it, so that all know the same."""
        trained = self._trained
        chunk_tokens, _ = trained.loss.memory_options
        loss = trained.loss.of(trained.model, chunk_tokens)
        assert isinstance(loss, PreferenceLoss)
        with trained.average.in_place() if trained.average else nullcontext():
            return validate_preferences(
                loss,
                pairs_in_order(self._pairs, max(1, min(trained.micro_batch_size, MAX_PAIRS))),
                device=trained.hardware.device,
                autocast=trained.hardware.autocast(),
            )
