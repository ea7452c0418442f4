"""Prompt lookup on the device: each slot's text, and the rows in which a step verifies what is proposed from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.generation.gpu.kernels.common import LENGTH
from glassgpt.generation.gpu.kernels.lookup import accept_kernel, propose_kernel
from glassgpt.generation.gpu.launch import launcher
from glassgpt.generation.gpu.slots import N_FLOATS, N_INTS, SlotState

LOOKUP_BLOCK = 1024
"""Tokens of a text that are searched at once."""


class LookupState(SlotState):
    """The state of each slot with its text, and the state of the rows that a step processes.

    Args:
        slots: number of slots.
        vocab_size: the tokenizer's.
        capacity: tokens that fit into a slot.
        max_width: most rows of a slot.
        rows: most rows of a step.
        device: where the kernels run.

    Attributes:
        text: (slots, T) int32: the tokens in the cache, the newest, and behind it the proposed ones.
        rows: state of the step's rows, set by `propose`.
    """

    def __init__(
        self, slots: int, vocab_size: int, capacity: int, max_width: int, rows: int, device: torch.device
    ) -> None:
        super().__init__(slots, vocab_size, device)
        self.text = torch.zeros(slots, capacity + 1 + max_width, dtype=torch.int32, device=device)
        self.rows = RowState(rows, self.counts, device)
        self._n_drafts = torch.zeros(slots, dtype=torch.int32, device=device)
        self._capacity, self._widths = capacity, triton.next_power_of_2(max_width)

    def insert(self, slots: Sequence[int], sequences: Sequence[SequenceState]) -> None:
        """See `SlotState`; also copy the sequences' texts to the device."""
        super().insert(slots, sequences)
        texts = [sequence.visible_ids for sequence in sequences]
        longest = max(map(len, texts))
        padded = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], dtype=torch.int32)
        self.text[list(slots), :longest] = padded.to(self.text.device)

    def move(self, source: int, target: int) -> None:
        """See `SlotState`."""
        super().move(source, target)
        self.text[target] = self.text[source]

    def append(self, tokens: Sequence[int]) -> None:
        """See `SlotState`; also append the tokens to the texts."""
        super().append(tokens)
        new = torch.tensor(tokens, dtype=torch.int32).to(self.text.device, non_blocking=True)
        rows = torch.arange(len(tokens), device=self.text.device)
        self.text[rows, self.ints[LENGTH.value, : len(tokens)].clamp(max=self._capacity).long()] = new

    def propose(self, slots: int, width: int) -> None:
        """Set the state of `width` rows for each of the first slots: its newest token, and what may follow."""
        launcher(propose_kernel, slots * width, (slots,), 4)(
            self.ints, self.floats, self.rows.ints, self.rows.floats, self.text, self._n_drafts,
            self.ints.size(1), self.rows.ints.size(1), width, self.text.stride(0),
            N_INTS=N_INTS, N_FLOATS=N_FLOATS, BLOCK=LOOKUP_BLOCK, WIDTHS=self._widths,
        )  # fmt: skip

    def accept(self, slots: int, width: int, sampled: Tensor, output: Tensor) -> None:
        """Continue each of the first slots with the proposed tokens that were sampled, and the token after them.

        Args:
            slots: number of slots.
            width: as given to `propose`.
            sampled: token of each row, (slots · width or more,) int32.
            output: (width + 1, slots) int32, contiguous: the new tokens, then `NO_TOKEN`; last the number of proposals.
        """
        launcher(accept_kernel, slots * width, (slots,), 1)(
            self.ints, self.rows.ints, self.text, self._n_drafts, sampled, output,
            self.ints.size(1), self.rows.ints.size(1), width, self.text.stride(0), self._capacity, slots,
            WIDTHS=self._widths,
        )  # fmt: skip


class RowState:
    """The state of a step's rows, see `StepState`; penalties count by slot, so only single rows can have them.

    Args:
        rows: number of rows.
        counts: of the slots.
        device: where the kernels run.
    """

    def __init__(self, rows: int, counts: Tensor, device: torch.device) -> None:
        self.ints = torch.zeros(N_INTS, rows, dtype=torch.int32, device=device)
        self.floats = torch.zeros(N_FLOATS, rows, device=device)
        self.counts = counts
