"""Write to single entries (sequence, token) of a batch of logits without waiting for the GPU.

Torch is imported inside the functions, so that the processors' settings can be read without it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def flat_indices(logits: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """Return the indices of entries (row, token) in flattened logits (B, V): (N,) int64 on the logits' device."""
    import torch

    indices = torch.tensor(rows, dtype=torch.long) * logits.size(1) + torch.tensor(tokens, dtype=torch.long)
    return indices.to(logits.device, non_blocking=True)


def add_at(logits: Tensor, rows: Sequence[int], tokens: Sequence[int], values: Sequence[float]) -> Tensor:
    """Return logits (B, V) with values added at (row, token); entries named twice get both."""
    import torch

    amounts = torch.tensor(values, dtype=logits.dtype).to(logits.device, non_blocking=True)
    return logits.flatten().index_add(0, flat_indices(logits, rows, tokens), amounts).view_as(logits)


def mask_of(logits: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """Return a mask (B, V) that is true at each (row, token). Ids beyond V, those of a picture in the prompt, are left out."""
    import torch

    if max(tokens, default=0) >= logits.size(1):
        known = [(row, token) for row, token in zip(rows, tokens, strict=True) if token < logits.size(1)]
        rows, tokens = [row for row, _ in known], [token for _, token in known]
    mask = torch.zeros_like(logits, dtype=torch.bool)
    return mask.flatten().index_fill_(0, flat_indices(logits, rows, tokens), True).view_as(logits)


def entries(tokens_per_row: Sequence[Collection[int]]) -> tuple[list[int], list[int]]:
    """Return the tokens of several rows as two parallel lists, rows and tokens."""
    rows = [row for row, tokens in enumerate(tokens_per_row) for _ in tokens]
    return rows, [token for tokens in tokens_per_row for token in tokens]
