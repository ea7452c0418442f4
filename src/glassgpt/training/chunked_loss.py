"""A sum over chunks of positions whose intermediate results, the logits, are held for one chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from glassgpt.training.distributed import is_sharded

ChunkFunction = Callable[..., Tensor]


def sum_of_chunks(
    function: ChunkFunction, model: nn.Module, chunk_tokens: int, features: Tensor, *others: Tensor
) -> Tensor:
    """Return the sum of a function over chunks of its arguments: a differentiable scalar.

    A chunk's gradient is computed as soon as its value is, in the forward pass, and only the gradient is kept (as in Hsu
    et al. 2024, "Liger Kernel"). Nothing is computed twice; and on a CPU the logits of a small chunk stay in the cache, which
    makes it faster than all logits at once. Where that is impossible, the backward pass computes each chunk again: compiled
    code cannot contain a backward pass, a sharded parameter has no gradient of its own, and in fp16 a gradient underflows
    without the factor that the scaler applies to the loss.

    Args:
        function: maps a chunk of each argument to a scalar; differentiated for the features and the model's parameters.
        model: whose parameters the function may use.
        chunk_tokens: positions per chunk.
        features: (N, C).
        others: (N, …) each; not differentiated.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not torch.is_grad_enabled():
        parts = [function(*chunk) for chunk in _chunks(chunk_tokens, features, *others)]
    elif torch.compiler.is_compiling() or _is_fp16(features) or any(map(is_sharded, parameters)):
        parts = [
            checkpoint(function, *chunk, use_reentrant=False) for chunk in _chunks(chunk_tokens, features, *others)
        ]
    else:
        return _SumOfChunks.apply(function, chunk_tokens, len(others), features, *others, *parameters)  # type: ignore[no-any-return]
    return torch.stack(parts).sum()


def _chunks(chunk_tokens: int, *tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    return zip(*(tensor.split(chunk_tokens) for tensor in tensors), strict=True)


def _added(so_far: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    if so_far is None or gradient is None:
        return so_far if gradient is None else gradient.contiguous()  # an expanded one cannot be added to
    return so_far.add_(gradient)


def _is_fp16(features: Tensor) -> bool:
    kind = features.device.type
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16


class _SumOfChunks(torch.autograd.Function):
    """Computes value and gradients chunk by chunk; the backward pass multiplies the gradients by the one that arrives."""

    @staticmethod
    def forward(
        ctx: Any, function: ChunkFunction, chunk_tokens: int, n_others: int, features: Tensor, *tensors: Tensor
    ) -> Tensor:
        """Return the sum, and keep the gradients of features and parameters."""
        others, parameters = tensors[:n_others], tensors[n_others:]
        total = torch.zeros((), device=features.device)
        feature_gradients: list[Tensor] = []
        sums: list[Tensor | None] = [None] * len(parameters)
        for own, *rest in _chunks(chunk_tokens, features.detach(), *others):
            with torch.enable_grad():
                value = function(own.requires_grad_(), *rest)
                gradients = torch.autograd.grad(value, (own, *parameters), allow_unused=True)
            total += value.detach()
            feature_gradients.append(gradients[0])
            sums = [_added(so_far, gradient) for so_far, gradient in zip(sums, gradients[1:], strict=True)]
        ctx.n_others = n_others
        ctx.save_for_backward(torch.cat(feature_gradients), *sums)
        return total

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of features and parameters."""
        (factor,) = arriving
        scaled = [None if gradient is None else gradient * factor for gradient in ctx.saved_tensors]
        return (None, None, None, scaled[0], *[None] * ctx.n_others, *scaled[1:])
