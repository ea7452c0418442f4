"""One decoding step as a few hand-written GPU kernels (Triton, Tillet et al. 2019).

A step of one token a row moves every weight through the chip and does little with it. PyTorch's operators would take
some twenty launches a layer; here it is seven: multiply (q, k, v), attend, multiply, add and normalise, multiply (up),
multiply (down), add and normalise. Nothing in them asks the host, so that steps can be captured in a CUDA graph.

Each kernel's docstring says what it computes in the terms of its readable twin: the modules in `model/`, `sampling`
and `processors`. Triton's interpreter runs them on a CPU, which is how the tests hold them against those.

Shapes: M rows (one token each), C model width, H query heads, K key heads, D head width, S slots' capacity, V tokens.
"""

# Kernels are a language of their own, without types; pyright can say nothing of them.
# pyright: basic, reportMissingTypeStubs=false, reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

# What a `linear_kernel` does to its product.
NO_ACTIVATION: tl.constexpr = tl.constexpr(0)
TANH_GELU: tl.constexpr = tl.constexpr(1)
SQUARED_RELU: tl.constexpr = tl.constexpr(2)
SOFT_CAP: tl.constexpr = tl.constexpr(3)

# Rows of the slots' state: whole numbers …
TOKEN: tl.constexpr = tl.constexpr(0)
LENGTH: tl.constexpr = tl.constexpr(1)
POSITION: tl.constexpr = tl.constexpr(2)
NOISE_KEY: tl.constexpr = tl.constexpr(3)
TOP_K: tl.constexpr = tl.constexpr(4)
# … and others.
TEMPERATURE: tl.constexpr = tl.constexpr(0)
TOP_P: tl.constexpr = tl.constexpr(1)
LOG_MIN_P: tl.constexpr = tl.constexpr(2)
REPETITION: tl.constexpr = tl.constexpr(3)
PRESENCE: tl.constexpr = tl.constexpr(4)
FREQUENCY: tl.constexpr = tl.constexpr(5)

IN_PROMPT: tl.constexpr = tl.constexpr(1 << 24)
"""Added to a token's count where it stands in the prompt; below are the times that it was drawn."""


