"""The state of each cache slot on the device: the state that kernels need besides keys and values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from glassgpt.generation.engine.sampling import sequence_keys
from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.generation.gpu.kernels.common import IN_PROMPT, LENGTH, POSITION, TOKEN
from glassgpt.generation.options import GenerationOptions

N_INTS, N_FLOATS = 5, 6


class StepState(Protocol):
    """State that a step reads and changes: a column of `ints` and `floats` and a row of `counts` for each row of the step."""

    ints: Tensor
    floats: Tensor
    counts: Tensor


class SlotState:
    """Newest token, length, position, noise key, sampling options and token counts of each slot, on the device.

    Args:
        slots: number of slots.
        vocab_size: the tokenizer's.
        device: where the kernels run.
    """

    def __init__(self, slots: int, vocab_size: int, device: torch.device) -> None:
        self.ints = torch.zeros(N_INTS, slots, dtype=torch.int32, device=device)
        # A graph also samples for slots that never had a sequence: with options that change nothing.
        neutral = torch.tensor(_floats_of(GenerationOptions(temperature=0.0, top_p=1.0)), device=device)
        self.floats = neutral[:, None].repeat(1, slots)
        self.counts = torch.zeros(slots, vocab_size, dtype=torch.int32, device=device)  # for penalties
        self._vocab_size = vocab_size

    def insert(self, slots: Sequence[int], sequences: Sequence[SequenceState]) -> None:
        """Set the state of slots for new sequences, whose newest tokens are fed first."""
        device = self.ints.device
        index = torch.tensor(list(slots), device=device)
        keys = sequence_keys([s.request.seed for s in sequences], [s.index for s in sequences]).tolist()
        ints = [
            [s.last_token, s.n_visible - 1, s.position, _as_int32(key), s.request.options.top_k]
            for s, key in zip(sequences, keys, strict=True)
        ]
        self.ints[:, index] = torch.tensor(ints, dtype=torch.int32).T.to(device)
        self.floats[:, index] = torch.tensor([_floats_of(s.request.options) for s in sequences]).T.to(device)
        for slot, sequence in zip(slots, sequences, strict=True):
            if has_penalties(sequence):
                self._count(slot, sequence)

    def _count(self, slot: int, sequence: SequenceState) -> None:
        output = torch.tensor(sequence.output_ids, dtype=torch.long)
        counts = torch.bincount(output, minlength=self._vocab_size)
        counts[torch.tensor(sequence.request.prompt)] += IN_PROMPT.value
        self.counts[slot] = counts.int().to(self.counts.device, non_blocking=True)

    def move(self, source: int, target: int) -> None:
        """Copy a slot's state to another slot."""
        for state in (self.ints.T, self.floats.T, self.counts):
            state[target] = state[source]

    def append(self, tokens: Sequence[int]) -> None:
        """Append tokens to the first slots that were sampled on the host instead of by the sampling kernel."""
        rows = len(tokens)
        new = torch.tensor(tokens, dtype=torch.int32).to(self.ints.device, non_blocking=True)
        self.ints[TOKEN.value, :rows] = new
        self.ints[LENGTH.value, :rows] += 1
        self.ints[POSITION.value, :rows] += 1
        self.counts[torch.arange(rows, device=new.device), new.long()] += 1

    def snapshot(self) -> tuple[Tensor, Tensor]:
        """Return a copy of all state that a step changes."""
        return self.ints.clone(), self.counts.clone()

    def restore(self, snapshot: tuple[Tensor, Tensor]) -> None:
        """Undo the steps since a snapshot; what they wrote into the cache is beyond the slots' lengths."""
        self.ints.copy_(snapshot[0])
        self.counts.copy_(snapshot[1])


def _floats_of(options: GenerationOptions) -> list[float]:
    return [
        options.temperature, options.top_p, math.log(options.min_p) if options.min_p else -math.inf,
        options.repetition_penalty, options.presence_penalty, options.frequency_penalty,
    ]  # fmt: skip


def has_penalties(sequence: SequenceState) -> bool:
    """Return whether a sequence's next token depends on which tokens it contains."""
    options = sequence.request.options
    return (options.repetition_penalty, options.presence_penalty, options.frequency_penalty) != (1, 0, 0)


def _as_int32(bits: int) -> int:
    """Reinterpret an unsigned 32-bit integer as signed."""
    return bits - 2**32 if bits >= 2**31 else bits
