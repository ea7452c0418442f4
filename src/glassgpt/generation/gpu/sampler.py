"""Sampling on the device: launches of the kernels in `kernels/sampling.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.generation.gpu.kernels.sampling import gumbel_argmax_kernel, prepare_logits_kernel, sample_kernel
from glassgpt.generation.gpu.launch import launcher
from glassgpt.generation.gpu.slots import StepState, has_penalties

PART, GROUP = 1024, 16
"""Tokens per program of the first kernels, and tokens that share a maximum."""
TOKENS_PER_WARP = 256
FEW_GROUPS, MANY_GROUPS = 64, 256
"""Groups that are searched for a row with top-k or top-p: the few if its top-k is at most that number."""
SEARCH_WARPS = 8
SEARCH_CHUNK = 8192
"""Tokens searched at once if these groups are not enough."""


@dataclass(frozen=True)
class SamplingLimits:
    """The work of the sampling kernels for a batch; features that no sequence uses cost nothing.

    Attributes:
        penalties: whether a sequence has penalties.
        top_k: whether a sequence has top-k.
        top_p: whether a sequence has top-p.
        none: whether a sequence has neither top-k nor top-p.
    """

    penalties: bool
    top_k: bool
    top_p: bool
    none: bool

    @classmethod
    def of(cls, sequences: Sequence[SequenceState], vocab_size: int) -> SamplingLimits:
        """Return the limits of a batch; a top-k of the whole vocabulary or more is no limit."""
        limits = [(0 < o.top_k < vocab_size, o.top_p < 1) for o in (s.request.options for s in sequences)]
        return cls(
            any(has_penalties(sequence) for sequence in sequences),
            any(has_top_k for has_top_k, _ in limits),
            any(has_top_p for _, has_top_p in limits),
            (False, False) in limits,
        )


class FusedSampler:
    """Penalties, temperature, top-k, top-p, min-p and Gumbel noise without the host; see `kernels.sampling`.

    Args:
        state: of the slots.
        vocab_size: the tokenizer's.
        logits: (S, V) float32; modified in place.
    """

    def __init__(self, state: StepState, vocab_size: int, logits: Tensor) -> None:
        self._state, self._vocab_size, self._logits = state, vocab_size, logits
        slots, device = logits.size(0), logits.device
        self._n_parts = triton.cdiv(vocab_size, PART)
        self._n_groups = self._n_parts * PART // GROUP
        self._maxima = torch.empty(slots * self._n_groups, device=device)
        self._largest, self._masses, self._scores = torch.empty(3, slots * self._n_parts, device=device)
        # Zeros, because an empty slot may use what no sequence of the batch uses: the kernels then read a stale winner.
        self._winners = torch.zeros(slots * self._n_parts, dtype=torch.int32, device=device)
        self._selected = torch.empty(slots * self._groups(MANY_GROUPS), dtype=torch.int32, device=device)

    def __call__(self, rows: int, sampled: Tensor, limits: SamplingLimits) -> None:
        """Sample a token for each of the first rows from their logits; see `FusedStep`."""
        state, logits = self._state, self._logits
        sizes = (state.ints.size(1), self._vocab_size, logits.stride(0))
        parts, has_limits = triton.next_power_of_2(self._n_parts), limits.top_k or limits.top_p
        launcher(prepare_logits_kernel, rows, (rows, self._n_parts), max(1, PART // TOKENS_PER_WARP))(
            logits, state.floats, state.counts, self._maxima, self._largest, self._masses, *sizes,
            GROUPS=PART // GROUP, GROUP=GROUP, WITH_COUNTS=limits.penalties, WITH_MASS=limits.top_p,
        )  # fmt: skip
        if limits.none:
            launcher(gumbel_argmax_kernel, rows, (rows, self._n_parts), max(1, PART // TOKENS_PER_WARP))(
                logits, state.ints, state.floats, self._largest, self._scores, self._winners, *sizes,
                PART=PART, PARTS=parts,
            )  # fmt: skip
        launcher(sample_kernel, rows, (rows,), SEARCH_WARPS if has_limits else 1)(
            logits, state.ints, state.floats, state.counts, self._maxima, self._largest, self._masses,
            self._scores, self._winners, self._selected, sampled, *sizes, self._n_parts, self._n_groups,
            GROUPS=triton.next_power_of_2(self._n_groups), GROUP=GROUP, PARTS=parts,
            FEW=self._groups(FEW_GROUPS), MANY=self._groups(MANY_GROUPS), CHUNK=SEARCH_CHUNK,
            WITH_COUNTS=limits.penalties, WITH_LIMITS=has_limits,
        )  # fmt: skip

    def _groups(self, limit: int) -> int:
        return min(limit, triton.next_power_of_2(self._n_groups))
