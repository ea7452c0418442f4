"""Scaled dot-product attention: the only place that selects kernels, and a readable reference implementation.

Every architecture calls an `AttentionFunction` that is chosen when the model is built: `attend` lets PyTorch pick
the fastest kernel, `attend_readable` writes the formula out. A test checks that they agree.

Shapes: B sequences, H query heads, K key/value heads (K = H, or fewer when query heads share them), T queries,
S keys, D channels per head.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.types import Device

from glassgpt.model.behind_keys import attend_without_mask, can_attend_without_mask
from glassgpt.model.single_query import single_query_kernels
from glassgpt.model.window_chunks import chunks_in_reach


class AttentionFunction(Protocol):
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1)."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0, sinks: int = 0
    ) -> Tensor:
        """Return the average of the values, weighted by the similarity of queries and keys.

        Args:
            q: (B, H, T, D).
            k: (B, K, S, D); K must divide H, and H / K neighboring query heads share a key head (Ainslie et al. 2023).
            v: (B, K, S, D).
            mask: (B or 1, 1, T, S) bool, True where a query may attend; None means causal, the T queries being the
                last T of the S positions.
            dropout: probability of dropping an attention weight; 0 outside training.
            window: without a mask, the number of most recent positions a query attends to, including its own;
                0 means all.
            sinks: with a window, the number of first positions it attends to as well.

        Returns:
            (B, H, T, D).
        """
        ...


def causal_mask(n_queries: int, n_keys: int, device: Device = None, window: int = 0, sinks: int = 0) -> Tensor:
    """Return the (1, 1, T, S) bool mask that lets each query attend to its own and earlier positions.

    The queries are the last T of the S positions: query t stands at position S - T + t. With a window, it attends to
    the last `window` of these positions and to the first `sinks` only.
    """
    # Without a cache T = S and this is the lower triangle. With S - T cached keys in front, the diagonal moves right
    # by S - T: the first new token sees every cached key and itself.
    visible = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)
    if window:
        recent = visible.triu(n_keys - n_queries - window + 1)
        visible = torch.cat((visible[:, :sinks], recent[:, sinks:]), dim=1)
    return visible[None, None]


def attend_readable(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0, sinks: int = 0
) -> Tensor:
    """Compute attention from its formula: the reference implementation of `attend`; see `AttentionFunction`."""
    k, v = (x.repeat_interleave(q.size(1) // k.size(1), dim=1) for x in (k, v))  # (B, H, S, D)
    weights = attention_weights(q, k, mask, window, sinks)
    return F.dropout(weights, dropout) @ v


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None, window: int = 0, sinks: int = 0) -> Tensor:
    """Return the (B, H, T, S) attention weights: each row sums to 1, masked keys are exactly 0."""
    if mask is None:
        mask = causal_mask(q.size(2), k.size(2), q.device, window, sinks)
    # exp(-inf) = 0: a masked key gets no weight, whatever its score.
    return attention_scores(q, k).masked_fill(~mask, -math.inf).softmax(dim=-1)


def attention_scores(q: Tensor, k: Tensor) -> Tensor:
    """Return the (B, H, T, S) dot products of queries and keys, divided by sqrt(D)."""
    # The dot product of two vectors of D independent unit-variance components has variance D. Unscaled, the softmax
    # would saturate and its gradients vanish.
    return q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0, sinks: int = 0
) -> Tensor:
    """Compute attention with the fastest kernel PyTorch has for these tensors; see `AttentionFunction`."""
    if mask is None and window and (chunks := chunks_in_reach(q, k, v, window, sinks)):
        return torch.cat([attend(*chunk, None, dropout, window, sinks) for chunk in chunks], dim=2)
    n_queries, n_keys = q.size(2), k.size(2)
    narrow = mask is None and 0 < window < n_keys - sinks
    is_causal = mask is None and not narrow and n_queries == n_keys and n_queries > 1
    if mask is None and not is_causal and (narrow or n_queries > 1):
        # PyTorch's is_causal puts the diagonal at the top left; queries behind cached keys need it at the bottom right.
        if not narrow and can_attend_without_mask(q, k, v, dropout):
            return attend_without_mask(q, k, v, dropout)
        mask = causal_mask(n_queries, n_keys, q.device, window, sinks)
    # Neither a mask nor is_causal: a single query, the last position, which may attend to everything.
    with single_query_kernels(q):
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal, enable_gqa=q.size(1) != k.size(1))
