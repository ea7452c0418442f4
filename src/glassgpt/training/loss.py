"""Cross-entropy, in training and over a fixed validation set."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.model.transformer import LanguageModel


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-probability in nats of the targets (B, T) under the logits (B, T, V): a scalar.

    In float32 whatever the logits are: a sum over the vocabulary loses too much in 16 bits.
    """
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


@dataclass(frozen=True)
class ValidationLoss:
    """What predicting a text cost.

    Attributes:
        nats: negative log-probability of all targets together.
        tokens: how many targets there were.
        n_bytes: UTF-8 bytes that these tokens stand for; end-of-text stands for none.
    """

    nats: float
    tokens: int
    n_bytes: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """e to the loss; infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs for a byte of the text, comparable across tokenizers.

        The cost of predicting end-of-text is counted although it stands for no byte: a model must also
        know where a document ends.
        """
        return self.nats / math.log(2) / self.n_bytes if self.n_bytes else math.nan


@torch.no_grad()
def validation_loss(
    model: LanguageModel,
    windows: Iterable[tuple[Tensor, Tensor]],
    byte_lengths: np.ndarray,
    *,
    device: torch.device | str = "cpu",
    autocast: AbstractContextManager[object] | None = None,
) -> ValidationLoss:
    """Loss over given windows with dropout off; leaves the model's mode and every RNG as they were.

    Args:
        model: the model.
        windows: batches of (inputs, targets), each (B, T) int64.
        byte_lengths: (V,) bytes of each token.
        device: where the model lies.
        autocast: precision context for the forward pass.
    """
    was_training = model.training
    model.eval()
    nats, tokens, n_bytes = 0.0, 0, 0
    with autocast or nullcontext():
        for inputs, targets in windows:
            loss = cross_entropy(model(inputs.to(device)), targets.to(device))
            nats += loss.item() * targets.numel()
            tokens += targets.numel()
            n_bytes += int(byte_lengths[targets.numpy()].sum())
    model.train(was_training)
    return ValidationLoss(nats, tokens, n_bytes)
