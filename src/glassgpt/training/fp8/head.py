"""The loss with the head in 8 bits: the largest matrix product of a small model, and the passes over its logits.

One operation returns the loss and its gradients: the gradient of the logits, softmax minus one-hot, lies between -1
and 1 whatever the model, so it can be written in 8 bits with a fixed scale as soon as the logits exist. Neither the
logits nor their gradient are kept for the backward pass, which multiplies by the gradient of the loss.

A weight is rounded alike at every position, and the features of all positions have much in common. Without a correction
each token's logit would be off by about the same at all positions, an error that does not average out over positions. So
the mean of the features times the rounding error of the weights is added to the logits, as a bias of the product.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.model.transformer import LanguageModel
from glassgpt.training.fp8.quantize import (
    E5M2,
    Quantized,
    padded_size,
    product,
    quantize,
    quantize_rows,
    saturate,
    transpose,
)
from glassgpt.training.head_loss import HeadLoss

GRADIENT_SCALE = 2.0**15
"""Maps gradients of logits, at most 1, to the upper end of E5M2; those below 2^-29 lose precision."""


class FP8HeadLoss(HeadLoss):
    """Maps tokens to the loss, with the head's products in 8 bits while training; validation is unchanged."""

    def of(self, model: LanguageModel, chunk_tokens: int = 0) -> FP8HeadLoss:
        """Return the same loss of another model."""
        return FP8HeadLoss(model, chunk_tokens)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of inputs and targets (B, T) in nats per token: a scalar."""
        if not self.model.training:
            return super().forward(inputs, targets)
        features = self.model.features(inputs).flatten(0, 1)  # (N, C)
        if torch.is_autocast_enabled(features.device.type):
            features = features.to(torch.get_autocast_dtype(features.device.type))  # a norm returns float32
        matrix, cap = self._head
        chunk = padded_size(self.chunk_tokens or targets.numel())
        return cross_entropy_fp8(features, matrix.weight, targets.flatten(), cap, chunk)[0]


@torch.library.custom_op("glassgpt::cross_entropy_fp8", mutates_args=())
def cross_entropy_fp8(
    features: Tensor, weight: Tensor, targets: Tensor, cap: float, chunk_tokens: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean cross-entropy of the targets under the logits features · weightᵀ, and its gradients.

    Args:
        features: (N, C).
        weight: (V, C).
        targets: (N,) int64.
        cap: logits become cap · tanh(logits / cap); 0 leaves them as they are.
        chunk_tokens: rows whose logits are held at once.

    Returns:
        The loss, () float32; the gradients of features (N, C) in their type, and of weight (V, C) in its type.
    """
    matrix, bias = quantize_rows(weight, padded_size(len(weight)), features.mean(0, dtype=torch.float32))
    losses, by_features = features.new_empty(targets.shape, dtype=torch.float32), torch.empty_like(features)
    by_weight: Tensor | None = None
    for start in range(0, len(targets), chunk_tokens):
        rows = slice(start, start + chunk_tokens)
        losses[rows], by_features[rows], part = _chunk(
            features[rows], matrix, bias, targets[rows], len(weight), cap, len(targets)
        )
        by_weight = part if by_weight is None else by_weight.add_(part)
    assert by_weight is not None
    return losses.mean(), by_features, by_weight[: len(weight)].to(weight.dtype).contiguous()


def _chunk(
    features: Tensor, weight: Quantized, bias: Tensor, targets: Tensor, vocabulary: int, cap: float, n_tokens: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each row's loss, and the gradients of features and weight for the sum of losses over n_tokens."""
    x = quantize(features)
    dtype = torch.bfloat16 if features.is_cuda else features.dtype
    logits = product(x.rows, weight.rows, x.inverse_scale, weight.inverse_scale, dtype, fast=True, bias=bias.to(dtype))
    losses, gradients = losses_and_gradients(logits, targets, vocabulary, cap)
    del logits
    inverse = torch.full_like(x.inverse_scale, 1 / (GRADIENT_SCALE * n_tokens))
    by_weight = product(transpose(gradients), x.columns, inverse, x.inverse_scale, torch.float32, fast=False)
    by_features = product(gradients, weight.columns, inverse, weight.inverse_scale, features.dtype, fast=False)
    return losses, by_features, by_weight


def losses_and_gradients(logits: Tensor, targets: Tensor, vocabulary: int, cap: float) -> tuple[Tensor, Tensor]:
    """Return each row's loss, and the gradient of its logits times `GRADIENT_SCALE` in 8 bits.

    Args:
        logits: (N, P), the first V of which count.
        targets: (N,) int64.
        vocabulary: V.
        cap: see `cross_entropy_fp8`.

    Returns:
        The losses (N,) float32, and the gradients (N, P).
    """
    if not logits.is_cuda:
        return losses_and_gradients_readable(logits, targets, vocabulary, cap)
    from glassgpt.training.fp8 import launch

    return launch.losses_and_gradients(logits, targets, vocabulary, cap, GRADIENT_SCALE, E5M2)


def losses_and_gradients_readable(
    logits: Tensor, targets: Tensor, vocabulary: int, cap: float
) -> tuple[Tensor, Tensor]:
    """Return the same as `losses_and_gradients`, from the formula."""
    x = logits[:, :vocabulary].float()
    bent = torch.tanh(x / cap) if cap else torch.zeros_like(x)
    log_probabilities = (cap * bent if cap else x).log_softmax(1)
    losses = -log_probabilities.gather(1, targets[:, None])[:, 0]
    gradients = (log_probabilities.exp() - F.one_hot(targets, vocabulary)) * (1 - bent.square())
    return losses, saturate(F.pad(gradients * GRADIENT_SCALE, (0, logits.size(1) - vocabulary)), E5M2)


@cross_entropy_fp8.register_fake
def _(
    features: Tensor, weight: Tensor, targets: Tensor, cap: float, chunk_tokens: int
) -> tuple[Tensor, Tensor, Tensor]:
    return features.new_empty((), dtype=torch.float32), torch.empty_like(features), torch.empty_like(weight)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _differentiate(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    by_features, by_weight = ctx.saved_tensors
    return by_features * grad, by_weight * grad, None, None, None


cross_entropy_fp8.register_autograd(_differentiate, setup_context=_save)
