"""Cross-entropy, in training and over a fixed validation set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from glassgpt.model.transformer import LanguageModel


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-probability in nats of the targets (B, T) under the logits (B, T, V): a scalar.

    In float32 whatever the logits are: a sum over the vocabulary loses too much in 16 bits.
    """
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class TrainingLoss(nn.Module):
    """tokens -> loss, as one module: compiled as a whole, the loss is fused with what makes its logits.

    Args:
        model: the model.
        chunk_tokens: tokens whose logits are held at once. In the backward pass each chunk's logits are made again,
            so that memory is saved and a product with the head is paid for it. 0 holds all of them.
    """

    def __init__(self, model: LanguageModel, chunk_tokens: int = 0) -> None:
        super().__init__()
        self.model, self.chunk_tokens = model, chunk_tokens

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Inputs and targets (B, T) -> mean nats per token: a scalar."""
        if not 0 < self.chunk_tokens < targets.numel():
            return cross_entropy(self.model(inputs), targets)
        features = self.model.features(inputs).flatten(0, 1)  # (B·T, C)
        chunks = zip(features.split(self.chunk_tokens), targets.flatten().split(self.chunk_tokens), strict=True)
        nats = [checkpoint(self._nats, part, wanted, use_reentrant=False) for part, wanted in chunks]
        return torch.stack(nats).sum() / targets.numel()  # type: ignore[arg-type]

    def _nats(self, features: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.model.head(features).float(), targets, reduction="sum")


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
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> ValidationLoss:
    """Loss over given windows with dropout off; leaves the model's mode and every RNG as they were.

    Args:
        model: the model.
        windows: batches of (inputs, targets), each (B, T) int64.
        byte_lengths: (V,) bytes of each token.
        device: where the model lies.
        autocast: precision context for the forward pass.
        loss: inputs and targets to mean nats, where not the plain way through the model (it is wrapped or sharded).
    """
    forward = loss or TrainingLoss(model)
    was_training = model.training
    model.eval()
    nats: list[Tensor] = []
    tokens, n_bytes = 0, 0
    with autocast or nullcontext():
        for inputs, targets in windows:
            nats.append(forward(inputs.to(device), targets.to(device)) * targets.numel())
            tokens += targets.numel()
            n_bytes += int(byte_lengths[targets.numpy()].sum())
    model.train(was_training)
    # Read from the device once, at the end, and added up in double precision.
    total = torch.stack(nats).cpu().double().sum().item() if nats else 0.0
    return ValidationLoss(total, tokens, n_bytes)
