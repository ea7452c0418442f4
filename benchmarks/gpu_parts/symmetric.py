"""Symmetric matrix products for Muon: only the tiles of the lower triangle are computed, each is written to both halves.

An iteration of `muon.orthogonalize` needs A = X Xᵀ and b A + c A A, which are symmetric, so half of the arithmetic is
enough. `reference` is the readable reference implementation. Shapes: N matrices of R rows and C columns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from gpu_parts.symmetric_kernel import symmetric_kernel


class Tile(NamedTuple):
    """Settings of the kernel.

    Attributes:
        size: rows and columns of the part of the result that a program computes.
        depth: columns of X that are loaded together.
        warps: of a program.
        stages: loads under way.
    """

    size: int
    depth: int
    warps: int
    stages: int


TILES = (Tile(128, 64, 4, 3), Tile(128, 64, 8, 3), Tile(128, 64, 8, 4), Tile(128, 128, 8, 2), Tile(64, 128, 4, 3))
"""Tried on a GPU. The loads under way take 96 or 128 KiB of shared memory, so one or two programs fit on an SM."""


def reference(x: Tensor, added: Tensor | None = None, alpha: float = 1.0, beta: float = 0.0) -> Tensor:
    """Return alpha · X Xᵀ + beta · added, (N, R, R)."""
    return x @ x.mT if added is None else torch.baddbmm(added, x, x.mT, alpha=alpha, beta=beta)


def symmetric_product(
    x: Tensor, added: Tensor | None = None, alpha: float = 1.0, beta: float = 0.0, *, tile: Tile = TILES[0]
) -> Tensor:
    """Return alpha · X Xᵀ + beta · added, (N, R, R), in the precision of X; both halves have the same bits.

    Args:
        x: (N, R, C), with any strides. A symmetric matrix is its own transpose, so A A is the product for X = A.
        added: (N, R, R), symmetric, contiguous. Its lower half is read.
        alpha, beta: factors; the sum is computed in float32 and rounded once.
        tile: how the result is divided.
    """
    count, n_rows, n_columns = x.shape
    out = torch.empty((count, n_rows, n_rows), dtype=x.dtype, device=x.device)
    blocks = triton.cdiv(n_rows, tile.size)
    kernel: Any = symmetric_kernel
    kernel[(blocks * (blocks + 1) // 2, count)](
        x, x if added is None else added, out, n_rows, n_columns, *x.stride(), alpha, beta,
        HAS_ADDED=added is not None, IS_WHOLE=n_rows % tile.size == 0 and n_columns % tile.depth == 0,
        SIZE=tile.size, DEPTH=tile.depth, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out
