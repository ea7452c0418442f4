"""Several conversations in one row: each attends to itself alone, and its positions begin at 0."""

from __future__ import annotations

import torch
from torch import Tensor

from glassgpt.model.attention import causal_mask
from glassgpt.model.cache import KVCache


class PackedRows(KVCache):
    """Positions and attention masks of packed rows, for a forward pass without a cache.

    Models ask a cache for positions and masks; this one stores no keys or values, so that they need not know of rows.

    Args:
        starts: (B, T) bool, True at the first token of each conversation.
    """

    def __init__(self, starts: Tensor) -> None:
        n_tokens = starts.size(1)
        index = torch.arange(n_tokens, device=starts.device)
        first = torch.where(starts, index, 0).cummax(dim=1).values  # (B, T): where a token's conversation begins
        self._positions = index - first
        self._same = (first[:, :, None] == first[:, None, :])[:, None]  # (B, 1, T, T)
        self._masks: dict[tuple[int, int], Tensor | None] = {}  # by window and sinks, as in `KVCache`

    def begin(self, n_tokens: int) -> None:
        """Do nothing: positions are known."""

    def positions(self) -> Tensor:
        """Return the positions of the tokens in their conversations, (B, T) int64."""
        return self._positions

    def mask(self, window: int = 0, sinks: int = 0) -> Tensor:
        """Return the (B, 1, T, T) bool mask, True where a token may attend: earlier tokens of its conversation."""
        found = self._masks.get((window, sinks))
        if found is None:
            n_tokens = self._same.size(-1)
            visible = causal_mask(n_tokens, n_tokens, self._same.device, window)
            if sinks:  # the first positions of each conversation
                visible = visible | (self._positions < sinks)[:, None, None] & causal_mask(
                    n_tokens, n_tokens, visible.device
                )
            self._masks[window, sinks] = found = self._same & visible
        return found

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values as they are."""
        return k, v

    def commit(self) -> None:
        """Do nothing: nothing is stored."""
