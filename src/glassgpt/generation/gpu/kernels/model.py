"""Kernels of the model's forward pass for one new token per row.

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
    load_optional,
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
    x, weight, bias, y, rows, width_out, stride_out, cap,
    WIDTH: tl.constexpr, SPLITS: tl.constexpr, ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SUMS: tl.constexpr, LINES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """y = activation(x @ weight.T + bias), or SPLITS partial products, each over its share of the columns of x.

    Program (block of outputs, block of rows, split).
    """
    part = tl.program_id(2)
    SHARE: tl.constexpr = WIDTH // SPLITS
    start_next_kernel(OVERLAP)
    if OVERLAP:
        prefetch(weight + part * SHARE, tl.program_id(0) * BLOCK_N, width_out, BLOCK_N, WIDTH, SHARE, LINES)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    biases = load_optional(bias, n, n < width_out, HAS_BIAS)
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
        product = _multiply(x_rows, w_rows, k, m_inside, n_inside, product, LENGTH_OF_SUM, BLOCK_K)
        if SUMS == 2:
            second = _multiply(
                x_rows + LENGTH_OF_SUM, w_rows + LENGTH_OF_SUM, k, m_inside, n_inside, second, LENGTH_OF_SUM, BLOCK_K
            )
    if SUMS == 2:
        product += second
    if HAS_BIAS:
        product += biases[None, :]
    product = _activate(product, cap, ACTIVATION)
    target = y + (part * rows + m[:, None]).to(tl.int64) * stride_out + n[None, :]
    tl.store(target, product.to(y.dtype.element_ty), m_inside[:, None] & n_inside[None, :])


@triton.jit
def _multiply(
    x_rows, w_rows, k, m_inside, n_inside, product, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """Return product + x @ w over the columns k < WIDTH."""
    if WIDTH % BLOCK_K == 0:
        a = tl.load(x_rows + k[None, :], m_inside[:, None], 0.0)
        b = tl.load(w_rows + k[:, None], n_inside[None, :], 0.0)
    else:
        a = tl.load(x_rows + k[None, :], m_inside[:, None] & (k < WIDTH)[None, :], 0.0)
        b = tl.load(w_rows + k[:, None], (k < WIDTH)[:, None] & n_inside[None, :], 0.0)
    return tl.dot(a, b, product, input_precision="ieee")


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


@triton.jit(do_not_specialize=["slots", "width", "capacity", "n_prefetched"])
def attention_kernel(
    slot_ints, qkv, keys, values, cos, sin, y, slots, width, capacity, n_prefetched, window, scale, eps,
    N_HEAD: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr, QUERIES: tl.constexpr,
    BLOCK_S: tl.constexpr, LINES: tl.constexpr, ROTATED: tl.constexpr, NORMED_HEADS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Attend from the new tokens of each slot, whose keys and values are also stored: `attend` for `width` positions.

    Program (slot, key head): all queries of the slot's rows (`width` successive ones, at successive positions) that
    share the key head, each over exactly as many keys as its row has. Softmax in one pass with a running maximum
    (Milakov and Gimelshein 2018). Heads are loaded as two halves, which is how the rotary embedding rotates them. The
    last `n_prefetched` keys are prefetched while the previous kernel still runs.

    A row's own key comes first and all others in the order of the cache, even those of the same slot's new tokens; a
    key that a row does not see adds exactly nothing. So a row gives the same bits with any `width`, which is no
    compile-time constant either: it is the same machine code.
    """
    start_next_kernel(OVERLAP)
    slot, kv_head = tl.program_id(0), tl.program_id(1)
    offset = (slot * KV_HEADS + kv_head).to(tl.int64) * capacity * HEAD_DIM
    key_rows, value_rows = keys + offset, values + offset
    if OVERLAP:
        # The length may still be that of the previous step, which is good enough for a hint.
        likely_length = tl.minimum(tl.load(slot_ints + LENGTH * slots + slot * width), capacity)
        n_wanted = tl.minimum(n_prefetched, tl.where(window > 0, tl.minimum(window, likely_length), likely_length))
        for start in tl.range(likely_length - n_wanted, likely_length, BLOCK_S):
            prefetch(key_rows, start, likely_length, BLOCK_S, HEAD_DIM, HEAD_DIM, LINES)
            prefetch(value_rows, start, likely_length, BLOCK_S, HEAD_DIM, HEAD_DIM, LINES)
    wait_for_previous_kernel(OVERLAP)
    GROUP: tl.constexpr = N_HEAD // KV_HEADS
    half, query = tl.arange(0, HALF), tl.arange(0, QUERIES)
    inside, is_query = half < HEAD_DIM // 2, query < GROUP * width
    nth = tl.minimum(query // GROUP, width - 1)  # which of the slot's new tokens
    row = slot * width + nth
    length = tl.minimum(tl.load(slot_ints + LENGTH * slots + slot * width), capacity)
    at_first, at_last = tl.minimum(length, capacity - 1), tl.minimum(length + width, capacity) - 1
    position = tl.minimum(length + nth, capacity - 1)  # (QUERIES,)
    heads, query_head = row * (N_HEAD + 2 * KV_HEADS), kv_head * GROUP + query % GROUP
    q1, q2 = _load_halves(qkv, heads + query_head, is_query, half, inside, HEAD_DIM)  # (QUERIES, HALF)
    k1, k2 = _load_halves(qkv, heads + N_HEAD + kv_head, is_query, half, inside, HEAD_DIM)
    v1, v2 = _load_halves(qkv, heads + N_HEAD + KV_HEADS + kv_head, is_query, half, inside, HEAD_DIM)
    if NORMED_HEADS:
        q1, q2 = _norm_heads(q1, q2, eps, HEAD_DIM)
        k1, k2 = _norm_heads(k1, k2, eps, HEAD_DIM)
    at = position[:, None] * HEAD_DIM + half[None, :]
    if ROTATED:
        angle = position[:, None] * (HEAD_DIM // 2) + half[None, :]
        valid = is_query[:, None] & inside[None, :]
        cosine, sine = tl.load(cos + angle, valid, 0.0), tl.load(sin + angle, valid, 0.0)
        q1, q2 = _rotate(q1, q2, cosine, sine)
        k1, k2 = _rotate(k1, k2, cosine, sine)
    # Rounded as the cache stores them, so that this step sees what later steps see.
    k1, k2 = k1.to(keys.dtype.element_ty), k2.to(keys.dtype.element_ty)
    is_new = (is_query & (query % GROUP == 0) & (length + nth < capacity))[:, None] & inside[None, :]
    tl.store(key_rows + at, k1, is_new)
    tl.store(key_rows + at + HEAD_DIM // 2, k2, is_new)
    tl.store(value_rows + at, v1.to(values.dtype.element_ty), is_new)
    tl.store(value_rows + at + HEAD_DIM // 2, v2.to(values.dtype.element_ty), is_new)
    if width > 1:
        tl.debug_barrier()  # other threads load what was stored just now
    q1, q2 = q1.to(keys.dtype.element_ty), q2.to(keys.dtype.element_ty)
    running_max = scale * tl.sum(q1.to(tl.float32) * k1.to(tl.float32) + q2.to(tl.float32) * k2.to(tl.float32), 1)
    total = tl.full((QUERIES,), 1.0, tl.float32)
    o1, o2 = v1, v2
    first = tl.where(window > 0, tl.maximum(position + 1 - window, 0), 0)  # (QUERIES,)
    first_of_all = tl.where(window > 0, tl.maximum(at_first + 1 - window, 0), 0)
    for start in tl.range(first_of_all // BLOCK_S * BLOCK_S, at_last, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        is_loaded = (s >= first_of_all) & (s < at_last)
        visible = (s[None, :] >= first[:, None]) & (s[None, :] < position[:, None])  # (QUERIES, BLOCK_S)
        key_at = half[:, None] + s[None, :] * HEAD_DIM  # (HALF, BLOCK_S)
        is_key = inside[:, None] & is_loaded[None, :]
        scores = tl.dot(q1, tl.load(key_rows + key_at, is_key, 0.0), input_precision="ieee")
        scores = tl.dot(q2, tl.load(key_rows + key_at + HEAD_DIM // 2, is_key, 0.0), scores, input_precision="ieee")
        scores = tl.where(visible, scores * scale, float("-inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        weights = tl.exp(scores - new_max[:, None])
        rescale = tl.exp(running_max - new_max)
        total = total * rescale + tl.sum(weights, 1)
        running_max = new_max
        weights = weights.to(values.dtype.element_ty)
        value_at = s[:, None] * HEAD_DIM + half[None, :]  # (BLOCK_S, HALF)
        is_value = is_loaded[:, None] & inside[None, :]
        value1 = tl.load(value_rows + value_at, is_value, 0.0)
        value2 = tl.load(value_rows + value_at + HEAD_DIM // 2, is_value, 0.0)
        o1 = tl.dot(weights, value1, o1 * rescale[:, None], input_precision="ieee")
        o2 = tl.dot(weights, value2, o2 * rescale[:, None], input_precision="ieee")
    out = y + (row * N_HEAD + query_head)[:, None] * HEAD_DIM + half[None, :]
    is_out = is_query[:, None] & inside[None, :]
    tl.store(out, (o1 / total[:, None]).to(y.dtype.element_ty), is_out)
    tl.store(out + HEAD_DIM // 2, (o2 / total[:, None]).to(y.dtype.element_ty), is_out)


@triton.jit
def _load_halves(pointer, heads, is_head, half, inside, HEAD_DIM: tl.constexpr):
    """Load the first and the second half of some heads, in float32."""
    at = pointer + heads[:, None] * HEAD_DIM + half[None, :]
    valid = is_head[:, None] & inside[None, :]
    return tl.load(at, valid, 0.0).to(tl.float32), tl.load(at + HEAD_DIM // 2, valid, 0.0).to(tl.float32)


@triton.jit
def _norm_heads(first, second, eps, HEAD_DIM: tl.constexpr):
    """Apply `RMSNorm` to each head."""
    scale = tl.rsqrt(tl.sum(first * first + second * second, 1) / HEAD_DIM + eps)[:, None]
    return first * scale, second * scale


@triton.jit
def _rotate(first, second, cosine, sine):
    """Apply Modern's `RotaryEmbedding`; Llama's rotates the other way, which is the same with sines of other sign."""
    return first * cosine + second * sine, second * cosine - first * sine
