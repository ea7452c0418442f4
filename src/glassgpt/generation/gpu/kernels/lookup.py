"""Kernels of prompt lookup (Saxena 2023): propose the tokens that followed earlier, and accept those that were right.

Between the two, a step processes `width` rows of each slot: its newest token and the proposed ones, at successive
positions. Each slot's text is kept on the device: the tokens in its cache, then its newest, then what is proposed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glassgpt.generation.gpu.kernels.common import (
    LENGTH,
    NO_TOKEN,
    POSITION,
    TOKEN,
    start_next_kernel,
    wait_for_previous_kernel,
)

SCALE: tl.constexpr = tl.constexpr(1 << 26)
"""More than any text has tokens."""


@triton.jit(do_not_specialize=["slots", "rows", "width", "stride"])
def propose_kernel(
    slot_ints, slot_floats, row_ints, row_floats, text, n_drafts, slots, rows, width, stride,
    N_INTS: tl.constexpr, N_FLOATS: tl.constexpr, BLOCK: tl.constexpr, WIDTHS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Propose up to width - 1 tokens as `lookup_draft` does, and set the state of the slot's rows. Program (slot).

    A place is ranked by how many of the last three tokens it follows, then by whether enough tokens come after it; of
    several with enough the latest wins, otherwise the earliest. Rows without a token get the newest one again; what is
    computed for them is not used.
    """
    start_next_kernel(OVERLAP)
    wait_for_previous_kernel(OVERLAP)
    slot = tl.program_id(0)
    length = tl.load(slot_ints + LENGTH * slots + slot)
    newest = tl.load(slot_ints + TOKEN * slots + slot)
    text_row = text + slot.to(tl.int64) * stride
    count, n_wanted = length + 1, width - 1
    found = slot * 0
    if n_wanted > 0:
        second = tl.load(text_row + length - 1, length >= 1, -1)
        third = tl.load(text_row + length - 2, length >= 2, -1)
        best = tl.zeros((BLOCK,), tl.int32)
        for start in tl.range(1, count, BLOCK):
            at = start + tl.arange(0, BLOCK)
            one = (at < count) & (tl.load(text_row + at - 1, at < count, -1) == newest)
            two = one & (at >= 2) & (tl.load(text_row + at - 2, one & (at >= 2), -1) == second)
            three = two & (at >= 3) & (tl.load(text_row + at - 3, two & (at >= 3), -1) == third)
            n_equal = one.to(tl.int32) + two.to(tl.int32) + three.to(tl.int32)
            is_enough = at + n_wanted <= count
            rank = (2 * n_equal + is_enough.to(tl.int32)) * SCALE + tl.where(is_enough, at, SCALE - 1 - at)
            best = tl.maximum(best, tl.where(n_equal > 0, rank, 0))
        found = tl.max(best, 0)
    place = tl.where(found // SCALE % 2 == 1, found % SCALE, SCALE - 1 - found % SCALE)
    n_draft = tl.where(found > 0, tl.minimum(n_wanted, count - place), 0)
    tl.store(n_drafts + slot, n_draft)
    nth = tl.arange(0, WIDTHS)
    is_row, is_draft = nth < width, (nth > 0) & (nth <= n_draft)
    token = tl.where(is_draft, tl.load(text_row + place + nth - 1, is_draft, 0), newest)
    tl.store(text_row + length + nth, token, is_draft)
    column = slot * width + nth
    tl.store(row_ints + TOKEN * rows + column, token, is_row)
    tl.store(row_ints + LENGTH * rows + column, length + nth, is_row)
    tl.store(row_ints + POSITION * rows + column, tl.load(slot_ints + POSITION * slots + slot) + nth, is_row)
    for which in tl.static_range(POSITION + 1, N_INTS):  # the noise's key, and top-k
        tl.store(row_ints + which * rows + column, tl.load(slot_ints + which * slots + slot) + nth * 0, is_row)
    for which in tl.static_range(N_FLOATS):
        tl.store(row_floats + which * rows + column, tl.load(slot_floats + which * slots + slot) + nth * 0.0, is_row)


@triton.jit(do_not_specialize=["slots", "rows", "width", "stride", "capacity", "n_slots"])
def accept_kernel(
    slot_ints, row_ints, text, n_drafts, sampled, output, slots, rows, width, stride, capacity, n_slots,
    WIDTHS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Accept the proposed tokens up to the first that the model did not sample itself, and that token. Program (slot).

    Writes output[nth, slot], `NO_TOKEN` behind the accepted tokens, and output[width, slot]: the number of proposals.
    """
    start_next_kernel(OVERLAP)
    wait_for_previous_kernel(OVERLAP)
    slot = tl.program_id(0)
    nth = tl.arange(0, WIDTHS)
    length = tl.load(slot_ints + LENGTH * slots + slot)
    n_draft = tl.load(n_drafts + slot)
    text_row = text + slot.to(tl.int64) * stride
    token = tl.load(sampled + slot * width + nth, nth < width, NO_TOKEN)
    is_right = (nth < n_draft) & (tl.load(text_row + length + 1 + nth, nth < n_draft, NO_TOKEN) == token)
    n_right = tl.min(tl.where(is_right, WIDTHS, nth), 0)
    tl.store(output + nth * n_slots + slot, tl.where(nth <= n_right, token, NO_TOKEN), nth < width)
    tl.store(output + width * n_slots + slot, n_draft)
    # Not from `sampled`, which may contain NAN_TOKEN: what is fed must be a token.
    newest = tl.load(row_ints + TOKEN * rows + slot * width + n_right)
    tl.store(text_row + length + 1 + n_right, newest)
    tl.store(slot_ints + TOKEN * slots + slot, newest)
    # A sequence that ran past its end must not run past its text.
    tl.store(slot_ints + LENGTH * slots + slot, tl.minimum(length + 1 + n_right, capacity))
    position = tl.load(slot_ints + POSITION * slots + slot)
    tl.store(slot_ints + POSITION * slots + slot, position + 1 + n_right)
