"""Handle running out of memory during generation: fewer sequences at a time, the same texts.

Noise depends on a sequence's position only, so a sequence that waits and is prefilled again loses nothing.
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

    Raises:
        GenerationError: memory runs out with a single sequence.
    """

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
        count = len(self._active) + len(prefilling)
        if count == 1 or (not groups and not self._active):
            raise _out_of_memory()
        self._prefilling = None
        if not count:  # all were cancelled
            return
        self._max_active = count // 2
        self._waiting.extendleft(reversed(prefilling))
        while len(self._active) > self._max_active:
            self._preempt(self._active[-1])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warn_of_smaller_batch("sequences", count, self._max_active)


def warn_of_smaller_batch(what: str, count: int, smaller: int) -> None:
    """Log that memory ran out and that generation continues with a smaller batch."""
    _logger.warning(f"out of memory with {count} {what} at a time; continuing with {smaller} (same texts)")


def _out_of_memory() -> GenerationError:
    return GenerationFailedError("out of memory with a single sequence; use a smaller model or --device cpu")
