"""Dropout of whole input tokens, which limits memorizing where a text is read many times."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TokenDropout(nn.Module):
    """Hides input tokens in training (Iyyer et al. 2015; Bowman et al. 2016): a fixed vector takes the place of theirs.

    A text that is read many times is memorized less, since the same tokens are never followed by the same ones twice. The
    vector is as long as the others of its row on average, so that it does not depend on how a batch is divided into
    micro-batches, and its elements alternate in sign, so that LayerNorm does not make it zero.
    A zero vector would stay zero in all blocks at the first position, which attends to nothing else, and each norm would
    multiply the gradient by up to 1 / sqrt(eps), until it overflows.

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
        is_hidden = torch.rand(x.shape[:2], device=x.device) < self.p
        root_mean_square = x.detach().float().square().mean(dim=(1, 2), keepdim=True).sqrt()  # (B, 1, 1)
        signs = 1 - 2 * (torch.arange(x.size(-1), device=x.device) % 2)
        return torch.where(is_hidden[..., None], (root_mean_square * signs).to(x.dtype), x)
