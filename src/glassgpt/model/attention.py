"""The attention seam: the only place that knows kernels, and its readable twin.

Every architecture calls a function of the type `AttentionFunction`. Which one is decided when the model is built:
`attend` is the fast one (PyTorch picks the kernel), `attend_readable` writes the formula out and is used
when someone wants to *see* the weights. A test holds the two equal.

Shapes: B rows, H query heads, K key and value heads (H, or fewer that are shared), T queries, S keys, D head
width.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class AttentionFunction(Protocol):
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0) -> Tensor:
        """Mix values by the similarity of queries and keys.

        Args:
            q: (B, H, T, D).
            k: (B, K, S, D); K divides H, and H / K neighbouring query heads share a key head (Ainslie et al. 2023).
            v: (B, K, S, D).
            mask: (B or 1, 1, T, S) bool, True where a query may look; None means causal, that is,
                the T queries are the last T of S positions.
            dropout: probability of dropping an attention weight; 0 outside training.
            window: without a mask, how many positions back a query sees, its own included; 0 is all of them.

        Returns:
            (B, H, T, D).
        """
        ...


def causal_mask(n_queries: int, n_keys: int, device: torch.device | None = None, window: int = 0) -> Tensor:
    """(1, 1, T, S) bool: query t is position S - T + t and sees every key up to its own position.

    With a window, only the last `window` of these.
    """
    visible = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)
    if window:
        visible = visible.triu(n_keys - n_queries - window + 1)
    return visible[None, None]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0) -> Tensor:
    """Attention by the fastest kernel that PyTorch has for these tensors; see `AttentionFunction`."""
    n_queries, n_keys = q.size(2), k.size(2)
    narrow = mask is None and 0 < window < n_keys
    if mask is None and not narrow and n_queries == n_keys and n_queries > 1:
        return _sdpa(q, k, v, None, dropout, is_causal=True)
    if mask is None and (narrow or n_queries > 1):
        # is_causal aligns the triangle to the *top left*; queries behind cached keys need it bottom right.
        mask = causal_mask(n_queries, n_keys, q.device, window)
    # Without a mask by now, there is a single query: the last position, which may see everything.
    return _sdpa(q, k, v, mask, dropout, is_causal=False)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, *, is_causal: bool) -> Tensor:
    shared = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, enable_gqa=shared
    )


def attention_scores(q: Tensor, k: Tensor) -> Tensor:
    """Similarity of each query with each key, scaled by 1/sqrt(D) so that its variance stays 1: (B, H, T, S)."""
    return q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None, window: int = 0) -> Tensor:
    """Where each query looks: softmax of the visible scores, rows sum to 1, the future is exactly 0: (B, H, T, S)."""
    if mask is None:
        mask = causal_mask(q.size(2), k.size(2), q.device, window)
    return attention_scores(q, k).masked_fill(~mask, -math.inf).softmax(dim=-1)


def attend_readable(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0) -> Tensor:
    """The readable twin of `attend`: the same result from the formula itself; see `AttentionFunction`."""
    k, v = (x.repeat_interleave(q.size(1) // k.size(1), dim=1) for x in (k, v))
    weights = attention_weights(q, k, mask, window)
    return F.dropout(weights, dropout) @ v
