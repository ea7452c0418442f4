"""Batches of a text that consists of rows, each of which must be read whole: packed conversations, pairs, documents with media."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.batches import Batches
from glassgpt.data.shards import TokenArray


class RowBatches(Batches):
    """A stream of rows: each epoch is a seeded permutation of them; see `Batches`.

    Args:
        tokens: the rows.
        context_length: see `Batches`, as are the others.
    """

    def __init__(
        self, tokens: TokenArray, context_length: int, seed: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(tokens, context_length, seed, rank=rank, world_size=world_size)
        self.windows_per_epoch = len(tokens) // tokens.row_length

    def _shuffled_starts(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, epoch))))
        return self.tokens.row_length * generator.permutation(self.windows_per_epoch)


def row_starts(
    tokens: TokenArray, context_length: int, batch_size: int, limit: int | None
) -> Iterator[NDArray[np.int64]]:
    """Yield the first token of each row in order, for each batch; see `validation_windows`."""
    n_rows = len(tokens) // tokens.row_length
    n_rows = n_rows if limit is None else min(n_rows, max(1, limit // context_length))
    starts = tokens.row_length * np.arange(n_rows)
    for first in range(0, n_rows, batch_size):
        yield starts[first : first + batch_size]
