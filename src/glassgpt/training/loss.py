"""The cross-entropy loss, in training and on the validation set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.model.transformer import LanguageModel
from glassgpt.training.chunked_loss import sum_of_chunks


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean negative log-probability of the targets (B, T) under the logits (B, T, V), in nats: a scalar.

    It is computed in float32 whatever the logits are: a sum over the vocabulary loses too much in 16 bits.
    """
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class TrainingLoss(nn.Module):
    """Maps tokens to the loss, as one module: compiled as a whole, the loss is fused with the computation of its logits.

    Args:
        model: the model.
        chunk_tokens: tokens whose logits are held at once, to save memory; see `sum_of_chunks`. 0 holds all of them.

    Attributes:
        metrics: what the last pass measured besides the loss: scalars named by `metric_names`, whose mean is reported.
    """

    metric_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: LanguageModel, chunk_tokens: int = 0) -> None:
        super().__init__()
        self.model, self.chunk_tokens = model, chunk_tokens
        self.metrics: tuple[Tensor, ...] = ()

    def of(self, model: LanguageModel, chunk_tokens: int = 0) -> TrainingLoss:
        """Return the same loss of another model."""
        return TrainingLoss(model, chunk_tokens)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of inputs and targets (B, T) in nats per token: a scalar."""
        if not 0 < self.chunk_tokens < targets.numel():
            return cross_entropy(self.model(inputs), targets)
        features = self.model.features(inputs).flatten(0, 1)  # (B·T, C)
        nats = sum_of_chunks(self._nats, self.model, self.chunk_tokens, features, targets.flatten())
        return nats / targets.numel()

    def _nats(self, features: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.model.head(features).float(), targets, reduction="sum")


@dataclass(frozen=True)
class ValidationLoss:
    """The loss on a text.

    Attributes:
        nats: negative log-probability of all targets, summed.
        tokens: number of targets.
        n_bytes: UTF-8 bytes of these tokens; end-of-text has none.
    """

    nats: float
    tokens: int
    n_bytes: int

    @property
    def loss(self) -> float:
        """Mean loss, nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """e to the loss; infinite if that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs per byte of the text, comparable across tokenizers; NaN for no bytes.

        Predicting end-of-text counts, although it has no bytes: a model must also know where a document ends.
        """
        return self.nats / math.log(2) / self.n_bytes if self.n_bytes else math.nan

    def metrics(self) -> dict[str, float]:
        """Return what is logged of it, by name."""
        names = ("validation_loss", "validation_bits_per_byte", "validation_tokens")
        return dict(zip(names, (self.loss, self.bits_per_byte, self.tokens), strict=True))


@torch.no_grad()
def validation_loss(
    model: LanguageModel,
    windows: Iterable[tuple[Tensor, Tensor]],
    byte_lengths: np.ndarray,
    *,
    device: torch.device | str = "cpu",
    autocast: AbstractContextManager[object] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> ValidationLoss:
    """Return the loss over windows without dropout; the model's mode and all generators stay as they were.

    Args:
        model: the model.
        windows: batches of (inputs, targets), each (B, T) int64.
        byte_lengths: (V,) UTF-8 bytes of each token.
        device: the model's device.
        autocast: precision context for the forward pass.
        loss: maps inputs and targets to the mean loss; by default the plain forward pass of the model. Pass it if the
            model is wrapped or sharded.
    """
    forward = loss or TrainingLoss(model)
    was_training = model.training
    model.eval()
    nats: list[Tensor] = []
    tokens, n_bytes = 0, 0
    with autocast or nullcontext():
        for inputs, targets in windows:
            nats.append(forward(inputs.to(device), targets.to(device)) * targets.numel())
            learned = targets[targets >= 0]  # of a conversation, some are not
            tokens += learned.numel()
            n_bytes += int(byte_lengths[learned.numpy()].sum())
    model.train(was_training)
    # One transfer from the device, at the end; the sum is in double precision.
    total = torch.stack(nats).cpu().double().sum().item() if nats else 0.0
    return ValidationLoss(total, tokens, n_bytes)
