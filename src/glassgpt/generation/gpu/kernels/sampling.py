"""Kernels that sample the next token of each row on the device.

Each docstring says what a kernel computes in the terms of its readable reference implementation: `engine/sampling.py`
and the logits processors.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glassgpt.generation.gpu.kernels.common import (
    FREQUENCY,
    IN_PROMPT,
    LENGTH,
    LOG_MIN_P,
    NAN_TOKEN,
    NOISE_KEY,
    POSITION,
    PRESENCE,
    REPETITION,
    TEMPERATURE,
    TOKEN,
    TOP_K,
    TOP_P,
    start_next_kernel,
    wait_for_previous_kernel,
)


@triton.jit(do_not_specialize=["slots"])
def prepare_logits_kernel(
    logits, slot_floats, counts, maxima, largest, masses, slots, vocab_size, stride,
    GROUPS: tl.constexpr, GROUP: tl.constexpr, WITH_COUNTS: tl.constexpr, WITH_MASS: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Apply penalties and temperature in place; store each group's and each part's largest logit, and each part's mass.

    A part is GROUPS groups of GROUP tokens. Its mass is the sum of exp(logit - largest logit of the part); its largest
    logit is NaN if any of its logits is. Program (row, part).
    """
    start_next_kernel(OVERLAP)
    wait_for_previous_kernel(OVERLAP)
    row, part, n_parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    group = part * GROUPS + tl.arange(0, GROUPS)
    ids = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    inside = ids < vocab_size
    at = row.to(tl.int64) * stride + ids
    x = tl.load(logits + at, inside, float("-inf"))
    if WITH_COUNTS:
        x = _apply_penalties(
            x, tl.load(counts + row.to(tl.int64) * vocab_size + ids, inside, 0), slot_floats, slots, row
        )
    temperature = tl.load(slot_floats + TEMPERATURE * slots + row)
    if (temperature != 0) & (temperature != 1):
        x = x / temperature
        tl.store(logits + at, x, inside)
    elif WITH_COUNTS:
        tl.store(logits + at, x, inside)
    group_max = tl.max(x, 1)
    tl.store(maxima + row * n_parts * GROUPS + group, group_max)
    max_logit = tl.max(group_max, 0)
    has_nan = tl.max((x != x).to(tl.int32)) > 0
    tl.store(largest + row * n_parts + part, tl.where(has_nan, float("nan"), max_logit))
    if WITH_MASS:
        tl.store(masses + row * n_parts + part, tl.sum(tl.where(x > float("-inf"), tl.exp(x - max_logit), 0.0)))


