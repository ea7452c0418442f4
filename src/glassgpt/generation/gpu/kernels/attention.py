"""Kernels of attention over the cache: from one new token per slot, or from several successive ones.

Shapes as in `kernels.model`. `attention_kernel` and `row_attention_kernel` are two because the second is 1 % slower for
one token (docs/log.md); models whose keys are normalized use the second alone, so that the bits of a row never depend on
the number of rows. Models with a long context use `chunk_attention_kernel` for everything (decision 89).
"""

from __future__ import annotations

import triton
import triton.language as tl

from glassgpt.generation.gpu.kernels.common import (
    LENGTH,
    convert,
    power_of_two,
    prefetch,
    round_vectors,
    start_next_kernel,
    wait_for_previous_kernel,
)


@triton.jit(do_not_specialize=["slots", "capacity", "n_prefetched"])
def attention_kernel(
    slot_ints, qkv, keys, values, key_exponents, value_exponents, cos, sin, y, slots, capacity, n_prefetched, window, scale, eps,
    N_HEAD: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr, QUERIES: tl.constexpr,
    BLOCK_S: tl.constexpr, LINES: tl.constexpr, ROTATED: tl.constexpr, NORMED_HEADS: tl.constexpr, IN_FP8: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Attend from each row's new token, whose key and value are also stored: `attend` for one position.

    Program (row, key head): all query heads that share the key head, over exactly as many keys as the row has. Softmax
    in one pass with a running maximum (Milakov and Gimelshein 2018). Heads are loaded as two halves, which is how the
    rotary embedding rotates them. The last `n_prefetched` keys are prefetched while the previous kernel still runs.
    """
    start_next_kernel(OVERLAP)
    row, kv_head = tl.program_id(0), tl.program_id(1)
    first_position = (row * KV_HEADS + kv_head).to(tl.int64) * capacity
    key_rows, value_rows = keys + first_position * HEAD_DIM, values + first_position * HEAD_DIM
    key_scales, value_scales = key_exponents + first_position, value_exponents + first_position
    if OVERLAP:
        # The length may still be that of the previous step, which is good enough for a hint.
        likely_length = tl.minimum(tl.load(slot_ints + LENGTH * slots + row), capacity)
        n_wanted = tl.minimum(n_prefetched, tl.where(window > 0, tl.minimum(window, likely_length), likely_length))
        for start in tl.range(likely_length - n_wanted, likely_length, BLOCK_S):
            prefetch(key_rows, start, likely_length, BLOCK_S, HEAD_DIM, HEAD_DIM, LINES)
            prefetch(value_rows, start, likely_length, BLOCK_S, HEAD_DIM, HEAD_DIM, LINES)
    wait_for_previous_kernel(OVERLAP)
    GROUP: tl.constexpr = N_HEAD // KV_HEADS
    half = tl.arange(0, HALF)
    inside = half < HEAD_DIM // 2
    length = tl.minimum(tl.load(slot_ints + LENGTH * slots + row), capacity)
    position = tl.minimum(length, capacity - 1)
    qkv_row = qkv + row * ((N_HEAD + 2 * KV_HEADS) * HEAD_DIM)
    query, one = tl.arange(0, QUERIES), tl.arange(0, 1)
    is_query = query < GROUP
    q1, q2 = _load_halves(qkv_row, kv_head * GROUP + query, is_query, half, inside, HEAD_DIM)  # (QUERIES, HALF)
    k1, k2 = _load_halves(qkv_row, N_HEAD + kv_head + one, one == 0, half, inside, HEAD_DIM)  # (1, HALF)
    v1, v2 = _load_halves(qkv_row, N_HEAD + KV_HEADS + kv_head + one, one == 0, half, inside, HEAD_DIM)
    if NORMED_HEADS:
        q1, q2 = _norm_heads(q1, q2, eps, HEAD_DIM)
        k1, k2 = _norm_heads(k1, k2, eps, HEAD_DIM)
    if ROTATED:
        cosine = tl.load(cos + position * (HEAD_DIM // 2) + half, inside, 0.0)[None, :]
        sine = tl.load(sin + position * (HEAD_DIM // 2) + half, inside, 0.0)[None, :]
        q1, q2 = _rotate(q1, q2, cosine, sine)
        k1, k2 = _rotate(k1, k2, cosine, sine)
    # Rounded as the cache stores them, so that this step sees what later steps see.
    if IN_FP8:
        is_stored = length + one < capacity
        k1, k2 = _store_in_fp8(k1, k2, key_rows, key_scales, position + one, is_stored, half, inside, HEAD_DIM)
        v1, v2 = _store_in_fp8(v1, v2, value_rows, value_scales, position + one, is_stored, half, inside, HEAD_DIM)
    else:
        k1, k2 = k1.to(keys.dtype.element_ty), k2.to(keys.dtype.element_ty)
        if length < capacity:
            at = position * HEAD_DIM + half[None, :]
            tl.store(key_rows + at, k1, inside[None, :])
            tl.store(key_rows + at + HEAD_DIM // 2, k2, inside[None, :])
            tl.store(value_rows + at, v1.to(values.dtype.element_ty), inside[None, :])
            tl.store(value_rows + at + HEAD_DIM // 2, v2.to(values.dtype.element_ty), inside[None, :])
    q1, q2 = q1.to(qkv.dtype.element_ty), q2.to(qkv.dtype.element_ty)
    running_max = scale * tl.sum(q1.to(tl.float32) * k1.to(tl.float32) + q2.to(tl.float32) * k2.to(tl.float32), 1)
    total = tl.full((QUERIES,), 1.0, tl.float32)
    o1, o2 = tl.broadcast_to(v1, (QUERIES, HALF)), tl.broadcast_to(v2, (QUERIES, HALF))
    first = tl.where(window > 0, tl.maximum(position + 1 - window, 0), 0)
    for start in tl.range(first // BLOCK_S * BLOCK_S, position, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        visible = (s >= first) & (s < position)
        running_max, total, o1, o2 = _attend_to_block(
            q1, q2, key_rows, value_rows, key_scales, value_scales, s, visible, visible[None, :], half, inside, scale,
            running_max, total, o1, o2, HEAD_DIM, IN_FP8, OVERLAP,
        )  # fmt: skip
    out = y + (row * N_HEAD + kv_head * GROUP + query[:, None]) * HEAD_DIM + half[None, :]
    is_out = is_query[:, None] & inside[None, :]
    tl.store(out, (o1 / total[:, None]).to(y.dtype.element_ty), is_out)
    tl.store(out + HEAD_DIM // 2, (o2 / total[:, None]).to(y.dtype.element_ty), is_out)


@triton.jit(do_not_specialize=["slots", "width", "capacity", "n_prefetched"])
def row_attention_kernel(
    slot_ints, qkv, keys, values, key_exponents, value_exponents, cos, sin, y, slots, width, capacity, n_prefetched, window, scale, eps,
    N_HEAD: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr, QUERIES: tl.constexpr,
    BLOCK_S: tl.constexpr, LINES: tl.constexpr, ROTATED: tl.constexpr, NORMED_HEADS: tl.constexpr, IN_FP8: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Attend from the new tokens of each slot, whose keys and values are also stored: `attend` for `width` positions.

    Otherwise as `attention_kernel`. Program (slot, key head): all queries of the slot's rows (`width` successive ones,
    at successive positions) that share the key head.

    A row's own key comes first and all others in the order of the cache, even those of the same slot's new tokens; a
    key that a row does not see adds exactly nothing. So a row gives the same bits with any `width`, which is no
    compile-time constant either: it is the same machine code. They are also the bits of `attention_kernel`, except where
    keys are normalized: the compiler adds their squares in another order, because there are as many keys as queries. Models
    with such a norm use this kernel for single tokens, too.
    """
    start_next_kernel(OVERLAP)
    slot, kv_head = tl.program_id(0), tl.program_id(1)
    first_position = (slot * KV_HEADS + kv_head).to(tl.int64) * capacity
    key_rows, value_rows = keys + first_position * HEAD_DIM, values + first_position * HEAD_DIM
    key_scales, value_scales = key_exponents + first_position, value_exponents + first_position
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
    query_head = kv_head * GROUP + query % GROUP
    q1, q2, k1, k2, v1, v2 = _load_new_tokens(
        qkv, cos, sin, row, query_head, kv_head, position, is_query, half, inside, eps,
        N_HEAD, KV_HEADS, HEAD_DIM, ROTATED, NORMED_HEADS,
    )  # fmt: skip
    at = position[:, None] * HEAD_DIM + half[None, :]
    is_stored = is_query & (query % GROUP == 0) & (length + nth < capacity)
    # Rounded as the cache stores them, so that this step sees what later steps see.
    if IN_FP8:
        k1, k2 = _store_in_fp8(k1, k2, key_rows, key_scales, position, is_stored, half, inside, HEAD_DIM)
        v1, v2 = _store_in_fp8(v1, v2, value_rows, value_scales, position, is_stored, half, inside, HEAD_DIM)
    else:
        k1, k2 = k1.to(keys.dtype.element_ty), k2.to(keys.dtype.element_ty)
        is_new = is_stored[:, None] & inside[None, :]
        tl.store(key_rows + at, k1, is_new)
        tl.store(key_rows + at + HEAD_DIM // 2, k2, is_new)
        tl.store(value_rows + at, v1.to(values.dtype.element_ty), is_new)
        tl.store(value_rows + at + HEAD_DIM // 2, v2.to(values.dtype.element_ty), is_new)
    if width > 1:
        tl.debug_barrier()  # other threads load what was stored just now
    q1, q2 = q1.to(qkv.dtype.element_ty), q2.to(qkv.dtype.element_ty)
    running_max = scale * tl.sum(q1.to(tl.float32) * k1.to(tl.float32) + q2.to(tl.float32) * k2.to(tl.float32), 1)
    total = tl.full((QUERIES,), 1.0, tl.float32)
    o1, o2 = v1, v2
    first = tl.where(window > 0, tl.maximum(position + 1 - window, 0), 0)  # (QUERIES,)
    first_of_all = tl.where(window > 0, tl.maximum(at_first + 1 - window, 0), 0)
    for start in tl.range(first_of_all // BLOCK_S * BLOCK_S, at_last, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        is_loaded = (s >= first_of_all) & (s < at_last)
        visible = (s[None, :] >= first[:, None]) & (s[None, :] < position[:, None])  # (QUERIES, BLOCK_S)
        running_max, total, o1, o2 = _attend_to_block(
            q1, q2, key_rows, value_rows, key_scales, value_scales, s, is_loaded, visible, half, inside, scale,
            running_max, total, o1, o2, HEAD_DIM, IN_FP8, OVERLAP,
        )  # fmt: skip
    out = y + (row * N_HEAD + query_head)[:, None] * HEAD_DIM + half[None, :]
    is_out = is_query[:, None] & inside[None, :]
    tl.store(out, (o1 / total[:, None]).to(y.dtype.element_ty), is_out)
    tl.store(out + HEAD_DIM // 2, (o2 / total[:, None]).to(y.dtype.element_ty), is_out)


@triton.jit(do_not_specialize=["slots", "width", "capacity", "n_prefetched"])
def chunk_attention_kernel(
    slot_ints, qkv, keys, values, key_exponents, value_exponents, cos, sin, maxima, totals, sums,
    slots, width, capacity, n_prefetched, window, scale, eps,
    N_HEAD: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr, QUERIES: tl.constexpr,
    BLOCK_S: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, LINES: tl.constexpr, ROTATED: tl.constexpr,
    NORMED_HEADS: tl.constexpr, IN_FP8: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Attend from the new tokens of each slot to one chunk of keys, for `combine_kernel` to add up.

    Program (slot, key head, chunk of CHUNK positions), otherwise as `row_attention_kernel`: with few slots, one program per
    key head would leave most of the GPU idle while it reads thousands of keys (Dao et al. 2023, Flash-Decoding). A new key is stored by the
    program of its chunk. A row's own key is counted by that of chunk 0, which always runs. In every chunk its score
    initializes the running maximum, which is therefore finite even where a row sees nothing of a chunk.

    Writes for each row, query head and chunk: the maximum, the sum of the weights, and the weighted sum of the values,
    (M, H, CHUNKS), the last with HEAD_DIM behind it, float32.
    """
    start_next_kernel(OVERLAP)
    slot, kv_head, chunk = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first_position = (slot * KV_HEADS + kv_head).to(tl.int64) * capacity
    key_rows, value_rows = keys + first_position * HEAD_DIM, values + first_position * HEAD_DIM
    key_scales, value_scales = key_exponents + first_position, value_exponents + first_position
    chunk_start, chunk_end = chunk * CHUNK, (chunk + 1) * CHUNK
    GROUP: tl.constexpr = N_HEAD // KV_HEADS
    if OVERLAP:
        # The length may still be that of the previous step, which is good enough for a hint.
        likely_length = tl.minimum(tl.load(slot_ints + LENGTH * slots + slot * width), capacity)
        wanted_from = tl.where(window > 0, tl.maximum(likely_length - window, chunk_start), chunk_start)
        wanted_to = tl.minimum(tl.minimum(likely_length, chunk_end), wanted_from + n_prefetched)
        for start in tl.range(wanted_from, wanted_to, BLOCK_S):
            prefetch(key_rows, start, wanted_to, BLOCK_S, HEAD_DIM, HEAD_DIM, LINES)
            prefetch(value_rows, start, wanted_to, BLOCK_S, HEAD_DIM, HEAD_DIM, LINES)
    wait_for_previous_kernel(OVERLAP)
    length = tl.minimum(tl.load(slot_ints + LENGTH * slots + slot * width), capacity)
    at_first, at_last = tl.minimum(length, capacity - 1), tl.minimum(length + width, capacity) - 1
    first_of_all = tl.where(window > 0, tl.maximum(at_first + 1 - window, 0), 0)
    if (chunk == 0) | ((chunk_start <= at_last) & (chunk_end > first_of_all)):
        half, query = tl.arange(0, HALF), tl.arange(0, QUERIES)
        inside, is_query = half < HEAD_DIM // 2, query < GROUP * width
        nth = tl.minimum(query // GROUP, width - 1)  # which of the slot's new tokens
        row = slot * width + nth
        position = tl.minimum(length + nth, capacity - 1)  # (QUERIES,)
        query_head = kv_head * GROUP + query % GROUP
        q1, q2, k1, k2, v1, v2 = _load_new_tokens(
            qkv, cos, sin, row, query_head, kv_head, position, is_query, half, inside, eps,
            N_HEAD, KV_HEADS, HEAD_DIM, ROTATED, NORMED_HEADS,
        )  # fmt: skip
        at = position[:, None] * HEAD_DIM + half[None, :]
        # Rounded as the cache stores them, so that this step sees what later steps see.
        is_here = (position >= chunk_start) & (position < chunk_end) & (length + nth < capacity)
        is_stored = is_query & (query % GROUP == 0) & is_here
        if IN_FP8:
            k1, k2 = _store_in_fp8(k1, k2, key_rows, key_scales, position, is_stored, half, inside, HEAD_DIM)
            v1, v2 = _store_in_fp8(v1, v2, value_rows, value_scales, position, is_stored, half, inside, HEAD_DIM)
        else:
            k1, k2 = k1.to(keys.dtype.element_ty), k2.to(keys.dtype.element_ty)
            is_new = is_stored[:, None] & inside[None, :]
            tl.store(key_rows + at, k1, is_new)
            tl.store(key_rows + at + HEAD_DIM // 2, k2, is_new)
            tl.store(value_rows + at, v1.to(values.dtype.element_ty), is_new)
            tl.store(value_rows + at + HEAD_DIM // 2, v2.to(values.dtype.element_ty), is_new)
        if width > 1:
            tl.debug_barrier()  # other threads load what was stored just now
        q1, q2 = q1.to(qkv.dtype.element_ty), q2.to(qkv.dtype.element_ty)
        products = q1.to(tl.float32) * k1.to(tl.float32) + q2.to(tl.float32) * k2.to(tl.float32)
        running_max = scale * tl.sum(products, 1)
        counts_own_key = (chunk == 0).to(tl.float32)
        total = tl.full((QUERIES,), 1.0, tl.float32) * counts_own_key
        o1, o2 = v1 * counts_own_key, v2 * counts_own_key
        first = tl.where(window > 0, tl.maximum(position + 1 - window, 0), 0)  # (QUERIES,)
        first_block = tl.maximum(first_of_all // BLOCK_S * BLOCK_S, chunk_start)
        for start in tl.range(first_block, tl.minimum(at_last, chunk_end), BLOCK_S):
            s = start + tl.arange(0, BLOCK_S)
            is_loaded = (s >= first_of_all) & (s < at_last)
            visible = (s[None, :] >= first[:, None]) & (s[None, :] < position[:, None])  # (QUERIES, BLOCK_S)
            running_max, total, o1, o2 = _attend_to_block(
                q1, q2, key_rows, value_rows, key_scales, value_scales, s, is_loaded, visible, half, inside, scale,
                running_max, total, o1, o2, HEAD_DIM, IN_FP8, OVERLAP,
            )  # fmt: skip
        part = (row * N_HEAD + query_head) * CHUNKS + chunk
        tl.store(maxima + part, running_max, is_query)
        tl.store(totals + part, total, is_query)
        out = sums + part[:, None] * HEAD_DIM + half[None, :]
        is_out = is_query[:, None] & inside[None, :]
        tl.store(out, o1, is_out)
        tl.store(out + HEAD_DIM // 2, o2, is_out)


@triton.jit(do_not_specialize=["columns", "capacity"])
def combine_kernel(
    row_ints, maxima, totals, sums, y, columns, capacity, window,
    N_HEAD: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Add up the chunks that a row sees: program (row, query head).

    CHUNKS depends on the model's context alone, so the order of the sums does not depend on capacity or batch; chunks that
    are not seen count as exact zeros, whatever their memory holds.
    """
    start_next_kernel(OVERLAP)
    wait_for_previous_kernel(OVERLAP)
    row, head = tl.program_id(0), tl.program_id(1)
    position = tl.minimum(tl.load(row_ints + LENGTH * columns + row), capacity - 1)
    first = tl.where(window > 0, tl.maximum(position + 1 - window, 0), 0)
    chunk, channel = tl.arange(0, CHUNKS), tl.arange(0, BLOCK_D)
    is_seen = (chunk == 0) | ((chunk * CHUNK < position) & ((chunk + 1) * CHUNK > first))
    part = (row * N_HEAD + head) * CHUNKS + chunk
    peaks = tl.load(maxima + part, is_seen, float("-inf"))
    weights = tl.exp(peaks - tl.max(peaks, 0))
    total = tl.sum(weights * tl.load(totals + part, is_seen, 0.0), 0)
    is_channel = channel < HEAD_DIM
    chunk_sums = tl.load(
        sums + part[:, None] * HEAD_DIM + channel[None, :], is_seen[:, None] & is_channel[None, :], 0.0
    )
    out = tl.sum(weights[:, None] * chunk_sums, 0) / total
    tl.store(y + (row * N_HEAD + head) * HEAD_DIM + channel, out.to(y.dtype.element_ty), is_channel)


@triton.jit
def _load_new_tokens(
    qkv, cos, sin, row, query_head, kv_head, position, is_query, half, inside, eps,
    N_HEAD: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    ROTATED: tl.constexpr, NORMED_HEADS: tl.constexpr,
):  # fmt: skip
    """Load the halves of each query, and of its own key and value: (QUERIES, HALF), in float32, normalized and rotated."""
    heads = row * (N_HEAD + 2 * KV_HEADS)
    q1, q2 = _load_halves(qkv, heads + query_head, is_query, half, inside, HEAD_DIM)
    k1, k2 = _load_halves(qkv, heads + N_HEAD + kv_head, is_query, half, inside, HEAD_DIM)
    v1, v2 = _load_halves(qkv, heads + N_HEAD + KV_HEADS + kv_head, is_query, half, inside, HEAD_DIM)
    if NORMED_HEADS:
        q1, q2 = _norm_heads(q1, q2, eps, HEAD_DIM)
        k1, k2 = _norm_heads(k1, k2, eps, HEAD_DIM)
    if ROTATED:
        angle = position[:, None] * (HEAD_DIM // 2) + half[None, :]
        valid = is_query[:, None] & inside[None, :]
        cosine, sine = tl.load(cos + angle, valid, 0.0), tl.load(sin + angle, valid, 0.0)
        q1, q2 = _rotate(q1, q2, cosine, sine)
        k1, k2 = _rotate(k1, k2, cosine, sine)
    return q1, q2, k1, k2, v1, v2


@triton.jit
def _store_in_fp8(first, second, rows, scales, position, is_stored, half, inside, HEAD_DIM: tl.constexpr):
    """Store the halves of vectors (N, HALF) of a head at positions (N,), where `is_stored`; return them rounded, in float32."""
    first8, second8, exponents = round_vectors(first, second)
    at = position[:, None] * HEAD_DIM + half[None, :]
    is_new = is_stored[:, None] & inside[None, :]
    tl.store(rows + at, first8, is_new)
    tl.store(rows + at + HEAD_DIM // 2, second8, is_new)
    tl.store(scales + position, exponents.to(tl.uint8), is_stored)
    scale = power_of_two(exponents)[:, None]
    return first8.to(tl.float32) * scale, second8.to(tl.float32) * scale


@triton.jit
def _attend_to_block(
    q1, q2, key_rows, value_rows, key_scales, value_scales, s, is_loaded, visible, half, inside, scale,
    running_max, total, o1, o2, HEAD_DIM: tl.constexpr, IN_FP8: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Continue the softmax and its two halves of output with the keys at `s` (BLOCK_S,), as far as they are visible.

    `visible` is (1 or QUERIES, BLOCK_S); `is_loaded` (BLOCK_S,) says which keys any query sees.
    """
    key_at = half[:, None] + s[None, :] * HEAD_DIM  # (HALF, BLOCK_S)
    value_at = s[:, None] * HEAD_DIM + half[None, :]  # (BLOCK_S, HALF)
    is_key, is_value = inside[:, None] & is_loaded[None, :], is_loaded[:, None] & inside[None, :]
    # All loads come first: one latency instead of four where the loop is not pipelined.
    key1, key2 = tl.load(key_rows + key_at, is_key, 0.0), tl.load(key_rows + key_at + HEAD_DIM // 2, is_key, 0.0)
    value1 = tl.load(value_rows + value_at, is_value, 0.0)
    value2 = tl.load(value_rows + value_at + HEAD_DIM // 2, is_value, 0.0)
    BY_ASSEMBLY: tl.constexpr = OVERLAP and IN_FP8
    scores = tl.dot(q1, convert(key1, q1, BY_ASSEMBLY, True), input_precision="ieee")
    scores = tl.dot(q2, convert(key2, q2, BY_ASSEMBLY, True), scores, input_precision="ieee")
    if IN_FP8:
        scores *= power_of_two(tl.load(key_scales + s, is_loaded, 0))[None, :]
    scores = tl.where(visible, scores * scale, float("-inf"))
    new_max = tl.maximum(running_max, tl.max(scores, 1))
    weights = tl.exp(scores - new_max[:, None])
    rescale = tl.exp(running_max - new_max)
    total = total * rescale + tl.sum(weights, 1)
    weights = weights.to(q1.dtype)
    if IN_FP8:
        weights = (weights.to(tl.float32) * power_of_two(tl.load(value_scales + s, is_loaded, 0))[None, :]).to(q1.dtype)
    o1 = tl.dot(weights, convert(value1, q1, BY_ASSEMBLY, False), o1 * rescale[:, None], input_precision="ieee")
    o2 = tl.dot(weights, convert(value2, q1, BY_ASSEMBLY, False), o2 * rescale[:, None], input_precision="ieee")
    return new_max, total, o1, o2


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
