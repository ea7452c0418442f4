"""Validation during training, shared by all ranks."""

from __future__ import annotations

from contextlib import nullcontext
from functools import singledispatch
from itertools import islice

import torch
from torch import Tensor

from glassgpt.data.preferences.batches import PairTokens
from glassgpt.data.shards import TokenArray, TokenDataset
from glassgpt.data.validation import validation_windows
from glassgpt.training.config import TrainConfig
from glassgpt.training.loss import ValidationLoss, validation_loss
from glassgpt.training.preference_validation import PreferenceValidator
from glassgpt.training.trainable import TrainableModel

MAX_BATCH_SIZE = 16
"""Most sequences in one forward pass of a validation; larger batches only take memory."""


class Validator:
    """Computes the loss on the fixed validation set.

    Args:
        held_out: the validation tokens.
        trained: the model in training; what is validated is its average, if it has one.
        dataset: whose tokenizer counts their bytes.
        train: the configuration.
    """

    def __init__(
        self, held_out: TokenArray, trained: TrainableModel, dataset: TokenDataset, train: TrainConfig
    ) -> None:
        self._tokens, self._trained, self._train = held_out, trained, train
        self._byte_lengths = dataset.tokenizer.byte_lengths()

    def run(self) -> ValidationLoss:
        """Return the loss over all ranks. Changes neither the model nor any generator."""
        trained, dist = self._trained, self._trained.dist
        batch_size = max(1, min(trained.micro_batch_size, MAX_BATCH_SIZE))
        length, limit = trained.batches.context_length, self._train.eval_tokens or None
        windows = validation_windows(self._tokens, length, batch_size=batch_size, limit=limit)
        if self.is_shared:
            windows = islice(windows, dist.rank, None, dist.world_size)
        with trained.average.in_place() if trained.average else nullcontext():
            result = validation_loss(
                trained.model,
                windows,
                self._byte_lengths,
                device=trained.hardware.device,
                autocast=trained.hardware.autocast(),
                loss=self.loss,
            )
        nats, tokens, n_bytes = self.over_ranks([result.nats, result.tokens, result.n_bytes])
        return ValidationLoss(nats, int(tokens), int(n_bytes))

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch."""
        return self._trained.loss.validate(inputs, targets)

    @property
    def is_shared(self) -> bool:
        """True if each rank validates a part of the set."""
        return self._trained.dist.world_size > 1 and not self._trained.loss.is_sharded

    def over_ranks(self, parts: list[float]) -> list[float]:
        """Return the sums of numbers that each rank has of its part of the set."""
        if not self.is_shared:
            return parts
        device = self._trained.hardware.device
        return self._trained.dist.all_reduce_sum(torch.tensor(parts, dtype=torch.float64).to(device)).tolist()


@singledispatch
def build_validator(
    held_out: TokenArray, trained: TrainableModel, dataset: TokenDataset, train: TrainConfig
) -> Validator | PreferenceValidator:
    """Return what validates a model in training. This validates by the loss; other kinds of data register theirs.

    Args:
        held_out: see `Validator`, as are the others.
    """
    return Validator(held_out, trained, dataset, train)


@build_validator.register
def _(held_out: PairTokens, trained: TrainableModel, dataset: TokenDataset, train: TrainConfig) -> PreferenceValidator:
    return PreferenceValidator(trained, held_out)
