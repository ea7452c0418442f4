"""Handle running out of memory during generation: fewer sequences at a time, the same texts.

Noise depends on a sequence's position only, so a sequence that waits and is prefilled again loses nothing.

Memory may be short for a while only: during long prompts, or beside another program. So the number of sequences grows
again, by one whenever as many have ended as may be active. It halves quickly and grows slowly, as TCP's window does, so
that where memory stays short it seldom runs out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch

from glassgpt.device import halve_until_it_fits, unless_out_of_memory
from glassgpt.errors import GenerationError, GenerationFailedError
from glassgpt.generation.engine.interfaces import Decoder, DecoderFactory
from glassgpt.generation.engine.scheduler import Scheduler
from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.model.transformer import LanguageModel

_logger = logging.getLogger(__name__)


def build_decoder(factory: DecoderFactory, model: LanguageModel, vocab_size: int, slots: int, capacity: int) -> Decoder:
    """Return a decoder with `slots` slots, or with as many as fit into memory.

    Raises:
        GenerationError: not even one slot fits.
    """
    built = halve_until_it_fits(lambda n_slots: factory(model, vocab_size, n_slots, capacity), slots)
    if built is None:
        raise _out_of_memory()
    decoder, fitting = built
    if fitting < slots:
        warn_of_smaller_batch("sequences", slots, fitting)
    return decoder


class ShrinkingScheduler(Scheduler):
    """A scheduler that halves the number of active sequences each time memory runs out; the others wait.

    Args:
        model, decoder, max_prefill_tokens: see `Scheduler`.

    Raises:
        GenerationError: memory runs out with a single sequence, also after the decoder has freed what it can.
    """

    def __init__(self, model: LanguageModel, decoder: Decoder, max_prefill_tokens: int = 1) -> None:
        super().__init__(model, decoder, max_prefill_tokens)
        self._n_ended = 0  # since the number of active sequences has changed
        self._tried_alone: SequenceState | None = None

    def finish(self, sequence: SequenceState) -> None:
        """See `Scheduler`; allow one more active sequence once as many have ended as may be active."""
        if sequence in self._active and self._max_active < self._decoder.slots:
            self._n_ended += 1
            if self._n_ended >= self._max_active:
                self._max_active, self._n_ended = self._max_active + 1, 0
        super().finish(sequence)

    def _forward(self) -> Iterable[tuple[SequenceState, int]]:
        results = unless_out_of_memory(super()._forward)
        if results is None:
            self._shrink()
            return ()
        return results

    def _shrink(self) -> None:
        groups = self._prefilling.groups if self._prefilling else []
        sequences = [sequence for group in groups for sequence in group if not sequence.is_finished]
        # Some are active if memory ran out while they were moved into their slots.
        prefilling = [sequence for sequence in sequences if sequence not in self._active]
        affected = [*self._active, *prefilling]
        if affected == [self._tried_alone] or (not groups and not self._active):
            raise _out_of_memory()
        self._prefilling = None
        self._waiting.extendleft(reversed(prefilling))
        if len(affected) == 1:  # it gets another try with what the decoder frees
            self._tried_alone = affected[0]
        elif affected:  # else all were cancelled
            self._max_active, self._n_ended = len(affected) // 2, 0
            while len(self._active) > self._max_active:
                self._preempt(self._active[-1])
            warn_of_smaller_batch("sequences", len(affected), self._max_active)
        self._free_memory()

    def _free_memory(self) -> None:
        self._decoder.free_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def warn_of_smaller_batch(what: str, count: int, smaller: int) -> None:
    """Log that memory ran out and that generation continues with a smaller batch."""
    _logger.warning(f"out of memory with {count} {what} at a time; continuing with {smaller} (same texts)")


def _out_of_memory() -> GenerationError:
    return GenerationFailedError("out of memory with a single sequence; use a smaller model or --device cpu")
