"""Tokens to batches: each epoch is a seeded permutation of windows, and the position can be saved and restored."""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glassgpt.data.quarantine import Quarantine
from glassgpt.data.shards import TokenArray
from glassgpt.errors import DataError


class Batches:
    """An endless, reproducible stream of training windows, sampled without replacement.

    Window `i` belongs to epoch `i // windows_per_epoch`. Each epoch has its own permutation and its own offset, so that
    windows start at different tokens every time. Within an epoch they do not overlap: each token is a target at most
    once. The state is `position`, plus the `quarantined` spans, if any: a window that touches one of them is replaced by
    the next window of the epoch that does not.

    Args:
        tokens: the training text.
        context_length: tokens per window.
        seed: determines every permutation and offset.
        rank: index of this process; selects its share of each global batch.
        world_size: number of processes.

    Raises:
        DataError: the text is shorter than one window.
    """

    def __init__(
        self, tokens: TokenArray, context_length: int, seed: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        if len(tokens) <= context_length:
            raise DataError(
                f"the text has {len(tokens)} tokens, but one window of context_length {context_length} needs "
                f"{context_length + 1}; prepare more text or reduce the context length"
            )
        self.tokens = tokens
        self.context_length = self.tokens_per_window = context_length
        self._seed = seed
        self._rank, self.world_size = rank, world_size
        self._position = 0
        self._epoch = -1
        self._starts: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._quarantine = Quarantine()
        # Every epoch has as many windows as fit at the largest offset, so that a window's epoch is a plain division.
        self.windows_per_epoch = max(1, (len(tokens) - context_length) // context_length)

    @property
    def position(self) -> int:
        """Number of windows consumed so far, over all ranks."""
        return self._position

    @property
    def epoch(self) -> float:
        """Number of epochs consumed so far; 1.5 is halfway through the second."""
        return self._position / self.windows_per_epoch

    def seek(self, position: int) -> None:
        """Continue from a saved `position`, forwards or backwards."""
        self._position = position

    def next(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return this rank's next inputs and targets, each (batch_size, context_length) int64 on the CPU.

        `targets` are `inputs` shifted by one. The global batch has batch_size × world_size windows, of which rank r
        takes numbers r·batch_size … (r + 1)·batch_size - 1; it may span two epochs.
        """
        return self.read(self.next_starts(batch_size))

    def next_starts(self, batch_size: int) -> NDArray[np.int64]:
        """Return the first token of each window of this rank's next batch, (batch_size,); see `next`."""
        starts = self.starts_at(self._position, batch_size)
        self._position += batch_size * self.world_size
        return starts

    def starts_at(self, position: int, batch_size: int) -> NDArray[np.int64]:
        """Return what `next_starts` would return at `position`, without moving there."""
        first = position + self._rank * batch_size
        return np.array([self._start(first + i) for i in range(batch_size)], dtype=np.int64)

    def read(self, starts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of the given windows, each (len(starts), context_length) int64 on the CPU."""
        windows = self.tokens.read_many(starts.tolist(), self.context_length + 1)
        block = torch.from_numpy(np.stack(windows))  # (batch_size, context_length + 1)
        return block[:, :-1].contiguous(), block[:, 1:].contiguous()

    def _start(self, window: int) -> int:
        epoch, index = divmod(window, self.windows_per_epoch)
        if epoch != self._epoch:
            self._starts = self._shuffled_starts(epoch)
            self._epoch = epoch
        while self._quarantine.touches(self._starts[index], self.context_length + 1):
            index = (index + 1) % self.windows_per_epoch
        return int(self._starts[index])

    def _shuffled_starts(self, epoch: int) -> NDArray[np.int64]:
        """Return the first token of each window of an epoch, in the order of training."""
        # Philox seeded with (seed, epoch): any epoch can be computed directly, without those before it.
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, epoch))))
        spare = len(self.tokens) - self.windows_per_epoch * self.context_length
        offset = generator.integers(min(self.context_length, spare))
        return offset + self.context_length * generator.permutation(self.windows_per_epoch)

    @property
    def quarantined(self) -> list[tuple[int, int]]:
        """Token spans excluded from training, each as (first token, end), end exclusive."""
        return list(self._quarantine.spans)

    def quarantine(self, spans: Iterable[tuple[int, int]]) -> None:
        """Replace the excluded token spans by these.

        Raises:
            DataError: no window of an epoch would remain.
        """
        self._quarantine = Quarantine(spans)
        length = self.context_length + 1
        spans = self._quarantine.spans
        if spans and all(self._quarantine.touches(start, length) for start in self._shuffled_starts(0)):
            raise DataError("every window of the training text is quarantined; check the dataset for damage")


@singledispatch
def build_batches(tokens: TokenArray, context_length: int, seed: int, *, rank: int = 0, world_size: int = 1) -> Batches:
    """Return the batches of a text; another kind of data registers its own. See `Batches` for the arguments."""
    return Batches(tokens, context_length, seed, rank=rank, world_size=world_size)
