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
    factors: Tensor
    direction = 1

    def __init__(self, context_length: int, frequencies: Tensor) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(context_length, dtype=torch.float32), frequencies)  # (context, D/2)
        cos, sin = angles.cos(), angles.sin()
        signed = self.direction * sin
        # (2, context, D): what each channel is multiplied by, and what its partner is
        factors = torch.stack((torch.cat((cos, cos), -1), torch.cat((-signed, signed), -1)))
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.register_buffer("factors", factors, persistent=False)

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Rotate x (B, H, T, D) by its positions (B, T); None means 0 … T - 1."""
        if positions is None:
            own, other = self.factors[:, : x.size(2)]  # (T, D)
        else:
            own, other = self.factors[:, positions].unsqueeze(2)  # (B, 1, T, D)
        partners = x.roll(x.size(-1) // 2, dims=-1)
        return (x * own + partners * other).type_as(x)  # in float32, as the factors are


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """(B, T, H·D) -> (B, H, T, D)."""
    return x.view(*x.shape[:2], -1, head_dim).transpose(1, 2)
