"""Draft tokens for speculative decoding: from a small model, or from the sequence's own text.

A draft model samples with the target's noise, so it agrees with the target more often than independent samples would.
Prompt lookup (Saxena 2023) proposes what followed the last few tokens when they occurred before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from glassgpt.errors import GenerationError
from glassgpt.generation.engine.decoding import ChunkedPrefill, group_by_request, pad_right, sample_tokens
from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.model.cache import KVCache
from glassgpt.model.transformer import LanguageModel

MAX_LOOKUP_NGRAM = 3
"""Longest n-gram at the end of a text that is searched for earlier in it; shorter ones are tried if it is not found."""
MAX_CATCH_UP = 2
"""Most tokens of a sequence that a draft model has not processed yet: its last draft token, and the target's next."""

Draft = list[int]


class DraftProposer(Protocol):
    """Proposes the next tokens of sequences. The output does not depend on proposals; good ones save time."""

    def insert(self, slot: int, sequence: SequenceState) -> None:
        """Called when a sequence is put into a slot."""
        ...

    def move(self, source: int, target: int) -> None:
        """Called when a sequence moves to another slot."""
        ...

    def propose(self, sequences: Sequence[SequenceState], max_tokens: Sequence[int]) -> list[Draft]:
        """Return draft tokens for the sequences in slots 0, 1, 2, …: at most `max_tokens` each, possibly none."""
        ...


class PromptLookup:
    """Proposes the tokens that followed an earlier occurrence of the last few tokens in the sequence."""

    def insert(self, slot: int, sequence: SequenceState) -> None:
        """Do nothing: prompt lookup keeps no state."""

    def move(self, source: int, target: int) -> None:
        """Do nothing: prompt lookup keeps no state."""

    def propose(self, sequences: Sequence[SequenceState], max_tokens: Sequence[int]) -> list[Draft]:
        """See `DraftProposer`."""
        return [
            lookup_draft([*sequence.request.prompt, *sequence.output_ids], count)
            for sequence, count in zip(sequences, max_tokens, strict=True)
        ]


def lookup_draft(tokens: Sequence[int], max_tokens: int) -> Draft:
    """Return the tokens that followed an earlier occurrence of the last three tokens, else two, else one; maybe none.

    Of several occurrences, the latest that is followed by `max_tokens` tokens is used, else the earliest, which is
    followed by the most.
    """
    array = np.asarray(tokens)
    for n in range(min(MAX_LOOKUP_NGRAM, len(tokens) - 1), 0, -1):
        ngrams = sliding_window_view(array[:-1], n)  # (occurrences, n)
        followers = (ngrams == array[len(tokens) - n :]).all(axis=1).nonzero()[0] + n
        if followers.size:
            long_enough = followers[followers + max_tokens <= len(tokens)]
            start = int(long_enough[-1] if long_enough.size else followers[0])
            return array[start : start + max_tokens].tolist()
    return []


