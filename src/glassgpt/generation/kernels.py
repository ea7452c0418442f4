"""One decoding step as a few hand-written GPU kernels (Triton, Tillet et al. 2019).

A step of one token a row moves every weight through the chip and does little with it. PyTorch's operators would take
some ten launches a layer; here it is five: normalise and multiply (q, k, v), attend, multiply and add, normalise and
multiply (up), multiply and add (down). Nothing in them asks the host, so that steps can be captured in a CUDA graph.

Each kernel's docstring says what it computes in the terms of its readable twin: the modules in `model/`, `sampling`
and `processors`. Triton's interpreter runs them on a CPU, which is how the tests hold them against those.

Shapes: M rows (one token each), C model width, H query heads, K key heads, D head width, S slots' capacity, V tokens.
"""

# Kernels are a language of their own, without types; pyright can say nothing of them.
# pyright: basic, reportMissingTypeStubs=false, reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

# What a `linear_kernel` does before and after its product.
NO_NORM: tl.constexpr = tl.constexpr(0)
LAYER_NORM: tl.constexpr = tl.constexpr(1)
RMS_NORM: tl.constexpr = tl.constexpr(2)
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
def _fetch(weight, first, rows, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr, LINES: tl.constexpr):
    """Ask for some rows of a matrix to be brought into the chip's cache, a line of 128 bytes at a time."""
    PER_LINE: tl.constexpr = 128 // (weight.dtype.element_ty.primitive_bitwidth // 8)
    n = first + tl.arange(0, BLOCK_N)
    k = tl.arange(0, LINES) * PER_LINE
    inside = (n < rows)[:, None] & (k < WIDTH)[None, :]
    at = tl.where(inside, n[:, None].to(tl.int64) * WIDTH + k[None, :], first.to(tl.int64) * WIDTH)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [weight + at], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def embed_kernel(
    ints, tokens_table, positions_table, x, slots, context, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, LEARNED_POSITIONS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """x[row] = token embedding + position embedding, or the token embedding scaled to a root mean square of 1."""
    _wait(OVERLAP)
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    token = tl.load(ints + TOKEN * slots + row)
    y = tl.load(tokens_table + token.to(tl.int64) * WIDTH + columns, inside, 0.0).to(tl.float32)
    if LEARNED_POSITIONS:
        # A row that has gone on behind its end (its tokens are thrown away) must not read behind the table.
        place = tl.minimum(tl.load(ints + LENGTH * slots + row), context - 1)
        y += tl.load(positions_table + place * WIDTH + columns, inside, 0.0).to(tl.float32)
    else:
        y *= tl.rsqrt(tl.sum(y * y, 0) / WIDTH + eps)
    tl.store(x + row * WIDTH + columns, y, inside)


@triton.jit
def linear_kernel(
    x, gain, weight, sums, bias, y, rows, width_out, stride_out, eps, cap,
    WIDTH: tl.constexpr, NORM: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_GAIN: tl.constexpr, HAS_BIAS: tl.constexpr, ADD: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    LINES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """y = activation(norm(x) @ weight.T + bias), or y += that.

    The norm costs no pass of its own: with x - mean = x - mean·1, norm(x) @ W.T is
    (x @ (gain·W).T - mean · sums) / deviation, where sums[n] is the sum of row n of gain·W; mean and deviation are
    gathered while the product runs. The norm's bias is in `bias` already.
    """
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        _fetch(weight, tl.program_id(0) * BLOCK_N, width_out, BLOCK_N, WIDTH, LINES)  # nobody writes weights
        tl.extra.cuda.gdc_wait()
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_inside, n_inside = m < rows, n < width_out
    product = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    squares = tl.zeros((BLOCK_M,), tl.float32)
    x_rows = x + m[:, None] * WIDTH
    w_rows = weight + n[None, :].to(tl.int64) * WIDTH
    for start in tl.range(0, WIDTH, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        k_inside = k < WIDTH
        w = tl.load(w_rows + k[:, None], k_inside[:, None] & n_inside[None, :], 0.0)
        part = tl.load(x_rows + k[None, :], m_inside[:, None] & k_inside[None, :], 0.0).to(tl.float32)
        if NORM == LAYER_NORM:
            total += tl.sum(part, 1)
        if NORM != NO_NORM:
            squares += tl.sum(part * part, 1)
        if HAS_GAIN:
            part *= tl.load(gain + k, k_inside, 0.0).to(tl.float32)[None, :]
        product = tl.dot(part.to(w.dtype), w, product, input_precision="ieee")
    if NORM != NO_NORM:
        mean = total / WIDTH  # stays 0 for the RMS norm
        scale = tl.rsqrt(tl.maximum(squares / WIDTH - mean * mean, 0.0) + eps)
        if NORM == LAYER_NORM:
            product -= mean[:, None] * tl.load(sums + n, n_inside, 0.0)[None, :]
        product *= scale[:, None]
    if HAS_BIAS:
        product += tl.load(bias + n, n_inside, 0.0).to(tl.float32)[None, :]
    product = _activate(product, cap, ACTIVATION)
    target = y + m[:, None].to(tl.int64) * stride_out + n[None, :]
    inside = m_inside[:, None] & n_inside[None, :]
    if ADD:
        product += tl.load(target, inside, 0.0).to(tl.float32)
    tl.store(target, product.to(y.dtype.element_ty), inside)


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
        scores = tl.sum(tl.load(key_rows + at, valid, 0.0).to(tl.float32) * q1[None, :], 1)
        scores += tl.sum(tl.load(key_rows + at + HEAD_DIM // 2, valid, 0.0).to(tl.float32) * q2[None, :], 1)
        scores = tl.where(seen, scores * scale, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 0))
        weights = tl.exp(scores - new_largest)
        fade = tl.exp(largest - new_largest)
        total = total * fade + tl.sum(weights, 0)
        seen1 = tl.load(value_rows + at, valid, 0.0).to(tl.float32)
        seen2 = tl.load(value_rows + at + HEAD_DIM // 2, valid, 0.0).to(tl.float32)
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


@triton.jit
def draw_kernel(
    logits, ints, floats, counts, drawn, slots, vocab_size, stride,
    CHUNK: tl.constexpr, WITH_COUNTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """A token for each row by its own settings, and the row's state for the next step.

    One program does one row, a chunk of tokens at a time. The limits of top-k and top-p are found by halving an
    interval, not by sorting. The order is the one of `processors`, the noise the one of `sampling`. The logits are
    left penalised and divided by the temperature.
    """
    _wait(OVERLAP)
    row = tl.program_id(0)
    x_row = logits + row.to(tl.int64) * stride
    seen_row = counts + row.to(tl.int64) * vocab_size
    temperature = tl.load(floats + TEMPERATURE * slots + row)
    is_greedy = temperature == 0
    divisor = tl.where(is_greedy, 1.0, temperature)
    largest = tl.full((CHUNK,), float("-inf"), tl.float32)
    least = tl.full((CHUNK,), float("inf"), tl.float32)
    for start in tl.range(0, vocab_size, CHUNK):
        ids = start + tl.arange(0, CHUNK)
        inside = ids < vocab_size
        x = tl.load(x_row + ids, inside, float("-inf"))
        if WITH_COUNTS:
            x = _penalise(x, tl.load(seen_row + ids, inside, 0), floats, slots, row)
        x = x / divisor + 0.0  # -0.0 becomes 0.0, so that equal numbers have equal bits
        tl.store(x_row + ids, x, inside)
        largest = tl.maximum(largest, x)
        least = tl.minimum(least, tl.where(inside, x, float("inf")))
    tl.debug_barrier()  # what one thread has written, another reads
    most = tl.max(largest, 0)
    low = _order(tl.min(least, 0))
    top_k = tl.load(ints + TOP_K * slots + row)
    if (top_k > 0) & (top_k < vocab_size):
        low = _kth_largest(x_row, vocab_size, low, _order(most) + 1, top_k, CHUNK)
    high = low  # all from here on are kept …
    before, wanted, ties = 0.0, 0.0, 0
    top_p = tl.load(floats + TOP_P * slots + row)
    if top_p < 1:
        low, high, before, wanted, ties = _nucleus(x_row, vocab_size, low, most, top_p, CHUNK)
    least_kept = tl.maximum(_number(low), most + tl.load(floats + LOG_MIN_P * slots + row))
    position = tl.load(ints + POSITION * slots + row)
    key = tl.load(ints + NOISE_KEY * slots + row)
    tie_mass = tl.exp(_number(low) - most)
    best = tl.full((CHUNK,), float("-inf"), tl.float32)
    best_ids = tl.zeros((CHUNK,), tl.int32)
    rank = 0
    for start in tl.range(0, vocab_size, CHUNK):
        ids = start + tl.arange(0, CHUNK)
        x = tl.load(x_row + ids, ids < vocab_size, float("-inf"))
        keep = x >= least_kept
        if ties > 1:  # … and of those from `low` to there, which are equal, the first few that are wanted
            equal = (x == _number(low)).to(tl.int32)
            ranks = rank + tl.cumsum(equal, 0) - 1
            keep &= (x >= _number(high)) | (before + ranks * tie_mass < wanted)
            rank += tl.sum(equal, 0)
        score = tl.where(keep, x + tl.where(is_greedy, 0.0, _gumbel_noise(key, position, ids)), float("-inf"))
        best_ids = tl.where(score > best, ids, best_ids)
        best = tl.maximum(best, score)
    token = tl.min(tl.where(best == tl.max(best, 0), best_ids, vocab_size - 1), 0)
    tl.store(drawn + row, token)
    tl.store(ints + TOKEN * slots + row, token)
    tl.store(ints + LENGTH * slots + row, tl.load(ints + LENGTH * slots + row) + 1)
    tl.store(ints + POSITION * slots + row, position + 1)
    if WITH_COUNTS:
        tl.store(seen_row + token, tl.load(seen_row + token) + 1)


@triton.jit
def _penalise(x, seen, floats, slots, row):
    """`apply_repetition_penalty`, `apply_presence_penalty`, `apply_frequency_penalty`."""
    repetition = tl.load(floats + REPETITION * slots + row)
    times = seen & (IN_PROMPT - 1)
    x = tl.where(seen > 0, tl.where(x > 0, x / repetition, x * repetition), x)
    x -= tl.where(times > 0, tl.load(floats + PRESENCE * slots + row), 0.0)
    return x - tl.load(floats + FREQUENCY * slots + row) * times


@triton.jit
def _order(x):
    """A whole number for each float32, in the same order."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _number(order):
    """Back from `_order`."""
    return tl.where(order < 0, order ^ 0x7FFFFFFF, order).to(tl.float32, bitcast=True)


@triton.jit
def _middle(low, high):
    """Between two whole numbers, without overflow."""
    return (low & high) + ((low ^ high) >> 1)


@triton.jit
def _from(x_row, vocab_size, bound, most, CHUNK: tl.constexpr):
    """How many logits are not below a bound, and their mass: the sum of exp(x - most)."""
    count = tl.zeros((CHUNK,), tl.int32)
    mass = tl.zeros((CHUNK,), tl.float32)
    for start in tl.range(0, vocab_size, CHUNK):
        ids = start + tl.arange(0, CHUNK)
        x = tl.load(x_row + ids, ids < vocab_size, float("-inf"))
        keep = (x >= bound) & (ids < vocab_size)
        count += keep.to(tl.int32)
        mass += tl.where(keep, tl.exp(x - most), 0.0)
    return tl.sum(count, 0), tl.sum(mass, 0)


@triton.jit
def _kth_largest(x_row, vocab_size, low, high, k, CHUNK: tl.constexpr):
    """In `_order`, the largest bound that at least k logits reach: the k-th largest, with whatever ties with it.

    All reach `low`, none `high`.
    """
    found = vocab_size
    while (low + 1 < high) & (found != k):
        middle = _middle(low, high)
        count, _ = _from(x_row, vocab_size, _number(middle), 0.0, CHUNK)
        enough = count >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
        found = tl.where(enough, count, found)
    return low


@triton.jit
def _nucleus(x_row, vocab_size, low, most, p, CHUNK: tl.constexpr):
    """The fewest most probable of the logits from `low` on that together reach p.

    Returns two bounds in `_order`: all from the higher one on belong to it; those between are equal, `ties` of them.
    `before` is the mass of the former, `wanted` that of the nucleus.
    """
    count_low, total = _from(x_row, vocab_size, _number(low), most, CHUNK)
    wanted = total * p
    high, before, count_high = _order(most) + 1, 0.0, 0
    while (low + 1 < high) & (count_low - count_high > 1):
        middle = _middle(low, high)
        count, mass = _from(x_row, vocab_size, _number(middle), most, CHUNK)
        enough = mass >= wanted
        low = tl.where(enough, middle, low)
        count_low = tl.where(enough, count, count_low)
        high = tl.where(enough, high, middle)
        count_high = tl.where(enough, count_high, count)
        before = tl.where(enough, before, mass)
    return low, high, before, wanted, count_low - count_high


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