@triton.jit(do_not_specialize=["slots"])
def gumbel_argmax_kernel(
    logits, slot_ints, slot_floats, largest, scores, winners, slots, vocab_size, stride,
    PART: tl.constexpr, PARTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Store each part's token with the largest sum of logit and noise, for rows without top-k and top-p.

    Program (row, part).
    """
    start_next_kernel(OVERLAP)
    wait_for_previous_kernel(OVERLAP)
    row, part, n_parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    parts = tl.arange(0, PARTS)
    max_logit = tl.max(tl.load(largest + row * n_parts + parts, parts < n_parts, float("-inf")), 0)
    ids = part * PART + tl.arange(0, PART)
    x = tl.load(logits + row.to(tl.int64) * stride + ids, ids < vocab_size, float("-inf"))
    keep = (ids < vocab_size) & (x >= max_logit + tl.load(slot_floats + LOG_MIN_P * slots + row))
    score = tl.where(keep, x + _gumbel_noise(slot_ints, slot_floats, slots, row, ids), float("-inf"))
    best = tl.max(score, 0)
    tl.store(scores + row * n_parts + part, best)
    tl.store(winners + row * n_parts + part, tl.min(tl.where(score == best, ids, vocab_size - 1), 0))


@triton.jit(do_not_specialize=["slots"])
def sample_kernel(
    logits, slot_ints, slot_floats, counts, maxima, largest, masses, scores, winners, selected, sampled,
    slots, vocab_size, stride, n_parts, n_groups,
    GROUPS: tl.constexpr, GROUP: tl.constexpr, PARTS: tl.constexpr, FEW: tl.constexpr, MANY: tl.constexpr,
    CHUNK: tl.constexpr, WITH_COUNTS: tl.constexpr, WITH_LIMITS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Sample the next token of each row and update the row's state for the next step. Program (row).

    If a logit is NaN, `NAN_TOKEN` is returned and the state continues with a valid token.

    With top-k or top-p, only the groups with the largest maxima are searched: at least k tokens are as large as the
    k-th largest group maximum, so all tokens that top-k keeps are in groups whose maximum reaches it. If these groups
    are not enough (a flat distribution, a large k), the whole row is searched; the token is the same.
    """
    start_next_kernel(OVERLAP)
    wait_for_previous_kernel(OVERLAP)
    row = tl.program_id(0)
    parts = tl.arange(0, PARTS)
    part_max = tl.load(largest + row * n_parts + parts, parts < n_parts, float("-inf"))
    max_logit = tl.max(part_max, 0)
    has_nan = tl.max((part_max != part_max).to(tl.int32), 0) > 0
    token = row * 0 + vocab_size - 1
    top_k = tl.load(slot_ints + TOP_K * slots + row)
    has_top_k = (top_k > 0) & (top_k < vocab_size)
    has_top_p = tl.load(slot_floats + TOP_P * slots + row) < 1
    if WITH_LIMITS:
        if (has_top_k | has_top_p) & (has_nan == 0):  # a search among NaN may not terminate
            part_masses = tl.load(masses + row * n_parts + parts, parts < n_parts, 0.0)
            mass = tl.sum(part_masses * tl.where(part_max > float("-inf"), tl.exp(part_max - max_logit), 0.0), 0)
            if has_top_k & (top_k <= FEW):
                token, found = _sample_from_groups(
                    logits, slot_ints, slot_floats, maxima, selected, row, max_logit, mass, top_k, slots, vocab_size, stride,
                    n_groups, GROUPS, GROUP, FEW, MANY,
                )  # fmt: skip
            else:
                token, found = _sample_from_groups(
                    logits, slot_ints, slot_floats, maxima, selected, row, max_logit, mass, top_k, slots, vocab_size, stride,
                    n_groups, GROUPS, GROUP, MANY, MANY,
                )  # fmt: skip
            if found == 0:
                token = _sample_from_vocabulary(
                    logits, slot_ints, slot_floats, row, max_logit, mass, slots, vocab_size, stride, CHUNK
                )
    if not (has_top_k | has_top_p):
        score = tl.load(scores + row * n_parts + parts, parts < n_parts, float("-inf"))
        winner = tl.load(winners + row * n_parts + parts, parts < n_parts, vocab_size - 1)
        token = tl.min(tl.where(score == tl.max(score, 0), winner, vocab_size - 1), 0)
    tl.store(sampled + row, tl.where(has_nan, NAN_TOKEN, token))
    tl.store(slot_ints + TOKEN * slots + row, token)
    tl.store(slot_ints + LENGTH * slots + row, tl.load(slot_ints + LENGTH * slots + row) + 1)
    tl.store(slot_ints + POSITION * slots + row, tl.load(slot_ints + POSITION * slots + row) + 1)
    if WITH_COUNTS:
        times = counts + row.to(tl.int64) * vocab_size + token
        tl.store(times, tl.load(times) + 1)


@triton.jit
def _sample_from_groups(
    logits, slot_ints, slot_floats, maxima, selected, row, max_logit, mass, top_k, slots, vocab_size, stride, n_groups,
    GROUPS: tl.constexpr, GROUP: tl.constexpr, MOST: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """Sample from up to MOST groups; return the token, and whether the groups were enough.

    top-p removes tokens from the bottom. So a sample from a superset of the nucleus is the sample if it lies in the
    nucleus; if it does not, no token at or below it (in the order of the logits) does, and the search continues above
    it. That halves the remaining mass each time, on average (as FlashInfer, Chen et al. 2025, which draws fresh noise;
    here each token keeps its own).
    """
    group = tl.arange(0, GROUPS)
    group_max = _sortable_bits(tl.load(maxima + row * n_groups + group, group < n_groups, float("-inf")))
    has_top_k = (top_k > 0) & (top_k < vocab_size)
    threshold = _kth_largest(group_max, tl.where(has_top_k, tl.minimum(top_k, MOST), MOST))
    is_selected = group_max >= threshold
    n_selected = tl.sum(is_selected.to(tl.int32), 0)
    rank = tl.cumsum(is_selected.to(tl.int32), 0) - 1
    tl.store(selected + row * CAPACITY + rank, group, is_selected & (rank < MOST))
    tl.debug_barrier()  # one thread loads what another has stored
    which = tl.arange(0, MOST)
    first = tl.load(selected + row * CAPACITY + which, which < n_selected, 0) * GROUP
    ids = first[:, None] + tl.arange(0, GROUP)[None, :]
    inside = (which < n_selected)[:, None] & (ids < vocab_size)
    x = tl.load(logits + row.to(tl.int64) * stride + ids, inside, float("-inf"))
    order = tl.where(inside, _sortable_bits(x), 0)
    if has_top_k & (top_k <= MOST):
        threshold = _kth_largest(order, top_k)
    keep = inside & (order >= threshold)
    weight = tl.where(keep, tl.exp(x - max_logit), 0.0)
    kept_mass = tl.sum(weight)
    top_p = tl.load(slot_floats + TOP_P * slots + row)
    target_mass = tl.where(top_p < 1, _positive(top_p * tl.where(has_top_k, kept_mass, mass)), float("inf"))
    is_sufficient = (n_selected <= MOST) & (max_logit > float("-inf"))
    is_sufficient &= tl.where(has_top_k, top_k <= MOST, kept_mass >= target_mass)
    token = row * 0
    if is_sufficient:
        keep &= x >= max_logit + tl.load(slot_floats + LOG_MIN_P * slots + row)
        score = tl.where(keep, x + _gumbel_noise(slot_ints, slot_floats, slots, row, ids), float("-inf"))
        token = _argmax_token(score, ids, vocab_size)
        at_token = tl.max(tl.where(keep & (ids == token), x, float("-inf")))
        above = (x > at_token) | ((x == at_token) & (ids < token))
        while tl.sum(tl.where(above, weight, 0.0)) >= target_mass:
            token = _argmax_token(tl.where(above, score, float("-inf")), ids, vocab_size)
            at_token = tl.max(tl.where(keep & (ids == token), x, float("-inf")))
            above = (x > at_token) | ((x == at_token) & (ids < token))
    return token, is_sufficient


@triton.jit
def _positive(mass):
    """Return a positive mass, so that an upward search ends at the largest token, which has no mass above it.

    Rows with a sequence have a positive mass anyway; an empty slot may have one that was never computed.
    """
    return tl.maximum(mass, 1e-30)


@triton.jit
def _argmax_token(score, ids, vocab_size):
    """Return the token with the largest score, the lowest id on a tie."""
    return tl.min(tl.where(score == tl.max(score), ids, vocab_size - 1))


@triton.jit
def _kth_largest(order, k):
    """Return a threshold that exactly k of these integers reach, or more if the k-th largest has ties.

    Built two bits at a time from the highest on, by counting what reaches each candidate, until k do. Three counts are
    packed into one 64-bit sum, since a sum over many threads waits longer than it adds.
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
def _sample_from_vocabulary(
    logits, slot_ints, slot_floats, row, max_logit, mass, slots, vocab_size, stride, CHUNK: tl.constexpr
):
    """Like `_sample_from_groups`, over all tokens in chunks: much slower, but correct for any row."""
    logits_row = logits + row.to(tl.int64) * stride
    top_k = tl.load(slot_ints + TOP_K * slots + row)
    has_top_k = (top_k > 0) & (top_k < vocab_size)
    top_p = tl.load(slot_floats + TOP_P * slots + row)
    target_mass = tl.full((), float("inf"), tl.float32)
    if top_p < 1:
        if has_top_k:
            mass = _top_k_mass(logits_row, top_k, max_logit, vocab_size, CHUNK)
        target_mass = _positive(top_p * mass)
    floor = max_logit + tl.load(slot_floats + LOG_MIN_P * slots + row)
    most = tl.where(has_top_k, top_k, vocab_size)
    token = row * 0 + vocab_size
    at_token = tl.full((), float("-inf"), tl.float32)
    count, above = most, target_mass
    is_first = row * 0 + 1
    while (is_first > 0) | (count >= most) | (above >= target_mass):
        token, at_token = _best_above(
            logits_row, slot_ints, slot_floats, slots, row, floor, at_token, token, vocab_size, CHUNK
        )
        count, above = _count_above(logits_row, at_token, token, max_logit, vocab_size, CHUNK)
        is_first = row * 0
    return token


@triton.jit
def _best_above(logits_row, slot_ints, slot_floats, slots, row, floor, last_x, last, vocab_size, CHUNK: tl.constexpr):
    """Return the token with the largest sum of logit and noise, and its logit.

    Only tokens whose logit is at least `floor` and that rank above token `last`, whose logit is `last_x`, are
    candidates. Tokens rank by logit, and by id where logits are equal.
    """
    best = tl.full((CHUNK,), float("-inf"), tl.float32)
    best_x = tl.full((CHUNK,), float("-inf"), tl.float32)
    winner = tl.full((CHUNK,), 0, tl.int32) + vocab_size - 1
    for start in tl.range(0, vocab_size, CHUNK):
        ids = start + tl.arange(0, CHUNK)
        x = tl.load(logits_row + ids, ids < vocab_size, float("-inf"))
        is_candidate = (ids < vocab_size) & (x >= floor) & ((x > last_x) | ((x == last_x) & (ids < last)))
        score = tl.where(is_candidate, x + _gumbel_noise(slot_ints, slot_floats, slots, row, ids), float("-inf"))
        better = score > best
        best = tl.where(better, score, best)
        best_x = tl.where(better, x, best_x)
        winner = tl.where(better, ids, winner)
    token = _argmax_token(best, winner, vocab_size)
    return token, tl.max(tl.where(winner == token, best_x, float("-inf")))


@triton.jit
def _count_above(logits_row, at_token, token, max_logit, vocab_size, CHUNK: tl.constexpr):
    """Return the number and the total mass of the tokens that rank above this one."""
    counts = tl.zeros((CHUNK,), tl.int32)
    masses = tl.zeros((CHUNK,), tl.float32)
    for start in tl.range(0, vocab_size, CHUNK):
        ids = start + tl.arange(0, CHUNK)
        x = tl.load(logits_row + ids, ids < vocab_size, float("-inf"))
        counts += (x > at_token).to(tl.int32)
        masses += tl.where((x > at_token) | ((x == at_token) & (ids < token)), tl.exp(x - max_logit), 0.0)
    return tl.sum(counts), tl.sum(masses)


@triton.jit
def _top_k_mass(logits_row, k, max_logit, vocab_size, CHUNK: tl.constexpr):
    """Return the mass of the k largest logits, ties with the last of them included; see `_kth_largest`."""
    threshold = tl.zeros((), tl.uint32)
    one = tl.full((), 0x80000000, tl.uint32)
    for _ in tl.range(0, 32):
        counts = tl.zeros((CHUNK,), tl.int32)
        for start in tl.range(0, vocab_size, CHUNK):
            ids = start + tl.arange(0, CHUNK)
            x = tl.load(logits_row + ids, ids < vocab_size, float("-inf"))
            counts += ((ids < vocab_size) & (_sortable_bits(x) >= threshold + one)).to(tl.int32)
        threshold += tl.where(tl.sum(counts) >= k, one, 0).to(tl.uint32)
        one = one >> 1
    masses = tl.zeros((CHUNK,), tl.float32)
    for start in tl.range(0, vocab_size, CHUNK):
        ids = start + tl.arange(0, CHUNK)
        x = tl.load(logits_row + ids, ids < vocab_size, float("-inf"))
        masses += tl.where((ids < vocab_size) & (_sortable_bits(x) >= threshold), tl.exp(x - max_logit), 0.0)
    return tl.sum(masses)


@triton.jit
def _sortable_bits(x):
    """Map each float32 to an unsigned integer with the same order."""
    bits = (x + 0.0).to(tl.uint32, bitcast=True)  # -0.0 becomes 0.0, which equals it
    return tl.where(bits >= 0x80000000, bits ^ 0xFFFFFFFF, bits ^ 0x80000000)


@triton.jit
def _apply_penalties(x, seen, slot_floats, slots, row):
    """Apply `apply_repetition_penalty`, `apply_presence_penalty` and `apply_frequency_penalty`."""
    repetition = tl.load(slot_floats + REPETITION * slots + row)
    times = seen & (IN_PROMPT - 1)
    x = tl.where(seen > 0, tl.where(x > 0, x / repetition, x * repetition), x)
    x -= tl.where(times > 0, tl.load(slot_floats + PRESENCE * slots + row), 0.0)
    return x - tl.load(slot_floats + FREQUENCY * slots + row) * times


@triton.jit
def _hash(x):
    """Hash 32-bit integers as `sampling._mix` does."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _gumbel_noise(slot_ints, slot_floats, slots, row, ids):
    """Return `sampling.gumbel_noise` of a row at its position, or 0 if its temperature is 0."""
    position = tl.load(slot_ints + POSITION * slots + row).to(tl.uint32, bitcast=True)
    row_key = _hash(tl.load(slot_ints + NOISE_KEY * slots + row).to(tl.uint32, bitcast=True) ^ position)
    bits = _hash(_hash(ids.to(tl.uint32, bitcast=True)) ^ row_key)
    uniform = ((bits >> 8).to(tl.int32).to(tl.float32) + 0.5) / 16777216.0
    uniform = tl.minimum(uniform, 1.0 - 1.0 / 16777216.0)  # the largest would round to 1, its noise be infinite
    is_greedy = tl.load(slot_floats + TEMPERATURE * slots + row) == 0
    return tl.where(is_greedy, 0.0, -tl.log(-tl.log(uniform)))
