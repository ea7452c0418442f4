"""Lesson 3, attention: the exercises, solved.

Shapes: B sequences, H heads, T queries, S keys, D channels per head, and C = H · D channels in all.
"""

import math

import torch
from torch import Tensor


def attention_scores(q: Tensor, k: Tensor) -> Tensor:
    """Return how well each query fits each key: their dot product, divided by the square root of D."""
    return q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))


def causal_mask(n_queries: int, n_keys: int) -> Tensor:
    """Return which keys each query may see: its own position and the earlier ones, (T, S) bool."""
    positions = torch.arange(n_keys - n_queries, n_keys)
    return torch.arange(n_keys) <= positions[:, None]


def attention_weights(scores: Tensor, mask: Tensor) -> Tensor:
    """Return each query's scores as shares that sum to 1, over the keys that it may see."""
    return scores.masked_fill(~mask, -math.inf).softmax(dim=-1)


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """Divide the channels among the heads, (B, T, C) -> (B, H, T, D)."""
    return x.unflatten(-1, (n_head, -1)).transpose(1, 2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0, window: int = 0
) -> Tensor:
    """Return, for each query, the average of the values, weighted by the attention weights, (B, H, T, D)."""
    if dropout or window:
        raise ValueError("this attention has neither dropout nor a window")
    if mask is None:
        mask = causal_mask(q.size(-2), k.size(-2))
    return attention_weights(attention_scores(q, k), mask) @ v


class Cache:
    """The keys and values of the tokens so far, in two buffers that are created once."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self.keys = torch.zeros(shape)
        self.values = torch.zeros(shape)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of T new tokens, and return all keys and all values so far."""
        start, self.length = self.length, self.length + k.size(-2)
        self.keys[:, :, start : self.length] = k
        self.values[:, :, start : self.length] = v
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]
