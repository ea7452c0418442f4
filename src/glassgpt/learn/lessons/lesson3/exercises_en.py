"""Lesson 3, attention: replace every `raise NotImplementedError`, then run: glassgpt learn check 3

Shapes: B sequences, H heads, T queries, S keys, D channels per head, and C = H · D channels in all.
"""

import math

import torch
from torch import Tensor


def attention_scores(q: Tensor, k: Tensor) -> Tensor:
    """Return how well each query fits each key: their dot product, divided by the square root of D.

    Args:
        q: queries, (…, T, D).
        k: keys, (…, S, D).

    Returns:
        Scores, (…, T, S).
    """
    raise NotImplementedError("exercise 3.1")


def causal_mask(n_queries: int, n_keys: int) -> Tensor:
    """Return which keys each query may see: its own position and the earlier ones.

    The queries are the last `n_queries` of the `n_keys` positions: query t stands at position n_keys - n_queries + t.

    Returns:
        (T, S) bool, True where the query may see the key.
    """
    raise NotImplementedError("exercise 3.2")


def attention_weights(scores: Tensor, mask: Tensor) -> Tensor:
    """Return each query's scores as shares that sum to 1, over the keys that it may see.

    Args:
        scores: (…, T, S).
        mask: (T, S) bool, True where the query may see the key; at least one key per query.

    Returns:
        Weights, (…, T, S); a hidden key has weight 0.
    """
    raise NotImplementedError("exercise 3.3")


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """Divide the channels among the heads: the first D channels belong to head 0, the next D to head 1, and so on.

    Args:
        x: (B, T, C).
        n_head: H; divides C.

    Returns:
        (B, H, T, D).
    """
    raise NotImplementedError("exercise 3.4")


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0, window: int = 0
) -> Tensor:
    """Return, for each query, the average of the values, weighted by the attention weights.

    Args:
        q: queries, (B, H, T, D).
        k: keys, (B, H, S, D).
        v: values, (B, H, S, D).
        mask: (B, 1, T, S) bool, True where a query may see a key; None stands for the causal mask.
        dropout: 0 here.
        window: 0 here.

    Returns:
        (B, H, T, D).
    """
    if dropout or window:
        raise ValueError("this attention has neither dropout nor a window")
    raise NotImplementedError("exercise 3.5")


class Cache:
    """The keys and values of the tokens so far, in two buffers that are created once.

    Args:
        shape: (B, H, S, D) of each buffer, which holds up to S tokens.
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self.keys = torch.zeros(shape)
        self.values = torch.zeros(shape)
        self.length = 0  # number of tokens that are stored

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of T new tokens behind those that are there.

        Args:
            k: (B, H, T, D).
            v: (B, H, T, D).

        Returns:
            All keys and all values so far, old and new, each (B, H, number of tokens so far, D).
        """
        raise NotImplementedError("exercise 3.6")
