"""The batch and the loss that a model is checked with: those of training, cut to what is quick."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from glassgpt.data.batches import Batches
from glassgpt.data.shards import TokenArray
from glassgpt.errors import DataError
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.config import TrainerConfig
from glassgpt.training.conversations import ConversationLoss
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.losses import build_loss
from glassgpt.training.preference import PreferenceLoss

MIN_LEARNED = 64
"""Targets of a row that are learned, as far as it has them: of conversations, a row may begin with a long question."""


def loss_of_data(tokens: TokenArray, model: LanguageModel, settings: TrainerConfig) -> TrainingLoss:
    """Return the loss that belongs to the data: without a teacher, a loss of the user's own or 8-bit products.

    What is expected of an untrained model, and of one that is trained on a single batch, holds for that loss only.

    Raises:
        GlassGPTError: see `build_loss`.
    """
    train = replace(settings.train, loss="", teacher="", fp8="off", loss_chunk_tokens=0)
    return build_loss(tokens, model, replace(settings, train=train))


def first_batch(batches: Batches, tokens: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of about this many tokens from the first rows that teach something, without advancing.

    Raises:
        DataError: nothing of the data is learned.
    """
    rows = max(1, tokens // batches.context_length)
    for position in range(batches.position, batches.position + batches.windows_per_epoch, rows):
        inputs, targets = batches.read(batches.starts_at(position, rows))
        if (targets >= 0).any():
            return cut(inputs, targets, max(2, tokens // rows))
    raise DataError("nothing in the training data is learned; see: glassgpt doctor GG-CHT-002")


def cut(inputs: Tensor, targets: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the first `length` positions of a batch, or more if too few of their targets are learned.

    Args:
        inputs: (B, T) or (B, T, …); pairs, (B, 2, T), are returned whole.
        targets: (B, T), negative where nothing is learned, or (B, 2, T).
        length: positions.
    """
    if targets.ndim > 2:
        return inputs, targets
    learned = (targets >= 0).cumsum(dim=1)  # (B, T)
    enough = learned >= learned[:, -1:].clamp(max=MIN_LEARNED)
    end = max(length, int(enough.int().argmax(dim=1).max()) + 1)
    return inputs[:, :end], targets[:, :end]


def without_dropout(loss: TrainingLoss, model: LanguageModel, targets: Tensor) -> TrainingLoss:
    """Return the loss of a model as training has it, but without dropout, and as the mean over what a batch teaches.

    Args:
        loss: of another model with the same parameters.
        model: its mode is changed.
        targets: of the batch.
    """
    model.eval()
    model.training = True  # of the loss in training; what draws random numbers are the modules inside
    other = loss.of(model)
    if isinstance(other, ConversationLoss):
        other.supervised_share = float((targets >= 0).float().mean())
    return other


def logits_and_targets(loss: TrainingLoss, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits (N, V) in float32 where something is learned, and what is learned there, (N,)."""
    has_rows = isinstance(loss, ConversationLoss | PreferenceLoss)
    features = loss.features(inputs, targets) if has_rows else loss.model.features(inputs)  # (B, T, C); of pairs 2 B
    where = (targets >= 0).view(features.shape[:-1])
    learned = targets.view(where.shape)[where]
    return torch.as_tensor(loss.model.head(features[where]).float()), learned
