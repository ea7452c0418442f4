"""The kernel that rounds keys and values of prompts into an 8-bit cache; shapes as in `kernels.model`."""

from __future__ import annotations

import triton
import triton.language as tl

from glassgpt.generation.gpu.kernels.common import round_vectors, start_next_kernel, wait_for_previous_kernel


@triton.jit(do_not_specialize=["slots", "capacity", "source_slots", "source_capacity"])
def round_slots_kernel(
    vectors, values, exponents, places, slots, capacity, source_slots, source_capacity,
    KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr, BLOCK_T: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Round the tokens of some slots into others: `Fp8Storage.copy_slots` of keys or values.

    Program (layer and key head, sequence, block of positions). `places` (3, sequences) int32 has each sequence's slot, source
    slot and length.
    """
    start_next_kernel(OVERLAP)
    wait_for_previous_kernel(OVERLAP)
    layer, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    sequence, count = tl.program_id(1), tl.num_programs(1)
    slot = tl.load(places + sequence)
    source_slot, length = tl.load(places + count + sequence), tl.load(places + 2 * count + sequence)
    first = ((layer * slots + slot) * KV_HEADS + head).to(tl.int64) * capacity
    source_first = ((layer * source_slots + source_slot) * KV_HEADS + head).to(tl.int64) * source_capacity
    position, half = tl.program_id(2) * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, HALF)
    is_token = position < length
    inside = is_token[:, None] & (half < HEAD_DIM // 2)[None, :]
    source = vectors + (source_first + position)[:, None] * HEAD_DIM + half[None, :]
    one = tl.load(source, inside, 0.0).to(tl.float32)
    other = tl.load(source + HEAD_DIM // 2, inside, 0.0).to(tl.float32)
    one, other, found = round_vectors(one, other)
    target = values + (first + position)[:, None] * HEAD_DIM + half[None, :]
    tl.store(target, one, inside)
    tl.store(target + HEAD_DIM // 2, other, inside)
    tl.store(exponents + first + position, found.to(tl.uint8), is_token)