@triton.jit
def _wait(OVERLAP: tl.constexpr):
    """Until the kernel before has ended; its last programs may still run while those of this one start.

    Programmatic dependent launch, since Hopper: the next kernel may start as soon as every program of this one has.
    """
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def _fetch(
    weight, first, rows,
    BLOCK_N: tl.constexpr, WIDTH: tl.constexpr, SHARE: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """Ask for a part of a matrix, whose rows are WIDTH apart, to be brought into the chip's cache; nobody writes it.

    A line of 128 bytes at a time.
    """
    PER_LINE: tl.constexpr = 128 // (weight.dtype.element_ty.primitive_bitwidth // 8)
    n = first + tl.arange(0, BLOCK_N)
    k = tl.arange(0, LINES) * PER_LINE
    inside = (n < rows)[:, None] & (k < SHARE)[None, :]
    at = tl.where(inside, n[:, None].to(tl.int64) * WIDTH + k[None, :], first.to(tl.int64) * WIDTH)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [weight + at], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def embed_kernel(
    ints, tokens_table, positions_table, x, gain, shift, normed, slots, context, eps, norm_eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, MODERN: tl.constexpr,
    HAS_GAIN: tl.constexpr, HAS_SHIFT: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """x[row] = `embed` of the row's newest token, and the first block's norm of it.

    Program (row).
    """
    _wait(OVERLAP)
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    token = tl.load(ints + TOKEN * slots + row)
    y = tl.load(tokens_table + token.to(tl.int64) * WIDTH + columns, inside, 0.0).to(tl.float32)
    if MODERN:
        y *= tl.rsqrt(tl.sum(y * y, 0) / WIDTH + norm_eps)
    else:
        # A row that has gone on behind its end (its tokens are thrown away) must not read behind the table.
        place = tl.minimum(tl.load(ints + LENGTH * slots + row), context - 1)
        y += tl.load(positions_table + place * WIDTH + columns, inside, 0.0).to(tl.float32)
    tl.store(x + row * WIDTH + columns, y, inside)
    _norm(y, normed, gain, shift, row, eps, WIDTH, BLOCK, MODERN, HAS_GAIN, HAS_SHIFT)


@triton.jit
def add_norm_kernel(
    x, parts, bias, gain, shift, normed, rows, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr, MODERN: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_SHIFT: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """x += a product that `linear_kernel` left in parts, + bias; and the next norm of that.

    Program (row). The parts are added in one order always, so that a step gives the same bits each time.
    """
    _wait(OVERLAP)
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    y = tl.load(x + row * WIDTH + columns, inside, 0.0)
    for split in tl.static_range(SPLITS):
        y += tl.load(parts + (split * rows + row) * WIDTH + columns, inside, 0.0)
    if HAS_BIAS:
        y += tl.load(bias + columns, inside, 0.0).to(tl.float32)
    tl.store(x + row * WIDTH + columns, y, inside)
    _norm(y, normed, gain, shift, row, eps, WIDTH, BLOCK, MODERN, HAS_GAIN, HAS_SHIFT)


@triton.jit
def _norm(
    y, normed, gain, shift, row, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, MODERN: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_SHIFT: tl.constexpr,
):  # fmt: skip
    """normed[row] = `LayerNorm` or `RMSNorm` of y."""
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    if not MODERN:
        y = tl.where(inside, y - tl.sum(y, 0) / WIDTH, 0.0)
    y *= tl.rsqrt(tl.sum(y * y, 0) / WIDTH + eps)
    if HAS_GAIN:
        y *= tl.load(gain + columns, inside, 0.0).to(tl.float32)
    if HAS_SHIFT:
        y += tl.load(shift + columns, inside, 0.0).to(tl.float32)
    tl.store(normed + row * WIDTH + columns, y.to(normed.dtype.element_ty), inside)


@triton.jit
def linear_kernel(
    x, weight, bias, y, rows, width_out, stride_out, cap,
    WIDTH: tl.constexpr, SPLITS: tl.constexpr, ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    LINES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """y = activation(x @ weight.T + bias), or the product in SPLITS parts, each over its share of the columns of x.

    Program (block of outputs, block of rows, split).
    """
    part = tl.program_id(2)
    SHARE: tl.constexpr = WIDTH // SPLITS
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        _fetch(weight + part * SHARE, tl.program_id(0) * BLOCK_N, width_out, BLOCK_N, WIDTH, SHARE, LINES)
        tl.extra.cuda.gdc_wait()
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_inside, n_inside = m < rows, n < width_out
    product = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    x_rows = x + m[:, None] * WIDTH + part * SHARE
    w_rows = weight + n[None, :].to(tl.int64) * WIDTH + part * SHARE
    for start in tl.range(0, SHARE, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        if SHARE % BLOCK_K == 0:
            a = tl.load(x_rows + k[None, :], m_inside[:, None], 0.0)
            b = tl.load(w_rows + k[:, None], n_inside[None, :], 0.0)
        else:
            a = tl.load(x_rows + k[None, :], m_inside[:, None] & (k < SHARE)[None, :], 0.0)
            b = tl.load(w_rows + k[:, None], (k < SHARE)[:, None] & n_inside[None, :], 0.0)
        product = tl.dot(a, b, product, input_precision="ieee")
    if HAS_BIAS:
        product += tl.load(bias + n, n_inside, 0.0).to(tl.float32)[None, :]
    product = _activate(product, cap, ACTIVATION)
    target = y + (part * rows + m[:, None]).to(tl.int64) * stride_out + n[None, :]
    tl.store(target, product.to(y.dtype.element_ty), m_inside[:, None] & n_inside[None, :])


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
    # By the exponential of a negative number, which cannot overflow.
    small = tl.exp(-2 * tl.abs(x))
    size = (1 - small) / (1 + small)
    return tl.where(x < 0, -size, size)


@triton.jit
def attention_kernel(
    ints, qkv, keys, values, cos, sin, y, slots, capacity, window, scale, eps,
    N_HEAD: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr, BLOCK_S: tl.constexpr, MODERN: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Attention of each row's new token, whose key and value it also stores: `attend` for one query.

    One program does one head of one row, over exactly as many keys as the row has: softmax in one pass, with a running
    maximum (Milakov and Gimelshein 2018). Heads are held in two halves, which are what the rotary embedding turns.
    """
    _wait(OVERLAP)
    row, head = tl.program_id(0), tl.program_id(1)
    kv_head = head // (N_HEAD // KV_HEADS)
    half = tl.arange(0, HALF)
    inside = half < HEAD_DIM // 2
    held = tl.minimum(tl.load(ints + LENGTH * slots + row), capacity)
    place = tl.minimum(held, capacity - 1)
    mine = qkv + row * ((N_HEAD + 2 * KV_HEADS) * HEAD_DIM)
    q1, q2 = _halves(mine + head * HEAD_DIM, half, inside, HEAD_DIM)
    k1, k2 = _halves(mine + (N_HEAD + kv_head) * HEAD_DIM, half, inside, HEAD_DIM)
    v1, v2 = _halves(mine + (N_HEAD + KV_HEADS + kv_head) * HEAD_DIM, half, inside, HEAD_DIM)
    if MODERN:
        cosine = tl.load(cos + place * (HEAD_DIM // 2) + half, inside, 0.0)
        sine = tl.load(sin + place * (HEAD_DIM // 2) + half, inside, 0.0)
        q1, q2 = _normalise_and_turn(q1, q2, cosine, sine, eps, HEAD_DIM)
        k1, k2 = _normalise_and_turn(k1, k2, cosine, sine, eps, HEAD_DIM)
    # As the cache will hold them, so that this step sees what later ones see.
    k1, k2 = k1.to(keys.dtype.element_ty), k2.to(keys.dtype.element_ty)
    offset = (row * KV_HEADS + kv_head).to(tl.int64) * capacity * HEAD_DIM
    key_rows, value_rows = keys + offset, values + offset
    is_first_of_group = head % (N_HEAD // KV_HEADS) == 0
    if is_first_of_group & (held < capacity):
        here = place * HEAD_DIM + half
        tl.store(key_rows + here, k1, inside)
        tl.store(key_rows + here + HEAD_DIM // 2, k2, inside)
        tl.store(value_rows + here, v1.to(values.dtype.element_ty), inside)
        tl.store(value_rows + here + HEAD_DIM // 2, v2.to(values.dtype.element_ty), inside)
    largest = (tl.sum(q1 * k1.to(tl.float32), 0) + tl.sum(q2 * k2.to(tl.float32), 0)) * scale
    total = 1.0
    o1, o2 = v1, v2
    first = tl.where(window > 0, tl.maximum(place + 1 - window, 0), 0)
    for start in tl.range(first // BLOCK_S * BLOCK_S, place, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        seen = (s >= first) & (s < place)
        at = s[:, None] * HEAD_DIM + half[None, :]
        valid = seen[:, None] & inside[None, :]
        seen1 = tl.load(value_rows + at, valid, 0.0).to(tl.float32)
        seen2 = tl.load(value_rows + at + HEAD_DIM // 2, valid, 0.0).to(tl.float32)
        scores = tl.sum(tl.load(key_rows + at, valid, 0.0).to(tl.float32) * q1[None, :], 1)
        scores += tl.sum(tl.load(key_rows + at + HEAD_DIM // 2, valid, 0.0).to(tl.float32) * q2[None, :], 1)
        scores = tl.where(seen, scores * scale, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 0))
        weights = tl.exp(scores - new_largest)
        fade = tl.exp(largest - new_largest)
        total = total * fade + tl.sum(weights, 0)
        o1 = o1 * fade + tl.sum(weights[:, None] * seen1, 0)
        o2 = o2 * fade + tl.sum(weights[:, None] * seen2, 0)
        largest = new_largest
    out = y + row * (N_HEAD * HEAD_DIM) + head * HEAD_DIM + half
    tl.store(out, (o1 / total).to(y.dtype.element_ty), inside)
    tl.store(out + HEAD_DIM // 2, (o2 / total).to(y.dtype.element_ty), inside)


@triton.jit
def _halves(pointer, half, inside, HEAD_DIM: tl.constexpr):
    first = tl.load(pointer + half, inside, 0.0).to(tl.float32)
    second = tl.load(pointer + HEAD_DIM // 2 + half, inside, 0.0).to(tl.float32)
    return first, second


@triton.jit
def _normalise_and_turn(first, second, cosine, sine, eps, HEAD_DIM: tl.constexpr):
    """`RMSNorm`, then `Rotary`."""
    scale = tl.rsqrt((tl.sum(first * first, 0) + tl.sum(second * second, 0)) / HEAD_DIM + eps)
    first, second = first * scale, second * scale
    return first * cosine + second * sine, second * cosine - first * sine


# The draw. A row's tokens are cut into parts, each a program; the bounds of top-k and top-p are found digit by digit
# (radix selection): the logits as whole numbers of DIGITS digits in the same order, counted by their digit among those
# that agree with what is known of the bound. No step of it depends on the data, so that all of it can be captured.
DIGITS: tl.constexpr = tl.constexpr(8)
BASE: tl.constexpr = tl.constexpr(16)


@triton.jit
def prepare_kernel(
    logits, floats, counts, largest, slots, vocab_size, stride,
    PART: tl.constexpr, WITH_COUNTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Penalties and temperature, in place, and each part's largest logit. Program (row, part)."""
    _wait(OVERLAP)
    row, part = tl.program_id(0), tl.program_id(1)
    ids = part * PART + tl.arange(0, PART)
    inside = ids < vocab_size
    x = tl.load(logits + row.to(tl.int64) * stride + ids, inside, float("-inf"))
    if WITH_COUNTS:
        x = _penalise(x, tl.load(counts + row.to(tl.int64) * vocab_size + ids, inside, 0), floats, slots, row)
    temperature = tl.load(floats + TEMPERATURE * slots + row)
    x = x / tl.where(temperature == 0, 1.0, temperature) + 0.0  # -0.0 becomes 0.0: equal numbers have equal bits
    tl.store(logits + row.to(tl.int64) * stride + ids, x, inside)
    tl.store(largest + row * tl.num_programs(1) + part, tl.max(x, 0))


@triton.jit(do_not_specialize=["digit"])
def select_kernel(
    logits, ints, floats, largest, bound, histogram, found, vocab_size, slots, stride, n_parts, digit,
    PART: tl.constexpr, PARTS: tl.constexpr, BY_MASS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One more digit of a bound: of the k-th largest logit, or, by mass, of the last one of the nucleus.

    `histogram[digit, row, part, 0 or 1]` gets the part's tokens, by count and by mass, for each value of this digit;
    `found[digit, row]` what is known before it; see `_known`. Program (row, part). By count, the call with
    digit = DIGITS and a single part writes down the bound: 0 for rows without top-k.
    """
    _wait(OVERLAP)
    row, part = tl.program_id(0), tl.program_id(1)
    rows = tl.num_programs(0)
    top = _largest(largest, row, n_parts, PARTS)
    prefix, count, mass = _known(ints, floats, histogram, found, rows, row, slots, n_parts, digit, PARTS, BY_MASS)
    if part == 0:
        here = found + (digit * rows + row) * 3
        tl.store(here, prefix.to(tl.int32, bitcast=True))
        tl.store(here + 1, count)
        tl.store(here + 2, mass.to(tl.int32, bitcast=True))
    if digit < DIGITS:
        ids = part * PART + tl.arange(0, PART)
        inside = ids < vocab_size
        x = tl.load(logits + row.to(tl.int64) * stride + ids, inside, float("-inf"))
        order = _order(x)
        shift = (DIGITS - 1 - digit) * 4
        agrees = inside & (((order ^ prefix) >> shift) < BASE)
        if BY_MASS:
            agrees &= order >= tl.load(bound + row).to(tl.uint32, bitcast=True)
        at = histogram + ((digit * rows + row) * n_parts + part) * 2 * BASE + tl.arange(0, BASE)
        counts = tl.zeros((BASE,), tl.float32)
        masses = tl.zeros((BASE,), tl.float32)
        if tl.max(agrees.to(tl.int32), 0) > 0:  # after two or three digits, hardly any part has such a token
            value = ((order >> shift) & (BASE - 1)).to(tl.int32)
            is_value = agrees[:, None] & (value[:, None] == tl.arange(0, BASE)[None, :])
            counts = tl.sum(is_value.to(tl.float32), 0)
            if BY_MASS:
                masses = tl.sum(tl.where(is_value, tl.exp(x - top)[:, None], 0.0), 0)
        tl.store(at, counts)
        tl.store(at + BASE, masses)
    if not BY_MASS:
        if digit == DIGITS:
            top_k = tl.load(ints + TOP_K * slots + row)
            limits = (top_k > 0) & (top_k < vocab_size)
            tl.store(bound + row, tl.where(limits, prefix, 0).to(tl.int32, bitcast=True))


@triton.jit
def _largest(largest, row, n_parts, PARTS: tl.constexpr):
    parts = tl.arange(0, PARTS)
    return tl.max(tl.load(largest + row * n_parts + parts, parts < n_parts, float("-inf")), 0)


@triton.jit
def _sums(histogram, rows, row, n_parts, digit, which, PARTS: tl.constexpr):
    """(BASE,) a digit's histogram over all parts; counts stay exact in float32, as no vocabulary has 2^24 tokens."""
    parts = tl.arange(0, PARTS)
    at = ((digit * rows + row) * n_parts + parts[:, None]) * 2 * BASE + which * BASE + tl.arange(0, BASE)[None, :]
    return tl.sum(tl.load(histogram + at, (parts < n_parts)[:, None], 0.0), 0)


@triton.jit
def _known(
    ints, floats, histogram, found, rows, row, slots, n_parts, digit, PARTS: tl.constexpr, BY_MASS: tl.constexpr
):
    """The bound's first `digit` digits (the others 0), and count and mass of the tokens above all that begin so."""
    prefix = tl.zeros((), tl.uint32)
    count = tl.zeros((), tl.int32)
    mass = tl.zeros((), tl.float32)
    if digit > 0:
        last = digit - 1
        here = found + (last * rows + row) * 3
        prefix = tl.load(here).to(tl.uint32, bitcast=True)
        count = tl.load(here + 1)
        mass = tl.load(here + 2).to(tl.float32, bitcast=True)
        counts = _sums(histogram, rows, row, n_parts, last, 0, PARTS)
        masses = _sums(histogram, rows, row, n_parts, last, 1, PARTS)
        values = tl.arange(0, BASE)
        if BY_MASS:
            reached = mass + tl.cumsum(masses, 0, reverse=True)
            enough = reached >= _wanted(floats, histogram, rows, row, slots, n_parts, PARTS)
        else:
            reached = count + tl.cumsum(counts, 0, reverse=True)
            enough = reached >= tl.load(ints + TOP_K * slots + row)
        # The largest value from which on enough is reached, among those that occur: rounding must not invent one.
        value = tl.max(tl.where(enough & (counts > 0), values, -1), 0)
        value = tl.where(value < 0, tl.min(tl.where(counts > 0, values, BASE - 1), 0), value)
        above = values > value
        prefix = prefix | (value << ((DIGITS - 1 - last) * 4)).to(tl.uint32)
        count += tl.sum(tl.where(above, counts, 0.0), 0).to(tl.int32)
        mass += tl.sum(tl.where(above, masses, 0.0), 0)
    return prefix, count, mass


@triton.jit
def _wanted(floats, histogram, rows, row, slots, n_parts, PARTS: tl.constexpr):
    """Mass of the nucleus: its share of the first digit's histogram, which holds all tokens that top-k has left."""
    everything = tl.sum(_sums(histogram, rows, row, n_parts, 0, 1, PARTS), 0)
    return everything * tl.load(floats + TOP_P * slots + row)


@triton.jit
def choose_kernel(
    logits, ints, floats, largest, bound, histogram, found, scores, winners, vocab_size, slots, stride, n_parts,
    PART: tl.constexpr, PARTS: tl.constexpr, WITH_TOP_P: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The token with the largest sum of logit and noise in each part, among those that the limits leave.

    Program (row, part).
    """
    _wait(OVERLAP)
    row, part = tl.program_id(0), tl.program_id(1)
    rows = tl.num_programs(0)
    ids = part * PART + tl.arange(0, PART)
    inside = ids < vocab_size
    x = tl.load(logits + row.to(tl.int64) * stride + ids, inside, float("-inf"))
    order = _order(x)
    top = _largest(largest, row, n_parts, PARTS)
    keep = inside & (x >= top + tl.load(floats + LOG_MIN_P * slots + row))
    keep &= order >= tl.load(bound + row).to(tl.uint32, bitcast=True)
    if WITH_TOP_P:
        if tl.load(floats + TOP_P * slots + row) < 1:
            last, _, before = _known(
                ints, floats, histogram, found, rows, row, slots, n_parts, DIGITS, PARTS, BY_MASS=True
            )
            # Of equal ones at the border those with the lower ids come first, as many as are needed.
            equal = (inside & (order == last)).to(tl.int32)
            digit = (last & (BASE - 1)).to(tl.int32)
            parts = tl.arange(0, PARTS)
            at = (((DIGITS - 1) * rows + row) * n_parts + parts) * 2 * BASE + digit
            earlier = tl.sum(tl.load(histogram + at, parts < part, 0.0), 0)
            ranks = earlier + (tl.cumsum(equal, 0) - 1).to(tl.float32)
            wanted = _wanted(floats, histogram, rows, row, slots, n_parts, PARTS)
            keep &= (order > last) | ((equal > 0) & (before + ranks * tl.exp(x - top) < wanted))
    position = tl.load(ints + POSITION * slots + row)
    noise = _gumbel_noise(tl.load(ints + NOISE_KEY * slots + row), position, ids)
    is_greedy = tl.load(floats + TEMPERATURE * slots + row) == 0
    score = tl.where(keep, x + tl.where(is_greedy, 0.0, noise), float("-inf"))
    best = tl.max(score, 0)
    tl.store(scores + row * n_parts + part, best)
    tl.store(winners + row * n_parts + part, tl.min(tl.where(score == best, ids, vocab_size - 1), 0))


@triton.jit
def finish_kernel(
    ints, counts, scores, winners, drawn, slots, vocab_size, n_parts,
    PARTS: tl.constexpr, WITH_COUNTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The best of all parts is the row's next token; its state for the next step. Program (row)."""
    _wait(OVERLAP)
    row = tl.program_id(0)
    parts = tl.arange(0, PARTS)
    score = tl.load(scores + row * n_parts + parts, parts < n_parts, float("-inf"))
    winner = tl.load(winners + row * n_parts + parts, parts < n_parts, vocab_size - 1)
    token = tl.min(tl.where(score == tl.max(score, 0), winner, vocab_size - 1), 0)
    tl.store(drawn + row, token)
    tl.store(ints + TOKEN * slots + row, token)
    tl.store(ints + LENGTH * slots + row, tl.load(ints + LENGTH * slots + row) + 1)
    tl.store(ints + POSITION * slots + row, tl.load(ints + POSITION * slots + row) + 1)
    if WITH_COUNTS:
        count = counts + row.to(tl.int64) * vocab_size + token
        tl.store(count, tl.load(count) + 1)


@triton.jit
def _order(x):
    """A whole number without sign for each float32, in the same order."""
    bits = x.to(tl.uint32, bitcast=True)
    return tl.where(bits >= 0x80000000, bits ^ 0xFFFFFFFF, bits ^ 0x80000000)


@triton.jit
def _penalise(x, seen, floats, slots, row):
    """`apply_repetition_penalty`, `apply_presence_penalty`, `apply_frequency_penalty`."""
    repetition = tl.load(floats + REPETITION * slots + row)
    times = seen & (IN_PROMPT - 1)
    x = tl.where(seen > 0, tl.where(x > 0, x / repetition, x * repetition), x)
    x -= tl.where(times > 0, tl.load(floats + PRESENCE * slots + row), 0.0)
    return x - tl.load(floats + FREQUENCY * slots + row) * times


@triton.jit
def _mix(x):
    """`sampling._mix`, in 32 bits."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _gumbel_noise(key, position, ids):
    """`sampling.gumbel_noise` of a row whose key of seed and sample is known."""
    row_key = _mix(key.to(tl.uint32, bitcast=True) ^ position.to(tl.uint32, bitcast=True))
    bits = _mix(_mix(ids.to(tl.uint32, bitcast=True)) ^ row_key)
    uniform = ((bits >> 8).to(tl.int32).to(tl.float32) + 0.5) / 16777216.0
    return -tl.log(-tl.log(uniform))
