"""Scaled dot-product attention: the only place that selects kernels, and a readable reference implementation.

Every architecture calls an `AttentionFunction` that is chosen when the model is built: `attend` lets PyTorch pick
the fastest kernel, `attend_readable` writes the formula out. A test checks that they agree. Training on a GPU has another
one for sliding windows, in `windowed.py`.

Shapes: B sequences, H query heads, K key/value heads (K = H, or fewer when query heads share them), T queries,
S keys, D channels per head.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_QUERIES = 128
"""Queries that are computed at once with a window, at least: smaller pieces cost more calls than they save."""


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
            sinks: with a window, the number of first positions that every query attends to as well (Xiao et al. 2023).
                A function of your own needs it only for models with `model.sinks`.

        Returns:
            (B, H, T, D).
        """
        ...


def causal_mask(
    n_queries: int, n_keys: int, device: torch.device | None = None, window: int = 0, sinks: int = 0
) -> Tensor:
    """Return the (1, 1, T, S) bool mask that lets each query attend to its own and earlier positions.

    The queries are the last T of the S positions: query t stands at position S - T + t. With a window, it attends to
    the last `window` of these positions and to the first `sinks` only.
    """
    # Without a cache T = S and this is the lower triangle. With S - T cached keys in front, the diagonal moves right
    # by S - T: the first new token sees every cached key and itself.
    visible = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)
    if window:
        recent = visible.triu(n_keys - n_queries - window + 1)
        visible = torch.cat((visible[:, :sinks], recent[:, sinks:]), dim=1) if sinks else recent
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
    if mask is None and 0 < window < k.size(2) - sinks:
        return _attend_to_windows(q, k, v, dropout, window, sinks)
    n_queries, n_keys = q.size(2), k.size(2)
    is_causal = mask is None and n_queries == n_keys and n_queries > 1
    if mask is None and not is_causal and n_queries > 1:
        # PyTorch's is_causal puts the diagonal at the top left; queries behind cached keys need it at the bottom right.
        mask = causal_mask(n_queries, n_keys, q.device)
    # Neither a mask nor is_causal: a single query, the last position, which may attend to everything.
    return _fused(q, k, v, mask, dropout, is_causal=is_causal)


def _attend_to_windows(q: Tensor, k: Tensor, v: Tensor, dropout: float, window: int, sinks: int) -> Tensor:
    """Attend without a look at keys that no query sees: the queries in chunks, each with the keys of its windows.

    Time and memory grow with T · window instead of T · S.
    """
    n_queries, end = q.size(2), k.size(2) - q.size(2)
    outputs: list[Tensor] = []
    for queries in q.split(max(window, MIN_QUERIES), dim=2):
        end += queries.size(2)
        start = max(0, end - queries.size(2) - window + 1)  # of the window of the chunk's first query
        keys, values = (_keep(x, sinks, start, end) for x in (k, v))
        mask = None  # a single query sees all that was kept
        if n_queries > 1:
            shared = min(sinks, start)
            mask = causal_mask(queries.size(2), end - start + shared, q.device, window, sinks)
        outputs.append(_fused(queries, keys, values, mask, dropout))
    return torch.cat(outputs, dim=2)


def _keep(x: Tensor, sinks: int, start: int, end: int) -> Tensor:
    """Return the first `sinks` positions of keys or values, and those from `start` to `end`, each once."""
    return (
        x[:, :, start:end]
        if min(sinks, start) == 0
        else torch.cat((x[:, :, : min(sinks, start)], x[:, :, start:end]), 2)
    )


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, *, is_causal: bool = False) -> Tensor:
    shared_heads = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, enable_gqa=shared_heads
    )
