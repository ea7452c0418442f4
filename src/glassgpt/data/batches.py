"""Tokens to batches: a seeded permutation of windows for each epoch, with a position that can be sought."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glassgpt.data.shards import TokenArray
from glassgpt.errors import DataError


class Batches:
    """An endless, reproducible stream of windows of text; no sampling with replacement.

    Window `i` belongs to epoch `i // windows_per_epoch`. Each epoch has its own permutation and its own
    phase, so that windows begin elsewhere; within an epoch they do not overlap: each token is a target
    at most once. The whole state is `position`, and `quarantined` where rows were found to be bad: in the place of
    a window that touches one of these spans comes the next of the epoch that does not.

    Args:
        tokens: the text.
        context_length: tokens a window.
        seed: decides every permutation and phase.
        rank: which part of each global batch this process takes.
        world_size: number of processes.

    Raises:
        DataError: the text is too short for one window.
    """

    def __init__(
        self, tokens: TokenArray, context_length: int, seed: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        _require_one_window(tokens, context_length)
        self.tokens = tokens
        self.context_length = context_length
        self._seed = seed
        self._rank, self.world_size = rank, world_size
        self._position = 0
        self._planned_epoch = -1
        self._starts: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._quarantined: list[tuple[int, int]] = []
        # Constant over epochs, so that a window's epoch needs no table: what fits at the largest phase.
        self.windows_per_epoch = max(1, (len(tokens) - context_length) // context_length)

    @property
    def position(self) -> int:
        """Windows consumed so far, over all ranks."""
        return self._position

    @property
    def epoch(self) -> float:
        """Epochs consumed so far: 1.5 is the middle of the second."""
        return self._position / self.windows_per_epoch

    def seek(self, windows: int) -> None:
        """Go to where `position` was `windows`, forwards or backwards."""
        self._position = windows

    @property
    def quarantined(self) -> list[tuple[int, int]]:
        """Spans of tokens that are kept out, each from its first token up to but without its last."""
        return list(self._quarantined)

    def quarantine(self, spans: Iterable[tuple[int, int]]) -> None:
        """Keep these spans of tokens out, and no others.

        Raises:
            DataError: no window of an epoch would be left.
        """
        self._quarantined = sorted({(int(first), int(end)) for first, end in spans})
        if self._quarantined and not any(self._is_clean(start) for start in self._plan(0)):
            raise DataError("every window of the training text is in quarantine; look at its data set")

    def next(self, rows: int) -> tuple[Tensor, Tensor]:
        """The next batch of this rank: inputs and targets, each (rows, context_length) int64 on the CPU.

        `targets` are `inputs` shifted by one. The global batch is rows × world_size windows, of which
        rank r takes the rows r·rows … (r + 1)·rows - 1; it may span two epochs.
        """
        return self.read(self.next_starts(rows))

    def next_starts(self, rows: int) -> NDArray[np.int64]:
        """(rows,) first token of each window of this rank's next batch; see `next`."""
        starts = self.starts_at(self._position, rows)
        self._position += rows * self.world_size
        return starts

    def starts_at(self, position: int, rows: int) -> NDArray[np.int64]:
        """(rows,) what `next_starts` gives at a position, without going there."""
        first = position + self._rank * rows
        return np.array([self._start(first + i) for i in range(rows)], dtype=np.int64)

    def read(self, starts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Inputs and targets of windows, each (len(starts), context_length) int64 on the CPU."""
        windows = [self.tokens.read(int(start), self.context_length + 1) for start in starts]
        block = torch.from_numpy(np.stack(windows))  # (rows, context_length + 1)
        return block[:, :-1].contiguous(), block[:, 1:].contiguous()

    def _start(self, window: int) -> int:
        epoch, index = divmod(window, self.windows_per_epoch)
        if epoch != self._planned_epoch:
            self._starts = self._plan(epoch)
            self._planned_epoch = epoch
        while self._quarantined and not self._is_clean(self._starts[index]):
            index = (index + 1) % self.windows_per_epoch
        return int(self._starts[index])

    def _is_clean(self, start: int | np.int64) -> bool:
        after = start + self.context_length + 1
        return not any(start < end and first < after for first, end in self._quarantined)

    def _plan(self, epoch: int) -> NDArray[np.int64]:
        """First token of each window of an epoch, in the order in which they come."""
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, epoch))))
        spare = len(self.tokens) - self.windows_per_epoch * self.context_length
        phase = generator.integers(min(self.context_length, spare))
        return phase + self.context_length * generator.permutation(self.windows_per_epoch)


def validation_windows(
    tokens: TokenArray, context_length: int, *, rows: int = 1, limit: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """All of a text in order, without overlap: each token but the first is a target exactly once.

    Args:
        tokens: the text.
        context_length: tokens a window; the last window is shorter and comes alone.
        rows: windows a batch; the last full batch may have fewer.
        limit: stop after this many targets.

    Yields:
        inputs and targets, each (batch, time) int64 on the CPU.

    Raises:
        DataError: there is no token to predict.
    """
    if len(tokens) < 2:
        raise DataError(
            f"the text has {len(tokens)} tokens, and at least 2 are needed to predict one; prepare more text"
        )
    targets = len(tokens) - 1 if limit is None else min(limit, len(tokens) - 1)
    whole, rest = divmod(targets, context_length)
    for first in range(0, whole, rows):
        yield _batch_at(tokens, first * context_length, min(rows, whole - first), context_length)
    if rest:
        yield _batch_at(tokens, whole * context_length, 1, rest)


def _batch_at(tokens: TokenArray, start: int, rows: int, length: int) -> tuple[Tensor, Tensor]:
    flat = torch.from_numpy(tokens.read(start, rows * length + 1))
    return flat[:-1].view(rows, length), flat[1:].view(rows, length)


def _require_one_window(tokens: TokenArray, context_length: int) -> None:
    if len(tokens) <= context_length:
        raise DataError(
            f"the text has {len(tokens)} tokens, and one window of context_length {context_length} needs "
            f"{context_length + 1}; prepare more text or lower the context length"
        )
