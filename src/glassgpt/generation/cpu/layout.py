"""How large matrices lie in memory while text is generated, and how a product with few vectors reads them.

Generating one text on a CPU reads every weight once a token and does little else, so the speed is that of
memory. Stored by rows, as PyTorch makes a matrix, its product with one vector is a scalar product for each
row, which the linear-algebra library does at half that speed; stored by columns, whole columns are added up
at full speed, though on one core. Cutting that sum into parts gives every core some. The figures are in
docs/log.md; from four texts at once on, rows are as fast.
"""

from __future__ import annotations

import torch
from torch import Tensor

FEW_ROWS = 2
"""Texts at once up to which this is worth it."""
PARTS = 4
"""Into how many parts a sum is cut, so that cores can share it."""


def store_by_columns(weight: Tensor) -> None:
    """Turn a matrix in memory; its values and shape stay, and it can be trained on."""
    weight.data = weight.data.t().contiguous().t()


def product_by_columns(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` for few rows (N, in) and a weight that `store_by_columns` turned: (N, out)."""
    n_parts = PARTS if x.size(1) % PARTS == 0 else 1
    parts = x.reshape(x.size(0), n_parts, -1).transpose(0, 1)  # (parts, N, in / parts)
    sums = torch.bmm(parts, weight.t().unflatten(0, (n_parts, -1))).sum(0)
    return sums if bias is None else sums.add_(bias)
