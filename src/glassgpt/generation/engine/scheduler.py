"""Continuous batching: a sequence that ends makes space for a waiting one (Yu et al. 2022).

Prompts are prefilled between decoding steps, a chunk at a time, so that a long prompt does not hold up the sequences
that are being decoded. Where several prompts wait, decoding waits for as many prefills as the decoder says. Sequences
with the same prompt share its prefill.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from glassgpt.generation.engine.interfaces import Decoder, Prefill
from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.model.transformer import LanguageModel


@dataclass
class PrefillBatch:
    """A batch of prompts that are prefilled together.

    Attributes:
        groups: for each prompt, the sequences that start from it.
        start: starts the prefill; None if there is nothing to process because every prompt is a single token.
        prefill: None before it is started.
    """

    groups: list[list[SequenceState]]
    start: Callable[[], Prefill] | None
    prefill: Prefill | None = None

    def step(self) -> bool:
        """Process the next part; return True if nothing is left."""
        if self.start is None:
            return True
        self.prefill = self.prefill or self.start()
        return self.prefill.step()


class Scheduler:
    """Decides which sequences are prefilled and decoded, and yields their tokens.

    Args:
        model: in evaluation mode.
        decoder: generates the tokens.
        max_prefill_tokens: prompts are prefilled together up to this many tokens, padding included.
    """

    def __init__(self, model: LanguageModel, decoder: Decoder, max_prefill_tokens: int = 1) -> None:
        self._model, self._decoder = model, decoder
        self._max_prefill_tokens = max_prefill_tokens
        self._max_active = decoder.slots
        self._waiting: deque[SequenceState] = deque()
        self._prefilling: PrefillBatch | None = None
        self._active: list[SequenceState] = []  # sequence i is in the decoder's slot i

    @property
    def is_idle(self) -> bool:
        """True if no sequence is left to generate."""
        return not (self._active or self._waiting or self._prefilling)

    def add(self, sequence: SequenceState) -> None:
        """Queue a sequence."""
        self._waiting.append(sequence)

    def finish(self, sequence: SequenceState) -> None:
        """Remove a sequence that is complete or cancelled, and free its slot."""
        sequence.is_finished = True
        if sequence in self._active:
            self._free_slot(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def step(self) -> Iterator[tuple[SequenceState, int]]:
        """Advance the prefill and decode the active sequences; yield (sequence, token), each sequence's in order."""
        for sequence, token in self._forward():
            if sequence.is_finished:  # by an earlier one of several tokens
                continue
            sequence.output_ids.append(token)
            yield sequence, token
            if not sequence.is_finished and sequence.fit_context(self._decoder.capacity):
                self._preempt(sequence)  # its shortened context has to be prefilled again

    @torch.inference_mode()  # not around `step`, which would enter and leave it for every token
    def _forward(self) -> Iterable[tuple[SequenceState, int]]:
        self._admit()
        return self._decoder.decode(self._active) if self._active else ()

    def _admit(self) -> None:
        """Prefill waiting sequences and move them into free slots, up to the first chunk that does not end its prompt."""
        for _ in range(self._decoder.max_prefills):
            free = self._max_active - len(self._active)
            if self._prefilling is None and self._waiting and free:
                self._prefilling = self._next_batch(free)
            if self._prefilling is None or not self._prefilling.step():
                return
            self._activate(self._prefilling)
            self._prefilling = None

    def _next_batch(self, free: int) -> PrefillBatch:
        """Take as many waiting sequences as there are free slots and as fit into one prefill."""
        groups: dict[tuple[str, tuple[int, ...]], list[SequenceState]] = {}  # by adapter and prompt
        longest = 0
        while self._waiting and free:
            prompt = tuple(self._waiting[0].visible_ids)
            longest = max(longest, len(prompt))
            key = self._waiting[0].request.adapter, prompt
            if groups and key not in groups and longest * (len(groups) + 1) > self._max_prefill_tokens:
                break
            groups.setdefault(key, []).append(self._waiting.popleft())
            free -= 1
        # A prompt's last token is left to the first decoding step, so that all decoding steps are alike.
        if longest == 1:
            return PrefillBatch(list(groups.values()), None)
        # A prompt of one token has nothing to prefill: it is processed as padding, and none of it is used.
        prompts, adapters = [prompt[:-1] or prompt for _, prompt in groups], [adapter for adapter, _ in groups]
        return PrefillBatch(list(groups.values()), partial(self._decoder.prefill, prompts, adapters))

    def _activate(self, batch: PrefillBatch) -> None:
        cache = batch.prefill.cache if batch.prefill else self._model.new_cache(len(batch.groups), 1)
        for source_slot, group in enumerate(batch.groups):
            for sequence in group:
                if not sequence.is_finished:
                    self._decoder.insert(len(self._active), sequence, cache, source_slot)
                    self._active.append(sequence)

    def _free_slot(self, sequence: SequenceState) -> None:
        """Remove a sequence from its slot; the last sequence moves there, so that used slots stay contiguous."""
        slot, last = self._active.index(sequence), len(self._active) - 1
        if slot != last:
            self._decoder.move(last, slot)
            self._active[slot] = self._active[last]
        self._active.pop()
        sequence.n_evictions += 1

    def _preempt(self, sequence: SequenceState) -> None:
        """Preempt an active sequence: free its slot and put it first in the queue."""
        self._free_slot(sequence)
        self._waiting.appendleft(sequence)
