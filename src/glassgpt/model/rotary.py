"""Rotary positions, and the split of a projection into heads, as Modern and Llama use them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """Rotate the channel pairs (i, i + D/2) by angles proportional to the position (Su et al. 2021, eq. 15).

    The dot product of a rotated query and key then depends only on their distance.

    Args:
        context_length: number of positions.
        frequencies: (D/2,) angle per position of each pair.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, context_length: int, frequencies: Tensor) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(context_length, dtype=torch.float32), frequencies)  # (context, D/2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Rotate x (B, H, T, D) by its positions (B, T); None means 0 … T - 1."""
        if positions is None:
            cos, sin = self.cos[: x.size(2)], self.sin[: x.size(2)]  # (T, D/2)
        else:
            cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]  # (B, 1, T, D/2)
        first, second = x.float().chunk(2, dim=-1)
        return torch.cat(self.rotate(first, second, cos, sin), dim=-1).type_as(x)

    def rotate(self, first: Tensor, second: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate the pairs (first, second) by the angle of this cosine and sine."""
        return first * cos - second * sin, second * cos + first * sin


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """(B, T, H·D) -> (B, H, T, D)."""
    return x.view(*x.shape[:2], -1, head_dim).transpose(1, 2)
