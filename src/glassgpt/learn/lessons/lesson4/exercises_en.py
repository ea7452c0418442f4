"""Lesson 4, the block: replace every `raise NotImplementedError`, then run: glassgpt learn check 4

Shapes: B sequences, T tokens, C channels. A linear layer `layer` maps the last axis: `layer(x)`.
"""

import math

import torch
from torch import Tensor, nn

from glassgpt.model.attention import attend  # or yours: from lesson3.exercises import attend


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Bring the channels of each token to mean 0 and variance 1, then multiply by the gain and add the bias.

    The variance is the mean of the squared deviations; `eps` is added to it, so that nothing is divided by 0.

    Args:
        x: (…, C).
        gain: (C).
        bias: (C).
        eps: a small number.

    Returns:
        (…, C).
    """
    raise NotImplementedError("exercise 4.1")


def gelu(x: Tensor) -> Tensor:
    """Return GPT-2's form of the GELU of each number: x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))."""
    raise NotImplementedError("exercise 4.2")


def self_attention(x: Tensor, qkv: nn.Linear, out: nn.Linear, n_head: int) -> Tensor:
    """Make queries, keys and values of each token, let each head attend, and put the heads together.

    Args:
        x: (B, T, C).
        qkv: maps C channels to 3 C: the queries, then the keys, then the values of all heads.
        out: maps the heads side by side, C channels, to C channels.
        n_head: number of heads; divides C.

    Returns:
        (B, T, C). Use `attend(q, k, v, None, 0.0)` with (B, heads, T, C / heads) for each.
    """
    raise NotImplementedError("exercise 4.3")


def mlp(x: Tensor, up: nn.Linear, down: nn.Linear) -> Tensor:
    """Process each token by itself: widen it, apply your GELU, narrow it again.

    Args:
        x: (B, T, C).
        up: maps C channels to 4 C.
        down: maps 4 C channels to C.

    Returns:
        (B, T, C).
    """
    raise NotImplementedError("exercise 4.4")


class Block(nn.Module):
    """A block of GPT-2: attention, then the MLP, each with a norm in front and a residual connection around both.

    Args:
        norm1: module in front of the attention.
        attention: module, called as `attention(x, cache)`.
        norm2: module in front of the MLP.
        mlp: module.
    """

    def __init__(self, norm1: nn.Module, attention: nn.Module, norm2: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2, self.mlp = norm1, attention, norm2, mlp

    def forward(self, x: Tensor, cache: object = None) -> Tensor:
        """Return the new residual stream, (B, T, C) -> (B, T, C)."""
        raise NotImplementedError("exercise 4.5")
