"""Kernels of the model's forward pass for one new token per row; for attention see `kernels.attention`.

Each docstring says what a kernel computes in the terms of its readable reference implementation in `model/`.
Shapes: M rows (one token each), C model width, H query heads, K key heads, D head width, S capacity of a slot, V tokens.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glassgpt.generation.gpu.kernels.common import (
    LENGTH,
    SOFT_CAP,
    SQUARED_RELU,
    TANH_GELU,
    TOKEN,
    convert,
    load_optional,
    power_of_two,
    prefetch,
    start_next_kernel,
    wait_for_previous_kernel,
)

# Triton compiles a kernel again for integers that are 1 or divisible by 16, but not for arguments in
# `do_not_specialize`: what differs from batch to batch must not cost seconds each time.


@triton.jit(do_not_specialize=["slots"])
def embed_kernel(
    slot_ints, tokens_table, positions_table, x, gain, shift, normed, slots, context, eps, norm_eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, HAS_POSITIONS: tl.constexpr, IS_NORMED: tl.constexpr,
    CENTERED: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_SHIFT: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """x[row] = the embedding of the row's newest token, and the first block's norm of it. Program (row)."""
    start_next_kernel(OVERLAP)
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    gains = load_optional(gain, columns, inside, HAS_GAIN)
    shifts = load_optional(shift, columns, inside, HAS_SHIFT)
    wait_for_previous_kernel(OVERLAP)
    token = tl.load(slot_ints + TOKEN * slots + row)
    y = tl.load(tokens_table + token.to(tl.int64) * WIDTH + columns, inside, 0.0).to(tl.float32)
    if IS_NORMED:
        y *= tl.rsqrt(tl.sum(y * y, 0) / WIDTH + norm_eps)
    if HAS_POSITIONS:
        # A row that ran past its end (its tokens are discarded) must not read past the table.
        position = tl.minimum(tl.load(slot_ints + LENGTH * slots + row), context - 1)
        y += tl.load(positions_table + position * WIDTH + columns, inside, 0.0).to(tl.float32)
    tl.store(x + row * WIDTH + columns, y, inside)
    _norm(y, normed, gains, shifts, row, eps, WIDTH, BLOCK, CENTERED, HAS_GAIN, HAS_SHIFT)


@triton.jit(do_not_specialize=["rows"])
def add_norm_kernel(
    x, parts, bias, gain, shift, normed, rows, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr, CENTERED: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_SHIFT: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """x += the sum of a product's SPLITS partial results (see `linear_kernel`) + bias, and the next norm of x.

    Program (row). The parts are always added in the same order, so that a step gives the same bits each time.
    """
    start_next_kernel(OVERLAP)
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    biases = load_optional(bias, columns, inside, HAS_BIAS)
    gains = load_optional(gain, columns, inside, HAS_GAIN)
    shifts = load_optional(shift, columns, inside, HAS_SHIFT)
    wait_for_previous_kernel(OVERLAP)
    y = tl.load(x + row * WIDTH + columns, inside, 0.0)
    for split in tl.static_range(SPLITS):
        y += tl.load(parts + (split * rows + row) * WIDTH + columns, inside, 0.0)
    if HAS_BIAS:
        y += biases
    tl.store(x + row * WIDTH + columns, y, inside)
    _norm(y, normed, gains, shifts, row, eps, WIDTH, BLOCK, CENTERED, HAS_GAIN, HAS_SHIFT)


@triton.jit
def _norm(
    y, normed, gains, shifts, row, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, CENTERED: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_SHIFT: tl.constexpr,
):  # fmt: skip
    """normed[row] = `LayerNorm` or `RMSNorm` of y."""
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    if CENTERED:
        y = tl.where(inside, y - tl.sum(y, 0) / WIDTH, 0.0)
    y *= tl.rsqrt(tl.sum(y * y, 0) / WIDTH + eps)
    if HAS_GAIN:
        y *= gains
    if HAS_SHIFT:
        y += shifts
    tl.store(normed + row * WIDTH + columns, y.to(normed.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["rows"])
def linear_kernel(
    x, weight, exponents, bias, y, rows, width_out, stride_out, cap,
    WIDTH: tl.constexpr, SPLITS: tl.constexpr, ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr, IN_FP8: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SUMS: tl.constexpr, LINES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """y = activation(x @ weight.T + bias), or SPLITS partial products, each over its share of the columns of x.

    Program (block of outputs, block of rows, split). With IN_FP8, weights are E4M3 numbers that are converted in
    registers, and the sums are multiplied by each output's power of two, which rounds nothing.
    """
    part = tl.program_id(2)
    SHARE: tl.constexpr = WIDTH // SPLITS
    start_next_kernel(OVERLAP)
    if OVERLAP:
        prefetch(weight + part * SHARE, tl.program_id(0) * BLOCK_N, width_out, BLOCK_N, WIDTH, SHARE, LINES)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    biases = load_optional(bias, n, n < width_out, HAS_BIAS)
    if IN_FP8:
        scales = power_of_two(tl.load(exponents + n, n < width_out, 0))
    wait_for_previous_kernel(OVERLAP)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_inside, n_inside = m < rows, n < width_out
    x_rows = x + m[:, None] * WIDTH + part * SHARE
    w_rows = weight + n[None, :].to(tl.int64) * WIDTH + part * SHARE
    # Two accumulators, for the first and the second half of the columns: one would wait for itself at each step.
    LENGTH_OF_SUM: tl.constexpr = SHARE // SUMS
    product = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    second = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in tl.range(0, LENGTH_OF_SUM, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        product = _multiply(x_rows, w_rows, k, m_inside, n_inside, product, LENGTH_OF_SUM, BLOCK_K, OVERLAP and IN_FP8)
        if SUMS == 2:
            second = _multiply(
                x_rows + LENGTH_OF_SUM,
                w_rows + LENGTH_OF_SUM,
                k,
                m_inside,
                n_inside,
                second,
                LENGTH_OF_SUM,
                BLOCK_K,
                OVERLAP and IN_FP8,
            )
    if SUMS == 2:
        product += second
    if IN_FP8:
        product *= scales[None, :]
    if HAS_BIAS:
        product += biases[None, :]
    product = _activate(product, cap, ACTIVATION)
    target = y + (part * rows + m[:, None]).to(tl.int64) * stride_out + n[None, :]
    tl.store(target, product.to(y.dtype.element_ty), m_inside[:, None] & n_inside[None, :])


@triton.jit
def _multiply(
    x_rows, w_rows, k, m_inside, n_inside, product, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr, BY_ASSEMBLY: tl.constexpr
):  # fmt: skip
    """Return product + x @ w over the columns k < WIDTH."""
    if WIDTH % BLOCK_K == 0:
        a = tl.load(x_rows + k[None, :], m_inside[:, None], 0.0)
        b = tl.load(w_rows + k[:, None], n_inside[None, :], 0.0)
    else:
        a = tl.load(x_rows + k[None, :], m_inside[:, None] & (k < WIDTH)[None, :], 0.0)
        b = tl.load(w_rows + k[:, None], (k < WIDTH)[:, None] & n_inside[None, :], 0.0)
    return tl.dot(a, convert(b, a, BY_ASSEMBLY, True), product, input_precision="ieee")


@triton.jit
def gate_kernel(x, y, WIDTH: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    """y = silu(gate) * up, where x (M, 2 WIDTH) has gate and up side by side. Program (row, block of columns)."""
    start_next_kernel(OVERLAP)
    row, columns = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    wait_for_previous_kernel(OVERLAP)
    gate = tl.load(x + row * (2 * WIDTH) + columns, inside, 0.0).to(tl.float32)
    up = tl.load(x + row * (2 * WIDTH) + WIDTH + columns, inside, 0.0).to(tl.float32)
    product = gate / (1 + tl.exp(-gate)) * up
    tl.store(y + row * WIDTH + columns, product.to(y.dtype.element_ty), inside)


@triton.jit
def _activate(x, cap, ACTIVATION: tl.constexpr):
    if ACTIVATION == TANH_GELU:
        return 0.5 * x * (1 + _tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    if ACTIVATION == SQUARED_RELU:
        positive = tl.maximum(x, 0.0)
        return positive * positive
    if ACTIVATION == SOFT_CAP:
        return cap * _tanh(x / cap)
    return x


@triton.jit
def _tanh(x):
    # With the exponential of a negative number, which cannot overflow.
    small = tl.exp(-2 * tl.abs(x))
    size = (1 - small) / (1 + small)
    return tl.where(x < 0, -size, size)
