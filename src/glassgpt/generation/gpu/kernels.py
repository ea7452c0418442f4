"""One decoding step as a few hand-written GPU kernels (Triton, Tillet et al. 2019).

A step of one token a row moves every weight through the chip and does little with it. PyTorch's operators would take
some twenty launches a layer; here it is seven: multiply (q, k, v), attend, multiply, add and normalise, multiply (up),
multiply (down), add and normalise. Nothing in them asks the host, so that steps can be captured in a CUDA graph.

Each kernel's docstring says what it computes in the terms of its readable twin: the modules in `model/`, `sampling`
and `processors`. Triton's interpreter runs them on a CPU, which is how the tests hold them against those.

Shapes: M rows (one token each), C model width, H query heads, K key heads, D head width, S slots' capacity, V tokens.
"""

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

# Triton compiles a kernel anew for numbers that are 1 or divisible by 16, but not for those in `do_not_specialize`: what
# differs from batch to batch must not cost seconds each time.

BROKEN: tl.constexpr = tl.constexpr(-1)
"""In the place of a token, where the logits are no numbers."""

IN_PROMPT: tl.constexpr = tl.constexpr(1 << 24)
"""Added to a token's count where it stands in the prompt; below are the times that it was drawn."""


@triton.jit
def _start(OVERLAP: tl.constexpr):
    """Let the next kernel start as soon as every program of this one has.

    Programmatic dependent launch, since Hopper. What stands between this and `_wait` is done while the kernel before
    still runs, so it may only read what no kernel writes: weights, most of all, which come from afar.
    """
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _wait(OVERLAP: tl.constexpr):
    """Until the kernel before has ended, and all before it."""
    if OVERLAP:
        tl.extra.cuda.gdc_wait()


@triton.jit
def _load_if(pointer, at, inside, HAS: tl.constexpr):
    """What is there in float32, or zeros where there is nothing."""
    if HAS:
        return tl.load(pointer + at, inside, 0.0).to(tl.float32)
    return tl.zeros(at.shape, tl.float32)


