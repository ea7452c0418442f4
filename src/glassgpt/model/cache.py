"""KV cache: the keys and values of earlier tokens, so that a new token costs one position instead of all of them.

One forward pass of the model is `begin` (where do the new tokens go?), `append` in each layer, and `commit`. The cache
has *slots*, one per sequence, each with its own length. Sequences of different length need no left padding: a batch is
padded on the right with any token, and `truncate` then sets each slot to its real length. Whatever lies beyond that
length is never attended to, and the slot's next tokens overwrite it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glassgpt.model.cache_storage import CacheStorage


class KVCache(CacheStorage):
    """Keys and values of every layer, filled by the model; `CacheStorage` allocates, truncates and copies slots."""

    def begin(self, n_tokens: int) -> None:
        """Assign positions to the next `n_tokens` of every slot. The model calls this before its first layer.

        Raises:
            IndexError: a slot would exceed the capacity.
        """
        longest = int(self._lengths.max())
        if longest + n_tokens > self.capacity:
            raise IndexError(f"{longest} cached + {n_tokens} new tokens exceed the cache of {self.capacity}")
        self._n_new = n_tokens
        self._extent = longest + n_tokens  # number of keys that attention reads, S
        # Slots of equal length are the common case (one sequence, or a batch at its start). All new tokens then have
        # the same positions, one slice stores them, and plain causal order needs no mask.
        self._uniform = int(self._lengths.min()) == longest
        device = self._keys.device
        if self._uniform:  # created on the device: a CUDA graph cannot copy from the host
            new = torch.arange(longest, self._extent, device=device)
            self._positions = new.expand(self._keys.size(1), n_tokens)  # (B, T)
        else:
            self._positions = self._lengths[:, None].to(device) + torch.arange(n_tokens, device=device)
        self._masks: dict[tuple[int, int], Tensor | None] = {}  # by window and sinks: layers share a mask

    def positions(self) -> Tensor:
        """Return the positions of the new tokens in their sequences, (B, T) int64."""
        return self._positions

    def mask(self, window: int = 0, sinks: int = 0) -> Tensor | None:
        """Return the (B, 1, T, S) bool mask, True where a new token may attend; None for plain causal attention.

        Args:
            window, sinks: see `AttentionFunction`.
        """
        if (window, sinks) not in self._masks:
            self._masks[window, sinks] = None if self._uniform else self._ragged_mask(window, sinks)
        return self._masks[window, sinks]

    def _ragged_mask(self, window: int, sinks: int) -> Tensor:
        # Slots of different length: a token at position p of its own sequence sees the keys 0 … p of its slot. Keys
        # beyond p, up to the longest slot's extent, are stale or belong to later tokens.
        keys = torch.arange(self._extent, device=self._keys.device)  # (S,)
        positions = self._positions[..., None]  # (B, T, 1)
        visible = keys <= positions
        if window:
            visible &= (keys > positions - window) | (keys < sinks)
        return visible[:, None]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of one layer, (B, K, T, D) each.

        Returns:
            All keys and values of that layer so far, (B, K, S, D) each: views, not copies.
        """
        keys, values = self._keys[layer], self._values[layer]
        if self._uniform:
            new = slice(self._extent - self._n_new, self._extent)
            keys[:, :, new], values[:, :, new] = k, v
        else:
            # Two index tensors around a slice move their own axes to the front: the target is (B, T, K, D).
            keys[self._slot_index, :, self._positions] = k.transpose(1, 2)
            values[self._slot_index, :, self._positions] = v.transpose(1, 2)
        return keys[:, :, : self._extent], values[:, :, : self._extent]

    def commit(self) -> None:
        """Count the new tokens as cached. The model calls this after its last layer.

        Until then the lengths are unchanged, so that every layer sees the same positions, and a pass that fails halfway
        leaves the cache as it was.
        """
        self._lengths += self._n_new
