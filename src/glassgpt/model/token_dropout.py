"""Dropout of whole input tokens, which limits memorizing where a text is read many times."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TokenDropout(nn.Module):
    """Hides input tokens in training: the whole vector of a position becomes zero (Dai and Le 2015; Bowman et al. 2016).

    A text that is read many times is memorized less, since the same tokens are never followed by the same ones twice.
    What is left is not scaled up, so that it is as long as it is without dropout.

    Args:
        p: probability of hiding a token.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    @property
    def is_random(self) -> bool:
        """True if training draws random numbers here."""
        return self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        """Hide some of the positions, (B, T, C) -> (B, T, C)."""
        if not self.training or not self.is_random:
            return x
        return x * (torch.rand(x.shape[:2], device=x.device) >= self.p)[..., None]
