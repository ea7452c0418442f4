"""The loss of a soft-capped head on a CPU: value and gradient by formula, in few passes over the logits.

Autograd takes eleven passes over the logits, each into new memory, and a tanh, which costs a CPU as much as the head's
product. Here a chunk's logits are overwritten in place, and a logistic function takes the place of tanh:
c tanh(x / c) = 2c σ(2x / c) - c, of which the softmax does not see the last term.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glassgpt.model.transformer import LanguageModel
from glassgpt.training.head_loss import HeadLoss, head_of
from glassgpt.training.loss import TrainingLoss


class CappedHeadLoss(HeadLoss):
    """Maps tokens to the loss; while training, the head's gradient is computed by formula. Validation is unchanged.

    Its readable reference implementation is `TrainingLoss`.
    """

    def of(self, model: LanguageModel, chunk_tokens: int = 0) -> TrainingLoss:
        """Return the same loss of another model."""
        return (CappedHeadLoss if has_capped_head(model) else TrainingLoss)(model, chunk_tokens)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of inputs and targets (B, T) in nats per token: a scalar."""
        if not self.model.training or not torch.is_grad_enabled():
            return super().forward(inputs, targets)
        features = self.model.features(inputs).flatten(0, 1)  # (N, C)
        matrix, cap = self._head
        return capped_cross_entropy(features, matrix.weight, targets.flatten(), cap, self.chunk_tokens)


def has_capped_head(model: LanguageModel) -> bool:
    """Return whether a model's logits are a product with one matrix, softly capped."""
    head = head_of(model)
    return head is not None and head[1] > 0


def capped_cross_entropy(features: Tensor, weight: Tensor, targets: Tensor, cap: float, chunk_tokens: int) -> Tensor:
    """Return the mean cross-entropy of targets under logits c tanh(features · weightᵀ / c): a differentiable scalar.

    Products are computed in autocast's type if it is enabled, everything else in float32.

    Args:
        features: (N, C).
        weight: (V, C).
        targets: (N,) int64.
        cap: c.
        chunk_tokens: rows whose logits are held at once; 0 is all.
    """
    kind = features.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return _CappedCrossEntropy.apply(features, weight, targets, cap, chunk_tokens or len(targets), dtype)  # type: ignore[no-any-return]


class _CappedCrossEntropy(torch.autograd.Function):
    """Computes the gradients with the value; the backward pass multiplies them by the gradient that arrives."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, cap: float, chunk_tokens: int, dtype: torch.dtype
    ) -> Tensor:
        """Return the loss, and keep its gradients."""
        w = weight.to(dtype)
        x = (features * (2 / cap)).to(dtype)  # so that x · wᵀ are the arguments of σ
        by_x, by_weight = torch.empty_like(x), torch.zeros_like(weight)
        total = torch.zeros((), device=x.device)
        products = torch.empty(chunk_tokens, len(w), dtype=dtype, device=x.device)
        buffers = torch.empty(2, chunk_tokens, len(w), device=x.device)
        for start in range(0, len(x), chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            own, arguments = x[rows], products[: len(targets[rows])]
            torch.mm(own, w.t(), out=arguments)
            total += _losses_and_gradients(arguments, targets[rows], cap, buffers[:, : len(arguments)])
            torch.mm(arguments, w, out=by_x[rows])
            _add_product(by_weight, arguments.t(), own)
        ctx.save_for_backward(by_x, by_weight)
        ctx.cap, ctx.n_tokens, ctx.dtype = cap, len(targets), features.dtype
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of features and weight."""
        by_x, by_weight = ctx.saved_tensors
        factor = arriving[0] * (2 * ctx.cap / ctx.n_tokens)  # by the arguments, the logits 2c σ have 2c σ (1 - σ)
        return (by_x * (factor * 2 / ctx.cap)).to(ctx.dtype), by_weight * factor, None, None, None, None


def _losses_and_gradients(arguments: Tensor, targets: Tensor, cap: float, buffers: Tensor) -> Tensor:
    """Return the sum of a chunk's losses under logits 2c σ(arguments).

    The arguments (N, V) are overwritten by their gradient, divided by 2c. `buffers` are (2, N, V) float32.
    """
    gate, probabilities = buffers
    gate.copy_(arguments).sigmoid_()
    torch.softmax(torch.mul(gate, 2 * cap, out=probabilities), 1, out=probabilities)
    index = targets[:, None]
    loss = -probabilities.gather(1, index).log().sum()  # at least e^-2c / V, so that the logarithm is finite
    probabilities.scatter_add_(1, index, probabilities.new_full((1, 1), -1.0).expand_as(index))
    torch.ops.aten.sigmoid_backward.grad_input(probabilities, gate, grad_input=probabilities)
    arguments.copy_(probabilities)
    return loss


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left · right to a matrix in float32."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
