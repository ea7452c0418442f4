"""Muon on Hopper: symmetric matrix products of which only one half is computed.

A step of `muon.orthogonalize` needs A = X Xᵀ and b A + c A A, which are symmetric. A kernel computes the tiles of their
lower triangle and writes each to both halves: a quarter less arithmetic in all. Besides, the sum b A + c A A is rounded
once instead of three times. Shapes: N matrices of R rows and C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glassgpt.training.captured_muon import CapturedMuon
from glassgpt.training.muon import POLAR_EXPRESS, SAFETY, working_precision
from glassgpt.training.symmetric_kernel import symmetric_kernel


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


TILE = Tile(128, 64, 4, 3)
"""The fastest of five on an H200; its loads under way take 96 KiB of shared memory."""


def fits(x: Tensor, tile: Tile = TILE) -> bool:
    """Return whether matrices (N, R, C) consist of whole tiles, of several rows of them: one tile alone saves nothing."""
    return x.size(1) % tile.size == 0 and x.size(2) % tile.depth == 0 and x.size(1) > tile.size


def reference(x: Tensor, added: Tensor | None = None, alpha: float = 1.0, beta: float = 0.0) -> Tensor:
    """Return alpha · X Xᵀ + beta · added, (N, R, R): the readable reference implementation of `symmetric_product`."""
    return x @ x.mT if added is None else torch.baddbmm(added, x, x.mT, alpha=alpha, beta=beta)


def symmetric_product(
    x: Tensor, added: Tensor | None = None, alpha: float = 1.0, beta: float = 0.0, *, tile: Tile = TILE
) -> Tensor:
    """Return alpha · X Xᵀ + beta · added, (N, R, R), in the precision of X; both halves have the same bits.

    Args:
        x: (N, R, C), with any strides, of whole tiles. A symmetric matrix is its own transpose, so A A is the product for X = A.
        added: (N, R, R), symmetric, contiguous. Its lower half is read.
        alpha, beta: factors; the sum is computed in float32 and rounded once.
        tile: how the result is divided.
    """
    count, n_rows, n_columns = x.shape
    out = torch.empty((count, n_rows, n_rows), dtype=x.dtype, device=x.device)
    blocks = n_rows // tile.size
    kernel: Any = symmetric_kernel
    kernel[(blocks * (blocks + 1) // 2, count)](
        x, x if added is None else added, out, n_rows, n_columns, *x.stride(), alpha, beta,
        HAS_ADDED=added is not None, SIZE=tile.size, DEPTH=tile.depth, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def orthogonalize_by_halves(
    matrices: Tensor, coefficients: Sequence[tuple[float, float, float]] = POLAR_EXPRESS, *, tile: Tile = TILE
) -> Tensor:
    """Compute `muon.orthogonalize` with symmetric products, by the kernel if the matrices consist of whole tiles.

    Args:
        matrices: (N, rows, columns).
        coefficients: a, b, c of each step.
        tile: how the products are divided.
    """
    x = working_precision(matrices)
    is_tall = x.size(-2) > x.size(-1)
    if is_tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * SAFETY + 1e-7)
    for a, b, c in coefficients:
        gram = symmetric_product(x, tile=tile) if fits(x, tile) else reference(x)
        square = symmetric_product(gram, gram, c, b, tile=tile) if fits(gram, tile) else reference(gram, gram, c, b)
        x = torch.baddbmm(x, square, x, beta=a)
    return x.mT if is_tall else x


class HopperMuon(CapturedMuon):
    """Captured Muon with symmetric products."""

    def __init__(self, *params: Any, **settings: Any) -> None:
        super().__init__(*params, **settings)
        self._orthogonalize = orthogonalize_by_halves
