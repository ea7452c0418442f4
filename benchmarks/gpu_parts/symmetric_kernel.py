"""The GPU kernel of symmetric products; `symmetric.py` launches it, and has its reference in PyTorch."""

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
    HAS_ADDED: tl.constexpr, IS_WHOLE: tl.constexpr, SIZE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Write a tile of alpha · X Xᵀ + beta · added to out (N, n_rows, n_rows), and its transpose.

    IS_WHOLE: tiles end where the matrix ends, so no mask is needed.
    """
    matrix = tl.program_id(1).to(tl.int64)
    i, j = tile_position(tl.program_id(0))
    row, column = i * SIZE + tl.arange(0, SIZE), j * SIZE + tl.arange(0, SIZE)
    k = tl.arange(0, DEPTH)
    x += matrix * stride_matrix
    left_at = x + row[:, None] * stride_row + k[None, :] * stride_column  # (SIZE, DEPTH)
    right_at = x + column[None, :] * stride_row + k[:, None] * stride_column  # (DEPTH, SIZE)
    total = tl.zeros((SIZE, SIZE), tl.float32)
    for start in range(0, n_columns, DEPTH):
        if IS_WHOLE:
            left, right = tl.load(left_at), tl.load(right_at)
        else:
            left = tl.load(left_at, (row[:, None] < n_rows) & (start + k[None, :] < n_columns), 0.0)
            right = tl.load(right_at, (column[None, :] < n_rows) & (start + k[:, None] < n_columns), 0.0)
        total = tl.dot(left, right, total)
        left_at += DEPTH * stride_column
        right_at += DEPTH * stride_column
    total *= alpha
    if HAS_ADDED:
        total += beta * load_tile(added + matrix * n_rows * n_rows, row, column, n_rows, IS_WHOLE).to(tl.float32)
    values = total.to(out.dtype.element_ty)
    out += matrix * n_rows * n_rows
    if i == j:  # the tensor cores need not add both halves in the same order, so one is copied
        values = tl.where(row[:, None] >= column[None, :], values, tl.trans(values))
    else:
        store_tile(out, tl.trans(values), column, row, n_rows, IS_WHOLE)
    store_tile(out, values, row, column, n_rows, IS_WHOLE)


@triton.jit
def load_tile(matrix, row, column, n_rows, IS_WHOLE: tl.constexpr):
    """Return elements of a contiguous matrix (n_rows, n_rows), 0 beyond its borders."""
    at = matrix + row[:, None] * n_rows + column[None, :]
    return tl.load(at) if IS_WHOLE else tl.load(at, (row[:, None] < n_rows) & (column[None, :] < n_rows), 0.0)


@triton.jit
def store_tile(matrix, values, row, column, n_rows, IS_WHOLE: tl.constexpr):
    """Write elements of a contiguous matrix (n_rows, n_rows)."""
    at = matrix + row[:, None] * n_rows + column[None, :]
    if IS_WHOLE:
        tl.store(at, values)
    else:
        tl.store(at, values, (row[:, None] < n_rows) & (column[None, :] < n_rows))