class DraftModel:
    """Proposes the tokens that a small model samples with the sequence's own options and noise.

    Its cache holds, for each slot, a prefix of the sequence and behind it the draft tokens that the model processed
    itself. Draft tokens that were accepted stay; missing tokens are processed before the next draft. A sequence that
    outgrows the small model's context gets no more drafts.

    Args:
        model: in evaluation mode, with the target's tokenizer.
        vocab_size: the tokenizer's.
        slots: see `Decoder`.
        capacity: see `Decoder`.
        max_tokens: most draft tokens per call.
    """

    def __init__(self, model: LanguageModel, vocab_size: int, slots: int, capacity: int, max_tokens: int) -> None:
        self._model, self._vocab_size = model, vocab_size
        self._device = next(model.parameters()).device
        longest = min(model.config.context_length, capacity + max_tokens + MAX_CATCH_UP)
        self._cache = model.new_cache(slots, longest)
        self._processed_drafts: list[Draft] = [[] for _ in range(slots)]  # at the end of what each slot holds
        self._last_prefill: tuple[list[int], KVCache] | None = None  # samples of one prompt come one after the other

    def insert(self, slot: int, sequence: SequenceState) -> None:
        """See `DraftProposer`."""
        prompt = sequence.visible_ids[:-1]
        self._processed_drafts[slot] = []
        fits = self._fits(sequence) and prompt
        self._cache.copy_slot(slot, self._prefill(prompt) if fits else self._cache, 0, len(prompt) if fits else 0)

    def _fits(self, sequence: SequenceState) -> bool:
        return sequence.n_visible + MAX_CATCH_UP <= self._cache.capacity

    def _prefill(self, prompt: list[int]) -> KVCache:
        if self._last_prefill is None or self._last_prefill[0] != prompt:
            prefill = ChunkedPrefill(self._model, [prompt])
            while not prefill.step():
                pass
            self._last_prefill = prompt, prefill.cache
        return self._last_prefill[1]

    def move(self, source: int, target: int) -> None:
        """See `DraftProposer`."""
        self._cache.copy_slot(target, self._cache, source)
        self._processed_drafts[target] = self._processed_drafts[source]

    def propose(self, sequences: Sequence[SequenceState], max_tokens: Sequence[int]) -> list[Draft]:
        """See `DraftProposer`."""
        drafts: list[Draft] = [[] for _ in sequences]
        fitting = [sequence.n_visible for sequence in sequences if self._fits(sequence)]
        if not fitting:
            return drafts
        space = self._cache.capacity - max(fitting)  # all sequences are padded to the longest one
        limits = [min(count, space) for count in max_tokens]
        logits = self._catch_up(sequences)  # also for sequences without a draft, so that no slot falls behind
        active = [i for i, sequence in enumerate(sequences) if limits[i] > 0 and self._fits(sequence)]
        while active:
            active = self._extend(logits, sequences, drafts, active)
            active = [i for i in active if len(drafts[i]) < limits[i]]
            if active:
                logits = self._process_drafts(drafts, active)
        return drafts

    def _catch_up(self, sequences: Sequence[SequenceState]) -> Tensor:
        """Process the tokens missing from each slot; return the logits after the last one: (B, V)."""
        cache = self._cache.first_slots(len(sequences))
        kept = [
            self._valid_length(i, held, s) for i, (held, s) in enumerate(zip(cache.lengths, sequences, strict=True))
        ]
        cache.truncate(kept)
        missing = [s.visible_ids[held:] if self._fits(s) else [] for held, s in zip(kept, sequences, strict=True)]
        return self._feed(cache, missing)

    def _valid_length(self, slot: int, held: int, sequence: SequenceState) -> int:
        """Return how many of a slot's tokens belong to the sequence; its last token is always processed again."""
        if not self._fits(sequence):
            return 0
        certain = held - len(self._processed_drafts[slot])
        actual = sequence.visible_ids[certain : sequence.n_visible - 1]
        accepted = common_prefix_length(self._processed_drafts[slot], actual)
        self._processed_drafts[slot] = []
        return min(certain + accepted, sequence.n_visible - 1)

    def _process_drafts(self, drafts: Sequence[Draft], active: Sequence[int]) -> Tensor:
        """Process the newest draft token of the active sequences; return the logits after it: (B, V)."""
        cache = self._cache.first_slots(len(drafts))
        newest = [[drafts[i][-1]] if i in active else [] for i in range(len(drafts))]
        logits = self._feed(cache, newest)
        for i, tokens in enumerate(newest):
            self._processed_drafts[i] = [*self._processed_drafts[i], *tokens]
        return logits

    def _feed(self, cache: KVCache, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Process some tokens of each sequence, padded; return the logits after the last of each: (B, V)."""
        lengths = [held + len(new) for held, new in zip(cache.lengths, tokens, strict=True)]
        features = self._model.features(pad_right(tokens, self._device), cache)  # (B, T, C)
        cache.truncate(lengths)
        last = torch.tensor([max(len(new), 1) - 1 for new in tokens], device=self._device)
        features = features[torch.arange(len(tokens), device=self._device), last]  # (B, C)
        return self._model.head(features[:, None])[:, 0, : self._vocab_size].float().cpu()

    def _extend(
        self, logits: Tensor, sequences: Sequence[SequenceState], drafts: list[Draft], active: Sequence[int]
    ) -> list[int]:
        """Add a draft token to the active sequences; return the indices of those that may get another one."""
        extended = [with_output(sequences[i], drafts[i]) for i in active]
        still_active: list[int] = []
        for members in group_by_request(extended):
            indices = [active[at] for at in members]
            try:
                tokens = sample_tokens(logits[indices], [extended[at] for at in members])
            except GenerationError:
                # The draft may be a text that the options forbid, or the draft model may be damaged. Giving up the
                # draft only costs time; errors of the target itself are raised when it decodes.
                continue
            for i, token in zip(indices, tokens, strict=True):
                drafts[i].append(token)
                if not ends_sequence(sequences[i], token):
                    still_active.append(i)
        return still_active


def with_output(sequence: SequenceState, tokens: Sequence[int]) -> SequenceState:
    """Return a copy of the sequence with these tokens appended to its output."""
    return dataclasses.replace(sequence, output_ids=[*sequence.output_ids, *tokens])


def ends_sequence(sequence: SequenceState, token: int) -> bool:
    """Return whether a token ends a sequence: end-of-text or a stop token."""
    return token == sequence.request.end_of_text or token in sequence.request.options.stop_tokens


def common_prefix_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many leading tokens two lists have in common."""
    pairs = zip(left, right, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
