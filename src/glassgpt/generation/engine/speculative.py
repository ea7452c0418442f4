"""Speculative decoding: cheap draft tokens, verified together in one forward pass of the model.

Leviathan et al. 2023 and Chen et al. 2023 accept a draft token with a probability that preserves the model's
distribution. Here noise is a function of (seed, position), so the token that the model samples at each position is
determined before anything is drafted: a draft token is right if it equals that token, and the first wrong one is
replaced by it. The text is therefore the one of plain decoding, token for token, whatever the drafts (except where
rounding decides: a pass over several positions may round differently from passes over one).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from glassgpt.errors import GenerationError
from glassgpt.generation.engine.acceptance import AcceptanceStats
from glassgpt.generation.engine.decoder_selection import has_gpu_kernels
from glassgpt.generation.engine.decoding import ChunkedPrefill, pad_right, sample_tokens
from glassgpt.generation.engine.drafting import (
    Draft,
    DraftModel,
    DraftProposer,
    PromptLookup,
    common_prefix_length,
    ends_sequence,
    with_output,
)
from glassgpt.generation.engine.interfaces import Decoder, Prefill
from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.generation.strategy_options import DRAFT_TOKENS
from glassgpt.model.cache import KVCache
from glassgpt.model.transformer import LanguageModel


@dataclass(frozen=True)
class SpeculativeDecoding:
    """Settings and statistics of speculative decoding; calling it builds the decoder (see `DecoderFactory`).

    Attributes:
        draft: a small model with the same tokenizer, in evaluation mode; None looks drafts up in the text itself.
        tokens: draft tokens per pass of the model.
        stats: counts proposed and accepted tokens.

    Raises:
        GenerationError: `tokens` is below 1.
    """

    draft: LanguageModel | None = None
    tokens: int = DRAFT_TOKENS
    stats: AcceptanceStats = field(default_factory=AcceptanceStats)

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise GenerationError(f"draft_tokens is {self.tokens}; it must be at least 1")

    def __call__(self, model: LanguageModel, vocab_size: int, slots: int, capacity: int) -> Decoder:
        """Build the decoder: a `SpeculativeDecoder`, or for prompt lookup with a GPU's kernels a `LookupDecoder`."""
        if self.draft is None and has_gpu_kernels(model):
            from glassgpt.generation.gpu.lookup_graphs import LookupDecoder

            return LookupDecoder(model, vocab_size, slots, capacity, self.tokens, self.stats)
        return SpeculativeDecoder(model, vocab_size, slots, capacity, self)


class SpeculativeDecoder:
    """A decoder that yields all accepted draft tokens of a forward pass, plus one.

    Args:
        model: in evaluation mode.
        vocab_size: the tokenizer's.
        slots: see `Decoder`.
        capacity: see `Decoder`.
        settings: draft model and number of draft tokens.
    """

    max_prefills = 1

    def __init__(
        self, model: LanguageModel, vocab_size: int, slots: int, capacity: int, settings: SpeculativeDecoding
    ) -> None:
        self._model, self._vocab_size = model, vocab_size
        self.slots, self.capacity = slots, capacity
        self._max_draft, self._stats = settings.tokens, settings.stats
        parameter = next(model.parameters())
        self._device = parameter.device
        cache_capacity = min(model.config.context_length, capacity + self._max_draft)
        self._cache = model.new_cache(slots, cache_capacity)
        draft = settings.draft
        self._proposer: DraftProposer = (
            PromptLookup() if draft is None else DraftModel(draft, vocab_size, slots, capacity, self._max_draft)
        )

    def prefill(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str]) -> Prefill:
        """See `Decoder`."""
        return ChunkedPrefill(self._model, prompts)

    def insert(self, slot: int, sequence: SequenceState, source: KVCache, source_slot: int) -> None:
        """See `Decoder`."""
        self._cache.copy_slot(slot, source, source_slot, sequence.n_visible - 1)
        self._proposer.insert(slot, sequence)

    def move(self, source: int, target: int) -> None:
        """See `Decoder`."""
        self._cache.copy_slot(target, self._cache, source)
        self._proposer.move(source, target)

    def decode(self, sequences: Sequence[SequenceState]) -> list[tuple[SequenceState, int]]:
        """See `Decoder`: draft, verify all drafts in one forward pass, keep the tokens that the model samples itself."""
        drafts = self._proposer.propose(sequences, self._draft_limits(sequences))
        cache = self._cache.first_slots(len(sequences))
        # Slots are longer than this only if memory ran out after the last pass of the model.
        cache.truncate([sequence.n_visible - 1 for sequence in sequences])
        inputs = [[sequence.last_token, *draft] for sequence, draft in zip(sequences, drafts, strict=True)]
        logits = self._model(pad_right(inputs, self._device), cache)[..., : self._vocab_size]  # (B, T, V)
        outputs = self._verify(logits.float().cpu(), sequences, drafts)
        cache.truncate([s.n_visible - 1 + len(tokens) for s, tokens in zip(sequences, outputs, strict=True)])
        return [(sequence, token) for sequence, tokens in zip(sequences, outputs, strict=True) for token in tokens]

    def free_memory(self) -> None:
        """See `Decoder`; nothing is kept."""

    def _draft_limits(self, sequences: Sequence[SequenceState]) -> list[int]:
        """Return the maximum number of draft tokens for each sequence.

        One less than the sequence may still get, because a pass yields one token more than it accepts; and, because
        all sequences are padded to the longest one, no more than that one has space for in the context.
        """
        space = min(self._max_draft, self._cache.capacity - max(sequence.n_visible for sequence in sequences))
        remaining = [
            min(s.request.max_new_tokens - len(s.output_ids), self.capacity - s.n_visible + 1) - 1 for s in sequences
        ]
        return [max(0, min(space, count)) for count in remaining]

    def _verify(self, logits: Tensor, sequences: Sequence[SequenceState], drafts: Sequence[Draft]) -> list[list[int]]:
        """Return the tokens that each sequence samples: its accepted draft tokens and the token after them."""
        outputs: list[list[int]] = [[] for _ in sequences]
        active = list(range(len(sequences)))
        at = 0
        while active:
            # Histories hold accepted tokens only, so that processors see what they would see without drafts.
            tokens = sample_tokens(logits[active, at], [with_output(sequences[i], outputs[i]) for i in active])
            for i, token in zip(active, tokens, strict=True):
                outputs[i].append(token)
            active = [
                i
                for i, token in zip(active, tokens, strict=True)
                if self._continues(sequences[i], drafts[i], at, token)
            ]
            at += 1
        self._count(drafts, outputs)
        return outputs

    def _continues(self, sequence: SequenceState, draft: Draft, at: int, token: int) -> bool:
        return at < len(draft) and draft[at] == token and not ends_sequence(sequence, token)

    def _count(self, drafts: Iterable[Draft], outputs: Iterable[list[int]]) -> None:
        for draft, tokens in zip(drafts, outputs, strict=True):
            self._stats.proposed += len(draft)
            self._stats.accepted += common_prefix_length(draft, tokens)
            self._stats.passes += 1
