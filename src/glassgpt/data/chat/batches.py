"""Packed conversations to batches.

Targets say what a loss must know of a row: the next token where it is learned, else a negative number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glassgpt.data.batches import Batches
from glassgpt.data.chat.dataset import STARTS, SUPERVISED, ConversationTokens, row_length_problem
from glassgpt.data.shards import TokenArray
from glassgpt.data.validation import validation_windows
from glassgpt.errors import DataError

IGNORED = -100
"""Target where the next token is not learned."""
NEXT_STARTS = -101
"""Target where the next token begins another conversation."""


class ConversationBatches(Batches):
    """A stream of packed rows: each epoch is a seeded permutation of them; see `Batches`.

    Args:
        tokens: the rows.
        context_length: tokens of a training sequence, for which the rows must have been packed.
        seed: determines every permutation.
        rank: see `Batches`, as is `world_size`.

    Raises:
        DataError: the rows have another length.
    """

    def __init__(
        self, tokens: ConversationTokens, context_length: int, seed: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        _require_length(tokens, context_length)
        super().__init__(tokens, context_length, seed, rank=rank, world_size=world_size)
        self._rows = tokens
        self.windows_per_epoch = len(tokens) // tokens.row_length

    def read(self, starts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of the given rows; see `Batches.read` and `row_targets`."""
        return _read(self._rows, starts)

    def _shuffled_starts(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, epoch))))
        return self._rows.row_length * generator.permutation(self.windows_per_epoch)


def row_targets(ids: NDArray[np.int64], flags: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the targets (B, T) of rows (B, T + 1): the next token if it is learned, else `IGNORED` or `NEXT_STARTS`."""
    following = flags[:, 1:]
    targets = np.where(following & SUPERVISED, ids[:, 1:], IGNORED)
    return np.where(following & STARTS, NEXT_STARTS, targets)


def _require_length(tokens: ConversationTokens, length: int) -> None:
    if problem := row_length_problem(tokens.row_length, length):
        raise DataError(problem)


def _read(tokens: ConversationTokens, starts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    ids = np.stack([tokens.read(int(start), tokens.row_length) for start in starts])
    flags = np.stack([tokens.flags(int(start), tokens.row_length) for start in starts])
    return torch.from_numpy(ids[:, :-1].copy()), torch.from_numpy(row_targets(ids, flags))


def held_out_windows(
    tokens: TokenArray, context_length: int, *, batch_size: int, limit: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a held-out text in order, or rows of conversations; see `validation_windows`.

    Raises:
        DataError: the rows of conversations have another length.
    """
    if not isinstance(tokens, ConversationTokens):
        yield from validation_windows(tokens, context_length, batch_size=batch_size, limit=limit)
        return
    _require_length(tokens, context_length)
    n_rows = len(tokens) // tokens.row_length
    n_rows = n_rows if limit is None else min(n_rows, max(1, limit // context_length))
    starts = tokens.row_length * np.arange(n_rows)
    for first in range(0, n_rows, batch_size):
        yield _read(tokens, starts[first : first + batch_size])


def build_batches(tokens: TokenArray, context_length: int, seed: int, *, rank: int = 0, world_size: int = 1) -> Batches:
    """Return the batches of a training text, or of packed conversations; see `Batches`."""
    if isinstance(tokens, ConversationTokens):
        return ConversationBatches(tokens, context_length, seed, rank=rank, world_size=world_size)
    return Batches(tokens, context_length, seed, rank=rank, world_size=world_size)
