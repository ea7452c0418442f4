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
    """Write a row of x (M, n_columns) times a scale in 8 bits, and the dot product of its rounding error with `along`."""
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
def add_exponentials(x, peak, total):
    """Return the maximum and the sum of exponentials, relative to it, of each lane with more logits (LANES, WIDTH)."""
    higher = tl.maximum(peak, tl.max(x, 1))
    rescaled = total * tl.exp2((peak - higher) * LOG2_E)
    return higher, rescaled + tl.sum(tl.exp2(x * LOG2_E - higher[:, None] * LOG2_E), 1)


@triton.jit
def cross_entropy_kernel(
    logits, targets, losses, gradients, vocabulary, n_padded,
    CAP: tl.constexpr, LOG2_SCALE: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write each row's loss, (N,) float32, and the gradient of its logits (N, n_padded), times 2^LOG2_SCALE, in 8 bits.

    A program reads its row twice, the second time from the cache: first for the log-sum-exp, then for the gradient. The
    cache holds the rows of all programs at once only if these are few, so a program has many warps.
    Each lane keeps a maximum and a sum of its own; WIDTH logits are loaded together and share one rescaling of the sum.
    Only the last block of a row has a mask, and the target's gradient is written after all probabilities: bandwidth is
    reached with few instructions for each logit.
    """
    row = tl.program_id(0).to(tl.int64)
    base, out = logits + row * n_padded, gradients + row * n_padded
    offset = tl.arange(0, LANES)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    last = offset + vocabulary // (LANES * WIDTH) * (LANES * WIDTH)
    peak, total = tl.full((LANES,), -1e30, tl.float32), tl.zeros((LANES,), tl.float32)
    for start in range(0, vocabulary // (LANES * WIDTH) * (LANES * WIDTH), LANES * WIDTH):
        x, _ = capped(tl.load(base + start + offset, eviction_policy="evict_last").to(tl.float32), CAP)
        peak, total = add_exponentials(x, peak, total)
    x, _ = capped(tl.load(base + last, last < vocabulary, 0.0).to(tl.float32), CAP)
    peak, total = add_exponentials(tl.where(last < vocabulary, x, -float("inf")), peak, total)
    top = tl.max(peak, 0)
    log_sum = top * LOG2_E + tl.log2(tl.sum(total * tl.exp2((peak - top) * LOG2_E), 0))  # base 2
    for start in range(0, vocabulary // (LANES * WIDTH) * (LANES * WIDTH), LANES * WIDTH):
        x, slope = capped(tl.load(base + start + offset, eviction_policy="evict_first").to(tl.float32), CAP)
        gradient = tl.exp2(x * LOG2_E + (LOG2_SCALE - log_sum)) * slope
        tl.store(out + start + offset, gradient.to(out.dtype.element_ty), cache_modifier=".cs")
    x, slope = capped(tl.load(base + last, last < n_padded, 0.0).to(tl.float32), CAP)
    gradient = tl.where(last < vocabulary, tl.exp2(x * LOG2_E + (LOG2_SCALE - log_sum)) * slope, 0.0)
    tl.store(out + last, gradient.to(out.dtype.element_ty), last < n_padded)
    target = tl.load(targets + row) + tl.arange(0, 1)
    x, slope = capped(tl.load(base + target).to(tl.float32), CAP)
    tl.store(losses + row + tl.arange(0, 1), log_sum / LOG2_E - x)
    gradient = (tl.exp2(x * LOG2_E - log_sum) - 1.0) * slope * tl.exp2(tl.full(x.shape, LOG2_SCALE, tl.float32))
    tl.debug_barrier()  # another thread has written the target's probability there
    tl.store(out + target, gradient.to(out.dtype.element_ty))
