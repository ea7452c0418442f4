"""Packed conversations as tokens, and these to batches.

Targets say what a loss must know of a row: the next token where it is learned, else a negative number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glassgpt.data.batches import build_batches
from glassgpt.data.chat.rows import STARTS, SUPERVISED, row_length_problem
from glassgpt.data.row_batches import RowBatches, row_starts
from glassgpt.data.shards import TokenArray
from glassgpt.data.token_view import TokenView
from glassgpt.data.validation import validation_windows
from glassgpt.errors import DataError

IGNORED = -100
"""Target where the next token is not learned."""
NEXT_STARTS = -101
"""Target where the next token begins another conversation."""


class ConversationTokens(TokenView):
    """The rows of one split as one long array, with the flags of each token.

    Args:
        tokens: the ids.
        flags: one byte per token; see `SUPERVISED` and `STARTS`.
        row_length: tokens of a row.
        supervised_share: share of the predicted tokens that are learned.
    """

    def __init__(self, tokens: TokenArray, flags: NDArray[np.uint8], row_length: int, supervised_share: float) -> None:
        super().__init__(tokens)
        self._flags = flags
        self.row_length, self.supervised_share = row_length, supervised_share

    def flags(self, start: int, count: int) -> NDArray[np.uint8]:
        """Return the flags of the tokens `start` … `start + count - 1`, (count,) uint8."""
        return self._flags[start : start + count]


class ConversationBatches(RowBatches):
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

    def read(self, starts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of the given rows; see `Batches.read` and `row_targets`."""
        return _read(self._rows, starts)


def row_targets(ids: NDArray[np.int64], flags: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the targets (B, T) of rows (B, T + 1): the next token if it is learned, else `IGNORED` or `NEXT_STARTS`."""
    following = flags[:, 1:]
    targets = np.where(following & SUPERVISED, ids[:, 1:], IGNORED)
    return np.where(following & STARTS, NEXT_STARTS, targets)


def _require_length(tokens: ConversationTokens, length: int) -> None:
    if problem := row_length_problem(tokens.row_length, length):
        raise DataError(problem)


def _read(tokens: ConversationTokens, starts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    ids = np.stack(tokens.read_many(starts.tolist(), tokens.row_length))
    flags = np.stack([tokens.flags(int(start), tokens.row_length) for start in starts])
    return torch.from_numpy(ids[:, :-1].copy()), torch.from_numpy(row_targets(ids, flags))


@validation_windows.register
def rows_in_order(
    tokens: ConversationTokens, context_length: int, *, batch_size: int = 1, limit: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows in order; see `validation_windows`.

    Raises:
        DataError: they have another length.
    """
    _require_length(tokens, context_length)
    for starts in row_starts(tokens, context_length, batch_size, limit):
        yield _read(tokens, starts)


build_batches.register(ConversationTokens, ConversationBatches)
