"""The GPU kernel of symmetric products; `hopper_muon.py` launches it, and has its reference in PyTorch."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_position(index):
    """Return which tile of its row and column the index-th of the lower triangle is, counted row by row.

    The root is rounded, so its neighbors are tried, too.
    """
    i = ((tl.sqrt(8.0 * index + 1.0) - 1.0) * 0.5).to(tl.int32)
    i += tl.where((i + 1) * (i + 2) // 2 <= index, 1, 0)
    i -= tl.where(i * (i + 1) // 2 > index, 1, 0)
    return i, index - i * (i + 1) // 2


@triton.jit
def symmetric_kernel(
    x, added, out, n_rows, n_columns, stride_matrix, stride_row, stride_column, alpha, beta,
    HAS_ADDED: tl.constexpr, SIZE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Write a tile of alpha · X Xᵀ + beta · added to out (N, n_rows, n_rows), and its transpose.

    There are no masks: n_rows must be a multiple of SIZE, and n_columns of DEPTH.
    """
    matrix = tl.program_id(1).to(tl.int64)
    i, j = tile_position(tl.program_id(0))
    row, column = i * SIZE + tl.arange(0, SIZE), j * SIZE + tl.arange(0, SIZE)
    k = tl.arange(0, DEPTH)
    x += matrix * stride_matrix
    left_at = x + row[:, None] * stride_row + k[None, :] * stride_column  # (SIZE, DEPTH)
    right_at = x + column[None, :] * stride_row + k[:, None] * stride_column  # (DEPTH, SIZE)
    total = tl.zeros((SIZE, SIZE), tl.float32)
    for _ in range(0, n_columns, DEPTH):
        total = tl.dot(tl.load(left_at), tl.load(right_at), total)
        left_at += DEPTH * stride_column
        right_at += DEPTH * stride_column
    total *= alpha
    at = matrix * n_rows * n_rows + row[:, None] * n_rows + column[None, :]
    if HAS_ADDED:
        total += beta * tl.load(added + at).to(tl.float32)
    values = total.to(out.dtype.element_ty)
    if i == j:  # the tensor cores need not add both halves in the same order, so one is copied
        values = tl.where(row[:, None] >= column[None, :], values, tl.trans(values))
    else:
        mirrored = matrix * n_rows * n_rows + column[:, None] * n_rows + row[None, :]
        tl.store(out + mirrored, tl.trans(values))
    tl.store(out + at, values)
