"""GPU kernels: casts to 8 bits, a transposition, and the cross-entropy with its gradient in 8 bits.

Each has a reference of a few lines of PyTorch beside its caller. Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def cast_kernel(x, scale, y, size, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    """Write x (size,) times a scale in 8 bits; what is out of range becomes the largest value."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + at, at < size, 0.0).to(tl.float32) * tl.load(scale)
    values = tl.minimum(tl.maximum(values, -LARGEST, tl.PropagateNan.ALL), LARGEST, tl.PropagateNan.ALL)
    tl.store(y + at, values.to(y.dtype.element_ty), at < size)


@triton.jit
def cast_rows_kernel(x, scale, y, along, lost, n_columns, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    """Write a row of x (M, n_columns) times a scale in 8 bits, and the dot product of what rounding takes from it."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < n_columns
    factor = tl.load(scale)
    values = tl.load(x + row * n_columns + at, inside, 0.0).to(tl.float32)
    scaled = tl.minimum(tl.maximum(values * factor, -LARGEST, tl.PropagateNan.ALL), LARGEST, tl.PropagateNan.ALL)
    rounded = scaled.to(y.dtype.element_ty)
    tl.store(y + row * n_columns + at, rounded, inside)
    difference = (values - rounded.to(tl.float32) / factor) * tl.load(along + at, inside, 0.0)
    tl.store(lost + row + tl.arange(0, 1), tl.sum(difference, 0))


@triton.jit
def transpose_kernel(x, y, n_rows, n_columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Write the transpose of x (n_rows, n_columns), bytes.

    A transposition of its own is faster than a second store of the kernel that computes the bytes: that kernel would
    compute them twice, once in each memory order.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row[:, None] < n_rows) & (column[None, :] < n_columns)
    values = tl.load(x + row[:, None] * n_columns + column[None, :], inside, 0)
    tl.store(y + column[None, :] * n_rows + row[:, None], values, inside)


@triton.jit
def capped(x, CAP: tl.constexpr):
    """Return logits capped by CAP · tanh(x / CAP), if CAP > 0, and the derivative."""
    slope = tl.full(x.shape, 1.0, tl.float32)
    if CAP > 0:
        bent = 1.0 - 2.0 / (1.0 + tl.exp2(x * (2.0 / CAP) * LOG2_E))  # tanh
        x, slope = CAP * bent, 1.0 - bent * bent
    return x, slope


@triton.jit
def cross_entropy_kernel(
    logits, targets, losses, gradients, vocabulary, n_padded,
    CAP: tl.constexpr, SCALE: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write each row's loss, (N,) float32, and its gradient by the logits (N, n_padded), times SCALE, in 8 bits.

    A program reads its row twice, the second time from the cache: first for the log-sum-exp, then for the gradient.
    Each lane keeps a maximum and a sum of its own; WIDTH logits are loaded together and share one rescaling of the sum.
    """
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * n_padded
    offset = tl.arange(0, LANES)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    peak = tl.full((LANES,), -1e30, tl.float32)
    total = tl.zeros((LANES,), tl.float32)
    for start in range(0, vocabulary, LANES * WIDTH):
        at = start + offset
        x, _ = capped(tl.load(base + at, at < n_padded, 0.0).to(tl.float32), CAP)
        x = tl.where(at < vocabulary, x * LOG2_E, -float("inf"))
        higher = tl.maximum(peak, tl.max(x, 1))
        total = total * tl.exp2(peak - higher) + tl.sum(tl.exp2(x - higher[:, None]), 1)
        peak = higher
    top = tl.max(peak, 0)
    log_sum = top + tl.log2(tl.sum(total * tl.exp2(peak - top), 0))
    target = tl.load(targets + row)
    at_target, _ = capped(tl.load(base + target + tl.arange(0, 1)).to(tl.float32), CAP)
    tl.store(losses + row + tl.arange(0, 1), log_sum / LOG2_E - at_target)
    for start in range(0, n_padded, LANES * WIDTH):
        at = start + offset
        x, slope = capped(tl.load(base + at, at < n_padded, 0.0).to(tl.float32), CAP)
        gradient = (tl.exp2(x * LOG2_E - log_sum) - tl.where(at == target, 1.0, 0.0)) * slope * SCALE
        gradient = tl.where(at < vocabulary, gradient, 0.0)
        tl.store(gradients + row * n_padded + at, gradient.to(gradients.dtype.element_ty), at < n_padded)
