"""Prompt lookup inside CUDA graphs: several rounds of proposing, verifying and accepting tokens per launch.

A round costs hardly more than a step of `GraphDecoder`, since the kernels' tiles have 16 rows anyway, and yields one
token or more. A proposed token is accepted if and only if it is the token that the noise of its position selects; the
rows of a round have the same bits as steps of one token, also those of `GraphDecoder`. So the text is the same, token
for token.

The host version is `SpeculativeDecoder` with `PromptLookup`, whose proposals are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from glassgpt.generation.engine.acceptance import AcceptanceStats
from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.generation.gpu.graphs import GraphDecoder, PendingTokens
from glassgpt.generation.gpu.kernels.common import NO_TOKEN
from glassgpt.generation.gpu.lookup import LookupState
from glassgpt.generation.gpu.row_step import RowStep, max_width
from glassgpt.generation.gpu.sampler import SamplingLimits
from glassgpt.generation.gpu.shapes import graph_batch_size
from glassgpt.model.fp8_cache import CacheSlots
from glassgpt.model.transformer import LanguageModel

ROUNDS_PER_LAUNCH = 4
"""Fewer than `STEPS_PER_LAUNCH`, because a round yields more tokens."""
MAX_ROWS, MAX_SLOTS = 64, 8
"""Most rows of a round with proposals, and most sequences: at 8, greedy texts were twice as fast; at 64, all were slower."""


@dataclass(frozen=True)
class PendingRounds(PendingTokens):
    """Tokens of a launch of several rounds: (rounds, width + 1, M), laid out as by `LookupState.accept`.

    Attributes:
        stats: counts the proposed and accepted tokens.
    """

    stats: AcceptanceStats

    @property
    def n_expected(self) -> int:
        """Tokens of each sequence, judging by the acceptance so far; at least one per round."""
        return int(self.tokens.size(0) * max(1.0, self.stats.tokens_per_forward))

    def _wait(self) -> Iterable[tuple[SequenceState, int]]:
        for *tokens, n_drafts in self.tokens.tolist():
            for slot, (sequence, n_evictions) in enumerate(self.sequences.items()):
                n_new = 0
                for row in tokens:
                    if row[slot] == NO_TOKEN.value or not self._is_current(sequence, n_evictions):
                        break
                    n_new += 1
                    yield sequence, row[slot]
                if n_new:
                    self.stats.passes += 1
                    self.stats.proposed += n_drafts[slot]
                    self.stats.accepted += n_new - 1


class LookupDecoder(GraphDecoder):
    """A `GraphDecoder` with prompt lookup; it proposes nothing for batches with penalties or of more than 8 sequences.

    Args:
        model: see `GraphDecoder`, as are `vocab_size`, `slots` and `capacity`.
        vocab_size: the tokenizer's.
        slots: number of sequences that fit.
        capacity: tokens that fit into a slot.
        max_draft: most tokens to propose per round.
        stats: counts proposed and accepted tokens.
    """

    _state: LookupState
    _step: RowStep

    def __init__(
        self,
        model: LanguageModel,
        vocab_size: int,
        slots: int,
        capacity: int,
        max_draft: int,
        stats: AcceptanceStats,
    ) -> None:
        self._stats = stats
        self._max_width = min(1 + max_draft, max_width(model.config), MAX_ROWS)
        super().__init__(model, vocab_size, slots, capacity)

    def _build_step(self, model: LanguageModel, cache: CacheSlots) -> RowStep:
        n_slots, device = cache.keys.size(1), cache.keys.device
        n_rows = max(n_slots, min(MAX_ROWS, n_slots * self._max_width))
        self._state = LookupState(n_slots, self._vocab_size, self.capacity, self._max_width, n_rows, device)
        self._row_tokens = torch.zeros(n_rows, dtype=torch.int32, device=device)
        self._output = torch.zeros(ROUNDS_PER_LAUNCH * (n_rows + n_slots), dtype=torch.int32, device=device)
        return RowStep(model, cache, self._state.rows, self._vocab_size)

    def _width(self, size: int, limits: SamplingLimits) -> int:
        """Return the rows of each slot: as many as fit into `MAX_ROWS`. With penalties, a row would need its own counts."""
        if limits.penalties or size > MAX_SLOTS:
            return 1
        return max(1, min(self._max_width, MAX_ROWS // size))

    def _launch(self, sequences: Sequence[SequenceState]) -> PendingTokens:
        size, limits = graph_batch_size(len(sequences)), SamplingLimits.of(sequences, self._vocab_size)
        self._run_graph(size, limits)
        tokens, ready = self._copy_to_host(self._round_outputs(size, self._width(size, limits)))
        return PendingRounds({sequence: sequence.n_evictions for sequence in sequences}, tokens, ready, self._stats)

    def _round_outputs(self, size: int, width: int) -> torch.Tensor:
        """Return the memory of the rounds' outputs: (rounds, width + 1, M)."""
        shape = (ROUNDS_PER_LAUNCH, width + 1, size)
        return self._output[: ROUNDS_PER_LAUNCH * (width + 1) * size].view(shape)

    def _run_steps(self, size: int, limits: SamplingLimits) -> None:
        width = self._width(size, limits)
        self._step.width = width
        for output in self._round_outputs(size, width):
            self._state.propose(size, width)
            self._step(size * width, self._row_tokens, limits)
            self._state.accept(size, width, self._row_tokens, output)

    def _feed(self, size: int) -> None:
        self._step.width = 1
        self._state.propose(size, 1)
        self._step.feed(size)
