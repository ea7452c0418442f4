"""Pairs to batches: chosen and rejected reply of one prompt are always in the same batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glassgpt.data.batches import Batches
from glassgpt.data.chat.batches import IGNORED
from glassgpt.data.preferences.dataset import PairTokens

__all__ = ["IGNORED", "PairBatches", "pair_batch", "pairs_in_order"]


class PairBatches(Batches):
    """An endless, reproducible stream of pairs, sampled without replacement; see `Batches`, whose windows are pairs here.

    Args:
        pairs: the pairs.
        seed: determines every permutation.
        rank: index of this process.
        world_size: number of processes.
    """

    def __init__(self, pairs: PairTokens, seed: int, *, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(pairs, pairs.slot - 1, seed, rank=rank, world_size=world_size)
        self.pairs = pairs
        self.windows_per_epoch = len(pairs.ids)

    def read(self, starts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of the pairs at these places, each (B, 2, T) int64 on the CPU; see `pair_batch`."""
        return pair_batch(self.pairs, starts // self.pairs.slot)

    def _shuffled_starts(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, epoch))))
        return self.pairs.slot * generator.permutation(self.windows_per_epoch)


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
