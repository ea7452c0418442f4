"""Lesson 4, the block: the exercises, solved.

Shapes: B sequences, T tokens, C channels.
"""

import math

import torch
from torch import Tensor, nn

from glassgpt.model.attention import attend


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Bring the channels of each token to mean 0 and variance 1, then multiply by the gain and add the bias."""
    deviations = x - x.mean(dim=-1, keepdim=True)
    variance = deviations.square().mean(dim=-1, keepdim=True)
    return deviations / (variance + eps).sqrt() * gain + bias


def gelu(x: Tensor) -> Tensor:
    """Return GPT-2's form of the GELU of each number."""
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def self_attention(x: Tensor, qkv: nn.Linear, out: nn.Linear, n_head: int) -> Tensor:
    """Make queries, keys and values of each token, let each head attend, and put the heads together, (B, T, C)."""
    q, k, v = (part.unflatten(-1, (n_head, -1)).transpose(1, 2) for part in qkv(x).chunk(3, dim=-1))
    y = attend(q, k, v, None, 0.0)  # (B, heads, T, C / heads)
    return out(y.transpose(1, 2).flatten(2))


def mlp(x: Tensor, up: nn.Linear, down: nn.Linear) -> Tensor:
    """Widen each token, apply the GELU, narrow it again, (B, T, C)."""
    return down(gelu(up(x)))


class Block(nn.Module):
    """A block of GPT-2: attention, then the MLP, each with a norm in front and a residual connection around both."""

    def __init__(self, norm1: nn.Module, attention: nn.Module, norm2: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2, self.mlp = norm1, attention, norm2, mlp

    def forward(self, x: Tensor, cache: object = None) -> Tensor:
        """Return the new residual stream, (B, T, C) -> (B, T, C)."""
        x = x + self.attention(self.norm1(x), cache)
        return x + self.mlp(self.norm2(x))
