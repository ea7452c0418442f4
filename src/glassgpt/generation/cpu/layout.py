"""Memory layout of large matrices during generation, and their products with a few vectors.

Generating one text on a CPU reads every weight once per token and does little else, so its speed is that of memory.
In row-major order, as PyTorch creates a matrix, the product with one vector is a dot product per row, which the
linear-algebra library computes at half of memory's speed. In column-major order, whole columns are added up at full
speed, though on one core; splitting that sum into parts keeps several cores busy. Measurements are in docs/log.md; from
four vectors on, row-major order is as fast.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_VECTORS = 2
"""Vectors up to which the column-major product is used."""
PARTS = 4
"""Number of partial sums, so that several cores share the work."""


def to_column_major(weight: Tensor) -> None:
    """Reorder a matrix in memory; its values and shape stay, and it can still be trained."""
    weight.data = weight.data.t().contiguous().t()


def column_major_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `F.linear` for few vectors (N, in) and a weight in column-major order: (N, out)."""
    n_parts = PARTS if x.size(1) % PARTS == 0 else 1
    parts = x.reshape(x.size(0), n_parts, -1).transpose(0, 1)  # (parts, N, in / parts)
    sums = torch.bmm(parts, weight.t().unflatten(0, (n_parts, -1))).sum(0)
    return sums if bias is None else sums.add_(bias)