@triton.jit
def _fetch(
    matrix, first, rows,
    BLOCK_N: tl.constexpr, WIDTH: tl.constexpr, SHARE: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """Ask for a part of a matrix, whose rows are WIDTH apart, to be brought into the chip's cache.

    A line of 128 bytes at a time. It is a wish, not a load: what is written meanwhile is not missed.
    """
    PER_LINE: tl.constexpr = 128 // (matrix.dtype.element_ty.primitive_bitwidth // 8)
    n = first + tl.arange(0, BLOCK_N)
    k = tl.arange(0, LINES) * PER_LINE
    inside = (n < rows)[:, None] & (k < SHARE)[None, :]
    at = tl.where(inside, n[:, None].to(tl.int64) * WIDTH + k[None, :], first.to(tl.int64) * WIDTH)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [matrix + at], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit(do_not_specialize=["slots"])
def embed_kernel(
    ints, tokens_table, positions_table, x, gain, shift, normed, slots, context, eps, norm_eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, MODERN: tl.constexpr,
    HAS_GAIN: tl.constexpr, HAS_SHIFT: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """x[row] = `embed` of the row's newest token, and the first block's norm of it.

    Program (row).
    """
    _start(OVERLAP)
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    gains = _load_if(gain, columns, inside, HAS_GAIN)
    shifts = _load_if(shift, columns, inside, HAS_SHIFT)
    _wait(OVERLAP)
    token = tl.load(ints + TOKEN * slots + row)
    y = tl.load(tokens_table + token.to(tl.int64) * WIDTH + columns, inside, 0.0).to(tl.float32)
    if MODERN:
        y *= tl.rsqrt(tl.sum(y * y, 0) / WIDTH + norm_eps)
    else:
        # A row that has gone on behind its end (its tokens are thrown away) must not read behind the table.
        place = tl.minimum(tl.load(ints + LENGTH * slots + row), context - 1)
        y += tl.load(positions_table + place * WIDTH + columns, inside, 0.0).to(tl.float32)
    tl.store(x + row * WIDTH + columns, y, inside)
    _norm(y, normed, gains, shifts, row, eps, WIDTH, BLOCK, MODERN, HAS_GAIN, HAS_SHIFT)


@triton.jit(do_not_specialize=["rows"])
def add_norm_kernel(
    x, parts, bias, gain, shift, normed, rows, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr, MODERN: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_SHIFT: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """x += a product that `linear_kernel` left in parts, + bias; and the next norm of that.

    Program (row). The parts are added in one order always, so that a step gives the same bits each time.
    """
    _start(OVERLAP)
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    biases = _load_if(bias, columns, inside, HAS_BIAS)
    gains = _load_if(gain, columns, inside, HAS_GAIN)
    shifts = _load_if(shift, columns, inside, HAS_SHIFT)
    _wait(OVERLAP)
    y = tl.load(x + row * WIDTH + columns, inside, 0.0)
    for split in tl.static_range(SPLITS):
        y += tl.load(parts + (split * rows + row) * WIDTH + columns, inside, 0.0)
    if HAS_BIAS:
        y += biases
    tl.store(x + row * WIDTH + columns, y, inside)
    _norm(y, normed, gains, shifts, row, eps, WIDTH, BLOCK, MODERN, HAS_GAIN, HAS_SHIFT)


@triton.jit
def _norm(
    y, normed, gains, shifts, row, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, MODERN: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_SHIFT: tl.constexpr,
):  # fmt: skip
    """normed[row] = `LayerNorm` or `RMSNorm` of y."""
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    if not MODERN:
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
    """y = activation(x @ weight.T + bias), or the product in SPLITS parts, each over its share of the columns of x.

    Program (block of outputs, block of rows, split).
    """
    part = tl.program_id(2)
    SHARE: tl.constexpr = WIDTH // SPLITS
    _start(OVERLAP)
    if OVERLAP:
        _fetch(weight + part * SHARE, tl.program_id(0) * BLOCK_N, width_out, BLOCK_N, WIDTH, SHARE, LINES)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    biases = _load_if(bias, n, n < width_out, HAS_BIAS)
    _wait(OVERLAP)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_inside, n_inside = m < rows, n < width_out
    x_rows = x + m[:, None] * WIDTH + part * SHARE
    w_rows = weight + n[None, :].to(tl.int64) * WIDTH + part * SHARE
    # Two sums, of the first and of the second half of the columns: one would wait for itself at each step.
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
    """product + x @ w over columns k, of which there are WIDTH."""
    if WIDTH % BLOCK_K == 0:
        a = tl.load(x_rows + k[None, :], m_inside[:, None], 0.0)
        b = tl.load(w_rows + k[:, None], n_inside[None, :], 0.0)
    else:
        a = tl.load(x_rows + k[None, :], m_inside[:, None] & (k < WIDTH)[None, :], 0.0)
        b = tl.load(w_rows + k[:, None], (k < WIDTH)[:, None] & n_inside[None, :], 0.0)
    return tl.dot(a, b, product, input_precision="ieee")


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


@triton.jit(do_not_specialize=["slots", "capacity", "n_fetched"])
def attention_kernel(
    ints, qkv, keys, values, cos, sin, y, slots, capacity, n_fetched, window, scale, eps,
    N_HEAD: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr, QUERIES: tl.constexpr,
    BLOCK_S: tl.constexpr, LINES: tl.constexpr, MODERN: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Attention of each row's new token, whose key and value it also stores: `attend` for one position.

    Program (row, key head): all query heads that share the key head, over exactly as many keys as the row has. Softmax in
    one pass, with a running maximum (Milakov and Gimelshein 2018). Heads are held in two halves, which are what the
    rotary embedding turns; n_fetched are keys that are asked for beforehand.
    """
    _start(OVERLAP)
    row, kv_head = tl.program_id(0), tl.program_id(1)
    offset = (row * KV_HEADS + kv_head).to(tl.int64) * capacity * HEAD_DIM
    key_rows, value_rows = keys + offset, values + offset
    if OVERLAP:
        # The length may still be that of the step before, which is as good for a wish.
        likely = tl.minimum(tl.load(ints + LENGTH * slots + row), capacity)
        wanted = tl.minimum(n_fetched, tl.where(window > 0, tl.minimum(window, likely), likely))
        for start in tl.range(likely - wanted, likely, BLOCK_S):
            _fetch(key_rows, start, likely, BLOCK_S, HEAD_DIM, HEAD_DIM, LINES)
            _fetch(value_rows, start, likely, BLOCK_S, HEAD_DIM, HEAD_DIM, LINES)
    _wait(OVERLAP)
    GROUP: tl.constexpr = N_HEAD // KV_HEADS
    half = tl.arange(0, HALF)
    inside = half < HEAD_DIM // 2
    held = tl.minimum(tl.load(ints + LENGTH * slots + row), capacity)
    place = tl.minimum(held, capacity - 1)
    mine = qkv + row * ((N_HEAD + 2 * KV_HEADS) * HEAD_DIM)
    query, one = tl.arange(0, QUERIES), tl.arange(0, 1)
    is_query = query < GROUP
    q1, q2 = _halves(mine, kv_head * GROUP + query, is_query, half, inside, HEAD_DIM)  # (QUERIES, HALF)
    k1, k2 = _halves(mine, N_HEAD + kv_head + one, one == 0, half, inside, HEAD_DIM)  # (1, HALF)
    v1, v2 = _halves(mine, N_HEAD + KV_HEADS + kv_head + one, one == 0, half, inside, HEAD_DIM)
    if MODERN:
        cosine = tl.load(cos + place * (HEAD_DIM // 2) + half, inside, 0.0)[None, :]
        sine = tl.load(sin + place * (HEAD_DIM // 2) + half, inside, 0.0)[None, :]
        q1, q2 = _normalise_and_turn(q1, q2, cosine, sine, eps, HEAD_DIM)
        k1, k2 = _normalise_and_turn(k1, k2, cosine, sine, eps, HEAD_DIM)
    # As the cache will hold them, so that this step sees what later ones see.
    k1, k2 = k1.to(keys.dtype.element_ty), k2.to(keys.dtype.element_ty)
    if held < capacity:
        here = place * HEAD_DIM + half[None, :]
        tl.store(key_rows + here, k1, inside[None, :])
        tl.store(key_rows + here + HEAD_DIM // 2, k2, inside[None, :])
        tl.store(value_rows + here, v1.to(values.dtype.element_ty), inside[None, :])
        tl.store(value_rows + here + HEAD_DIM // 2, v2.to(values.dtype.element_ty), inside[None, :])
    q1, q2 = q1.to(keys.dtype.element_ty), q2.to(keys.dtype.element_ty)
    largest = scale * tl.sum(q1.to(tl.float32) * k1.to(tl.float32) + q2.to(tl.float32) * k2.to(tl.float32), 1)
    total = tl.full((QUERIES,), 1.0, tl.float32)
    o1, o2 = tl.broadcast_to(v1, (QUERIES, HALF)), tl.broadcast_to(v2, (QUERIES, HALF))
    first = tl.where(window > 0, tl.maximum(place + 1 - window, 0), 0)
    for start in tl.range(first // BLOCK_S * BLOCK_S, place, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        seen = (s >= first) & (s < place)
        down = half[:, None] + s[None, :] * HEAD_DIM  # (HALF, BLOCK_S)
        is_key = inside[:, None] & seen[None, :]
        fits = tl.dot(q1, tl.load(key_rows + down, is_key, 0.0), input_precision="ieee")
        fits = tl.dot(q2, tl.load(key_rows + down + HEAD_DIM // 2, is_key, 0.0), fits, input_precision="ieee")
        fits = tl.where(seen[None, :], fits * scale, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(fits, 1))
        weights = tl.exp(fits - new_largest[:, None])
        fade = tl.exp(largest - new_largest)
        total = total * fade + tl.sum(weights, 1)
        largest = new_largest
        weights = weights.to(values.dtype.element_ty)
        across = s[:, None] * HEAD_DIM + half[None, :]  # (BLOCK_S, HALF)
        is_value = seen[:, None] & inside[None, :]
        seen1 = tl.load(value_rows + across, is_value, 0.0)
        seen2 = tl.load(value_rows + across + HEAD_DIM // 2, is_value, 0.0)
        o1 = tl.dot(weights, seen1, o1 * fade[:, None], input_precision="ieee")
        o2 = tl.dot(weights, seen2, o2 * fade[:, None], input_precision="ieee")
    out = y + (row * N_HEAD + kv_head * GROUP + query[:, None]) * HEAD_DIM + half[None, :]
    is_out = is_query[:, None] & inside[None, :]
    tl.store(out, (o1 / total[:, None]).to(y.dtype.element_ty), is_out)
    tl.store(out + HEAD_DIM // 2, (o2 / total[:, None]).to(y.dtype.element_ty), is_out)


@triton.jit
def _halves(pointer, heads, is_head, half, inside, HEAD_DIM: tl.constexpr):
    """The first and the second half of some heads, in float32."""
    at = pointer + heads[:, None] * HEAD_DIM + half[None, :]
    valid = is_head[:, None] & inside[None, :]
    return tl.load(at, valid, 0.0).to(tl.float32), tl.load(at + HEAD_DIM // 2, valid, 0.0).to(tl.float32)


@triton.jit
def _normalise_and_turn(first, second, cosine, sine, eps, HEAD_DIM: tl.constexpr):
    """`RMSNorm` of each head, then `RotaryEmbedding`."""
    scale = tl.rsqrt(tl.sum(first * first + second * second, 1) / HEAD_DIM + eps)[:, None]
    first, second = first * scale, second * scale
    return first * cosine + second * sine, second * cosine - first * sine


@triton.jit(do_not_specialize=["slots"])
def prepare_kernel(
    logits, floats, counts, maxima, largest, masses, slots, vocab_size, stride,
    GROUPS: tl.constexpr, GROUP: tl.constexpr, WITH_COUNTS: tl.constexpr, WITH_MASS: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Penalties and temperature, in place; of each group of tokens and of each part the largest logit, and its mass.

    A part is GROUPS groups of GROUP tokens; its mass is in units of its largest token's, and its largest is NaN where
    any of its logits is. Program (row, part).
    """
    _start(OVERLAP)
    _wait(OVERLAP)
    row, part, n_parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    group = part * GROUPS + tl.arange(0, GROUPS)
    ids = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    inside = ids < vocab_size
    at = row.to(tl.int64) * stride + ids
    x = tl.load(logits + at, inside, float("-inf"))
    if WITH_COUNTS:
        x = _penalise(x, tl.load(counts + row.to(tl.int64) * vocab_size + ids, inside, 0), floats, slots, row)
    temperature = tl.load(floats + TEMPERATURE * slots + row)
    if (temperature != 0) & (temperature != 1):
        x = x / temperature
        tl.store(logits + at, x, inside)
    elif WITH_COUNTS:
        tl.store(logits + at, x, inside)
    of_group = tl.max(x, 1)
    tl.store(maxima + row * n_parts * GROUPS + group, of_group)
    top = tl.max(of_group, 0)
    is_broken = tl.max((x != x).to(tl.int32)) > 0
    tl.store(largest + row * n_parts + part, tl.where(is_broken, float("nan"), top))
    if WITH_MASS:
        tl.store(masses + row * n_parts + part, tl.sum(tl.where(x > float("-inf"), tl.exp(x - top), 0.0)))


@triton.jit(do_not_specialize=["slots"])
def choose_kernel(
    logits, ints, floats, largest, scores, winners, slots, vocab_size, stride,
    PART: tl.constexpr, PARTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The best token of each part, by the sum of logit and noise, for rows without top-k and top-p.

    Program (row, part).
    """
    _start(OVERLAP)
    _wait(OVERLAP)
    row, part, n_parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    parts = tl.arange(0, PARTS)
    top = tl.max(tl.load(largest + row * n_parts + parts, parts < n_parts, float("-inf")), 0)
    ids = part * PART + tl.arange(0, PART)
    x = tl.load(logits + row.to(tl.int64) * stride + ids, ids < vocab_size, float("-inf"))
    keep = (ids < vocab_size) & (x >= top + tl.load(floats + LOG_MIN_P * slots + row))
    score = tl.where(keep, x + _noise(ints, floats, slots, row, ids), float("-inf"))
    best = tl.max(score, 0)
    tl.store(scores + row * n_parts + part, best)
    tl.store(winners + row * n_parts + part, tl.min(tl.where(score == best, ids, vocab_size - 1), 0))


@triton.jit(do_not_specialize=["slots"])
def draw_kernel(
    logits, ints, floats, counts, maxima, largest, masses, scores, winners, chosen, drawn,
    slots, vocab_size, stride, n_parts, n_groups,
    GROUPS: tl.constexpr, GROUP: tl.constexpr, PARTS: tl.constexpr, FEW: tl.constexpr, MANY: tl.constexpr,
    CHUNK: tl.constexpr, WITH_COUNTS: tl.constexpr, WITH_LIMITS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The next token of each row, and the row's state for the next step. Program (row).

    Where a logit is NaN the token handed out is `BROKEN`, and the state goes on with one that exists.

    With top-k or top-p, only the groups with the largest maxima are looked at: k tokens at least are as large as the
    k-th largest maximum, so what top-k leaves is in groups whose maximum is. Where that does not suffice (a flat
    distribution, a large k), the whole row is searched; the token is the same.
    """
    _start(OVERLAP)
    _wait(OVERLAP)
    row = tl.program_id(0)
    parts = tl.arange(0, PARTS)
    of_part = tl.load(largest + row * n_parts + parts, parts < n_parts, float("-inf"))
    top = tl.max(of_part, 0)
    is_broken = tl.max((of_part != of_part).to(tl.int32), 0) > 0
    token = row * 0 + vocab_size - 1
    top_k = tl.load(ints + TOP_K * slots + row)
    has_top_k = (top_k > 0) & (top_k < vocab_size)
    has_top_p = tl.load(floats + TOP_P * slots + row) < 1
    if WITH_LIMITS:
        if (has_top_k | has_top_p) & (is_broken == 0):  # a search among NaN may have no end
            shares = tl.load(masses + row * n_parts + parts, parts < n_parts, 0.0)
            mass = tl.sum(shares * tl.where(of_part > float("-inf"), tl.exp(of_part - top), 0.0), 0)
            if has_top_k & (top_k <= FEW):
                token, found = _among_groups(
                    logits, ints, floats, maxima, chosen, row, top, mass, top_k, slots, vocab_size, stride,
                    n_groups, GROUPS, GROUP, FEW, MANY,
                )  # fmt: skip
            else:
                token, found = _among_groups(
                    logits, ints, floats, maxima, chosen, row, top, mass, top_k, slots, vocab_size, stride,
                    n_groups, GROUPS, GROUP, MANY, MANY,
                )  # fmt: skip
            if found == 0:
                token = _among_all(logits, ints, floats, row, top, mass, slots, vocab_size, stride, CHUNK)
    if not (has_top_k | has_top_p):
        score = tl.load(scores + row * n_parts + parts, parts < n_parts, float("-inf"))
        winner = tl.load(winners + row * n_parts + parts, parts < n_parts, vocab_size - 1)
        token = tl.min(tl.where(score == tl.max(score, 0), winner, vocab_size - 1), 0)
    tl.store(drawn + row, tl.where(is_broken, BROKEN, token))
    tl.store(ints + TOKEN * slots + row, token)
    tl.store(ints + LENGTH * slots + row, tl.load(ints + LENGTH * slots + row) + 1)
    tl.store(ints + POSITION * slots + row, tl.load(ints + POSITION * slots + row) + 1)
    if WITH_COUNTS:
        times = counts + row.to(tl.int64) * vocab_size + token
        tl.store(times, tl.load(times) + 1)


@triton.jit
def _among_groups(
    logits, ints, floats, maxima, chosen, row, top, mass, top_k, slots, vocab_size, stride, n_groups,
    GROUPS: tl.constexpr, GROUP: tl.constexpr, MOST: tl.constexpr, ROOM: tl.constexpr,
):  # fmt: skip
    """The draw, looking at up to MOST groups; and whether they suffice.

    top-p takes away tokens from the bottom, so a draw from more tokens than it leaves is the draw if it is among them;
    if it is not, none at or below it in the order of the logits is, and the search goes on above it. That halves the mass
    in question each time, on average (Chen et al. 2025, FlashInfer, with fresh noise; here a token keeps its own).
    """
    group = tl.arange(0, GROUPS)
    of_group = _order(tl.load(maxima + row * n_groups + group, group < n_groups, float("-inf")))
    has_top_k = (top_k > 0) & (top_k < vocab_size)
    reach = _kth_largest(of_group, tl.where(has_top_k, tl.minimum(top_k, MOST), MOST))
    is_chosen = of_group >= reach
    n_chosen = tl.sum(is_chosen.to(tl.int32), 0)
    place = tl.cumsum(is_chosen.to(tl.int32), 0) - 1
    tl.store(chosen + row * ROOM + place, group, is_chosen & (place < MOST))
    tl.debug_barrier()  # what one thread has stored, another loads
    which = tl.arange(0, MOST)
    first = tl.load(chosen + row * ROOM + which, which < n_chosen, 0) * GROUP
    ids = first[:, None] + tl.arange(0, GROUP)[None, :]
    inside = (which < n_chosen)[:, None] & (ids < vocab_size)
    x = tl.load(logits + row.to(tl.int64) * stride + ids, inside, float("-inf"))
    order = tl.where(inside, _order(x), 0)
    if has_top_k & (top_k <= MOST):
        reach = _kth_largest(order, top_k)
    keep = inside & (order >= reach)
    weight = tl.where(keep, tl.exp(x - top), 0.0)
    kept_mass = tl.sum(weight)
    top_p = tl.load(floats + TOP_P * slots + row)
    wanted = tl.where(top_p < 1, _some(top_p * tl.where(has_top_k, kept_mass, mass)), float("inf"))
    suffices = (n_chosen <= MOST) & (top > float("-inf"))
    suffices &= tl.where(has_top_k, top_k <= MOST, kept_mass >= wanted)
    token = row * 0
    if suffices:
        keep &= x >= top + tl.load(floats + LOG_MIN_P * slots + row)
        score = tl.where(keep, x + _noise(ints, floats, slots, row, ids), float("-inf"))
        token = _winner(score, ids, vocab_size)
        at_token = tl.max(tl.where(keep & (ids == token), x, float("-inf")))
        above = (x > at_token) | ((x == at_token) & (ids < token))
        while tl.sum(tl.where(above, weight, 0.0)) >= wanted:
            token = _winner(tl.where(above, score, float("-inf")), ids, vocab_size)
            at_token = tl.max(tl.where(keep & (ids == token), x, float("-inf")))
            above = (x > at_token) | ((x == at_token) & (ids < token))
    return token, suffices


@triton.jit
def _some(mass):
    """A mass that is more than none, so that a search upwards ends at the largest token: nothing stands above it.

    Rows have more anyway. A slot without a row may have a mass that nobody worked out.
    """
    return tl.maximum(mass, 1e-30)


@triton.jit
def _winner(score, ids, vocab_size):
    """The token with the largest score; of equal ones the lowest."""
    return tl.min(tl.where(score == tl.max(score), ids, vocab_size - 1))


@triton.jit
def _kth_largest(order, k):
    """Such a number that k of these reach it, or more where the k-th largest has equals.

    Two bits at a time, from the highest on, by counting what reaches each value, until k do. Three counts are one sum of
    64 bits, since a sum over many threads waits more than it adds.
    """
    found = tl.zeros((), tl.uint32)
    one = tl.full((), 1 << 30, tl.uint32)
    n_reached = tl.full((), -1, tl.int64)
    while (one > 0) & (n_reached != k):
        reached = (order >= found + one).to(tl.int64)
        reached += (order >= found + 2 * one).to(tl.int64) << 20
        reached += (order >= found + 3 * one).to(tl.int64) << 40
        counts = tl.sum(reached)
        by_one, by_two, by_three = counts & 0xFFFFF, (counts >> 20) & 0xFFFFF, counts >> 40
        if by_three >= k:
            found += 3 * one
            n_reached = by_three
        elif by_two >= k:
            found += 2 * one
            n_reached = by_two
        elif by_one >= k:
            found += one
            n_reached = by_one
        one = one >> 2
    return found


@triton.jit
def _among_all(logits, ints, floats, row, top, mass, slots, vocab_size, stride, CHUNK: tl.constexpr):
    """`_among_groups` for all tokens, in chunks: slower by far, and as good for any row."""
    mine = logits + row.to(tl.int64) * stride
    top_k = tl.load(ints + TOP_K * slots + row)
    has_top_k = (top_k > 0) & (top_k < vocab_size)
    top_p = tl.load(floats + TOP_P * slots + row)
    wanted = tl.full((), float("inf"), tl.float32)
    if top_p < 1:
        if has_top_k:
            mass = _mass_of_largest(mine, top_k, top, vocab_size, CHUNK)
        wanted = _some(top_p * mass)
    floor = top + tl.load(floats + LOG_MIN_P * slots + row)
    most = tl.where(has_top_k, top_k, vocab_size)
    token = row * 0 + vocab_size
    at_token = tl.full((), float("-inf"), tl.float32)
    count, above = most, wanted
    is_first = row * 0 + 1
    while (is_first > 0) | (count >= most) | (above >= wanted):
        token, at_token = _best(mine, ints, floats, slots, row, floor, at_token, token, vocab_size, CHUNK)
        count, above = _above(mine, at_token, token, top, vocab_size, CHUNK)
        is_first = row * 0
    return token


@triton.jit
def _best(mine, ints, floats, slots, row, floor, last_x, last, vocab_size, CHUNK: tl.constexpr):
    """The token with the largest sum of logit and noise, and its logit.

    Of those with a logit from `floor` on that stand above token `last`, whose logit is `last_x`: in the order of the
    logits, and of the ids where logits are equal.
    """
    best = tl.full((CHUNK,), float("-inf"), tl.float32)
    best_x = tl.full((CHUNK,), float("-inf"), tl.float32)
    winner = tl.full((CHUNK,), 0, tl.int32) + vocab_size - 1
    for start in tl.range(0, vocab_size, CHUNK):
        ids = start + tl.arange(0, CHUNK)
        x = tl.load(mine + ids, ids < vocab_size, float("-inf"))
        left = (ids < vocab_size) & (x >= floor) & ((x > last_x) | ((x == last_x) & (ids < last)))
        score = tl.where(left, x + _noise(ints, floats, slots, row, ids), float("-inf"))
        better = score > best
        best = tl.where(better, score, best)
        best_x = tl.where(better, x, best_x)
        winner = tl.where(better, ids, winner)
    token = _winner(best, winner, vocab_size)
    return token, tl.max(tl.where(winner == token, best_x, float("-inf")))


@triton.jit
def _above(mine, at_token, token, top, vocab_size, CHUNK: tl.constexpr):
    """How many tokens have a larger logit than this one, and the mass of all that stand above it."""
    counts = tl.zeros((CHUNK,), tl.int32)
    masses = tl.zeros((CHUNK,), tl.float32)
    for start in tl.range(0, vocab_size, CHUNK):
        ids = start + tl.arange(0, CHUNK)
        x = tl.load(mine + ids, ids < vocab_size, float("-inf"))
        counts += (x > at_token).to(tl.int32)
        masses += tl.where((x > at_token) | ((x == at_token) & (ids < token)), tl.exp(x - top), 0.0)
    return tl.sum(counts), tl.sum(masses)


@triton.jit
def _mass_of_largest(mine, k, top, vocab_size, CHUNK: tl.constexpr):
    """The mass of the k largest logits, and of all that are equal to the last of them; see `_kth_largest`."""
    reach = tl.zeros((), tl.uint32)
    one = tl.full((), 0x80000000, tl.uint32)
    for _ in tl.range(0, 32):
        counts = tl.zeros((CHUNK,), tl.int32)
        for start in tl.range(0, vocab_size, CHUNK):
            ids = start + tl.arange(0, CHUNK)
            x = tl.load(mine + ids, ids < vocab_size, float("-inf"))
            counts += ((ids < vocab_size) & (_order(x) >= reach + one)).to(tl.int32)
        reach += tl.where(tl.sum(counts) >= k, one, 0).to(tl.uint32)
        one = one >> 1
    masses = tl.zeros((CHUNK,), tl.float32)
    for start in tl.range(0, vocab_size, CHUNK):
        ids = start + tl.arange(0, CHUNK)
        x = tl.load(mine + ids, ids < vocab_size, float("-inf"))
        masses += tl.where((ids < vocab_size) & (_order(x) >= reach), tl.exp(x - top), 0.0)
    return tl.sum(masses)


@triton.jit
def _order(x):
    """A whole number without sign for each float32, in the same order."""
    bits = (x + 0.0).to(tl.uint32, bitcast=True)  # -0.0 becomes 0.0, which it is equal to
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
def _noise(ints, floats, slots, row, ids):
    """`sampling.gumbel_noise` of a row at its position; none where temperature is 0."""
    position = tl.load(ints + POSITION * slots + row).to(tl.uint32, bitcast=True)
    row_key = _mix(tl.load(ints + NOISE_KEY * slots + row).to(tl.uint32, bitcast=True) ^ position)
    bits = _mix(_mix(ids.to(tl.uint32, bitcast=True)) ^ row_key)
    uniform = ((bits >> 8).to(tl.int32).to(tl.float32) + 0.5) / 16777216.0
    uniform = tl.minimum(uniform, 1.0 - 1.0 / 16777216.0)  # the largest would be rounded to 1, its noise infinite
    is_greedy = tl.load(floats + TEMPERATURE * slots + row) == 0
    return tl.where(is_greedy, 0.0, -tl.log(-tl.log(uniform)))
