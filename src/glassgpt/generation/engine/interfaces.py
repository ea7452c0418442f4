"""The interface between scheduler and decoder: prefill prompts into a cache, generate tokens for the sequences in its slots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.model.cache import KVCache
from glassgpt.model.transformer import LanguageModel


class Prefill(Protocol):
    """Prompts that are being processed into a separate cache.

    Attributes:
        cache: one slot per prompt, valid once `step` has returned True.
    """

    cache: KVCache

    def step(self) -> bool:
        """Process the next part; return True if it was the last."""
        ...


class Decoder(Protocol):
    """Generates the next tokens of sequences that occupy cache slots 0, 1, 2, …

    Attributes:
        slots: number of sequences that fit.
        capacity: tokens that fit into a slot.
        max_prefills: most prefills between two calls of `decode`, for which the sequences in slots wait.
    """

    slots: int
    capacity: int
    max_prefills: int

    def prefill(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str]) -> Prefill:
        """Start to process prompts, at least one token each, and the adapter of each; see `Request`."""
        ...

    def insert(self, slot: int, sequence: SequenceState, source: KVCache, source_slot: int) -> None:
        """Put a sequence into a slot; `source` holds all its visible tokens but the last."""
        ...

    def move(self, source: int, target: int) -> None:
        """Move a sequence to another slot."""
        ...

    def decode(self, sequences: Sequence[SequenceState]) -> Iterable[tuple[SequenceState, int]]:
        """Yield (sequence, token) pairs for the sequences in slots 0, 1, 2, …, each sequence's tokens in order.

        A sequence may get several tokens from one call, or get them from a later call. After memory ran out in a call, the
        next one continues as if there had been none, also with the first of the sequences only.
        """
        ...

    def free_memory(self) -> None:
        """Free what is kept only to prefill faster; called after memory ran out."""
        ...


DecoderFactory = Callable[[LanguageModel, int, int, int], Decoder]
"""Builds a decoder from a model, the vocabulary size, the number of slots and their capacity."""
