"""Pairs as tokens, and these to batches: chosen and rejected reply of one prompt are always in the same batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glassgpt.data.batches import build_batches
from glassgpt.data.chat.batches import IGNORED
from glassgpt.data.chat.render import Rendered
from glassgpt.data.row_batches import RowBatches
from glassgpt.data.shards import TokenArray

__all__ = ["IGNORED", "PairBatches", "PairTokens", "pair_batch", "pairs_in_order"]


class PairTokens(TokenArray):
    """Pairs of conversations as one array of tokens: for each pair a row with the chosen one, then the rejected one.

    Args:
        chosen: conversations that end with the better reply.
        rejected: the same ones with the worse reply.

    Attributes:
        ids: (pairs, 2, T); shorter conversations are followed by zeros, which no loss reads.
        supervised: (pairs, 2, T), whether a token belongs to the reply, its stop token included.
    """

    def __init__(self, chosen: Sequence[Rendered], rejected: Sequence[Rendered]) -> None:
        both = [one for pair in zip(chosen, rejected, strict=True) for one in pair]
        length = max((len(one.tokens) for one in both), default=1)
        self.ids = np.zeros((len(chosen), 2, length), dtype=np.int32)
        self.supervised = np.zeros((len(chosen), 2, length), dtype=bool)
        for at, one in enumerate(both):
            self.ids[at // 2, at % 2, : len(one.tokens)] = one.tokens
            self.supervised[at // 2, at % 2, : len(one.tokens)] = one.supervised
        super().__init__((self.ids.reshape(-1),))
        self.row_length = 2 * length

    @property
    def tokens_per_pair(self) -> int:
        """Mean number of tokens of a pair up to the end of its replies, rounded."""
        ends = self.ids.shape[2] - np.argmax(self.supervised[..., ::-1], axis=2)
        return round(float(ends.sum(axis=1).mean())) if len(self.ids) else 0

    def pairs(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the tokens and the supervised ones of some pairs, (B, 2, T) up to the end of the longest reply."""
        ids, supervised = self.ids[indices], self.supervised[indices]
        longest = int(np.flatnonzero(supervised.any(axis=(0, 1))).max(initial=0)) + 1
        return ids[..., :longest].astype(np.int64), supervised[..., :longest]


class PairBatches(RowBatches):
    """An endless, reproducible stream of pairs, sampled without replacement; see `Batches`, whose windows are pairs here.

    Args:
        pairs: the pairs.
        seed: determines every permutation.
        rank: index of this process.
        world_size: number of processes.
    """

    def __init__(self, pairs: PairTokens, seed: int, *, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(pairs, pairs.row_length - 1, seed, rank=rank, world_size=world_size)
        self.pairs = pairs
        self.tokens_per_window = pairs.tokens_per_pair

    def read(self, starts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of the pairs at these places, each (B, 2, T) int64 on the CPU; see `pair_batch`."""
        return pair_batch(self.pairs, starts // self.pairs.row_length)


@build_batches.register
def pair_batches(
    tokens: PairTokens, context_length: int, seed: int, *, rank: int = 0, world_size: int = 1
) -> PairBatches:
    """Return the batches of pairs, whose length is their own; see `build_batches`."""
    return PairBatches(tokens, seed, rank=rank, world_size=world_size)


def pair_batch(pairs: PairTokens, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of some pairs, each (B, 2, T) int64: the chosen conversation, then the rejected one.

    A target is the next token where that belongs to the reply, else `IGNORED`.
    """
    ids, supervised = pairs.pairs(indices)
    targets = np.where(supervised[..., 1:], ids[..., 1:], IGNORED)
    return torch.from_numpy(np.ascontiguousarray(ids[..., :-1])), torch.from_numpy(targets)


def pairs_in_order(pairs: PairTokens, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all pairs once as batches; see `pair_batch`."""
    for first in range(0, len(pairs.ids), batch_size):
        yield pair_batch(pairs, np.arange(first, min(first + batch_size, len(pairs.ids))))
