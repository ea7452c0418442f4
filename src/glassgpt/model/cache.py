"""Keys and values of the tokens already seen, so that each new token costs one position, not all of them.

The cache has *slots*: rows with lengths of their own. Rows of different length need no left padding: a
short row is filled up on the right with any token, and `truncate` then says how long each row really is.
What lies behind a row's length is never looked at and is overwritten by that row's next tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from glassgpt.model.config import ModelConfig


class KVCache:
    """Preallocated keys and values of every layer.

    Args:
        config: the model's shape.
        slots: rows B.
        capacity: positions C kept for each row; by default the model's context.
        dtype: of keys and values; the model's own.
        device: where the model lies.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        capacity: int | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity = config.context_length if capacity is None else capacity
        shape = (config.n_layer, slots, config.kv_heads, self.capacity, config.head_dim)
        self._hold(torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))
        self._lengths = torch.zeros(slots, dtype=torch.long)  # on the CPU: the loop asks for them at every step
        self._pending = 0

    @classmethod
    def from_tensors(cls, keys: Tensor, values: Tensor) -> KVCache:
        """An empty cache in the memory of these two, (n_layer, B, K, C, D) each."""
        cache = cls.__new__(cls)
        cache.capacity, cache._pending = keys.size(3), 0
        cache._hold(keys, values)
        cache._lengths = torch.zeros(keys.size(1), dtype=torch.long)
        return cache

    def _hold(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values = keys, values  # (n_layer, B, K, C, D)
        self._rows = torch.arange(keys.size(1), device=keys.device)[:, None]  # (B, 1)

    @property
    def keys(self) -> Tensor:
        """The memory of all keys, (n_layer, B, K, C, D); behind a row's length it holds anything."""
        return self._keys

    @property
    def values(self) -> Tensor:
        """The memory of all values; see `keys`."""
        return self._values

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens held by each slot."""
        return tuple(self._lengths.tolist())

    @property
    def n_bytes(self) -> int:
        """Memory of keys and values."""
        return 2 * self._keys.nbytes

    def begin(self, n_tokens: int) -> None:
        """Make room for `n_tokens` more in every slot. Called by the model, before its first_slots layer.

        Raises:
            IndexError: a slot would outgrow the capacity.
        """
        self._pending = n_tokens
        longest = int(self._lengths.max())
        if longest + n_tokens > self.capacity:
            raise IndexError(f"{longest} cached + {n_tokens} new tokens exceed the cache of {self.capacity}")
        self._uniform = int(self._lengths.min()) == longest
        self._extent = longest + n_tokens
        device = self._keys.device
        if self._uniform:  # made on the device: a CUDA graph cannot copy from the host
            new = torch.arange(longest, self._extent, device=device)
            self._positions = new.expand(self._keys.size(1), n_tokens)  # (B, T)
        else:
            self._positions = self._lengths[:, None].to(device) + torch.arange(n_tokens, device=device)
        self._masks: dict[int, Tensor | None] = {}

    def positions(self) -> Tensor:
        """Positions of the new tokens in their rows: (B, T) int64."""
        return self._positions

    def mask(self, window: int = 0) -> Tensor | None:
        """(B, 1, T, S) bool, True where a new token may look; None where plain causal order says it all.

        Args:
            window: how many positions back a token sees, its own included; 0 is all of them.
        """
        if window not in self._masks:
            self._masks[window] = None if self._uniform else self._ragged_mask(window)
        return self._masks[window]

    def _ragged_mask(self, window: int) -> Tensor:
        keys = torch.arange(self._extent, device=self._keys.device)
        visible = keys <= self._positions[..., None]
        if window:
            visible &= keys > self._positions[..., None] - window
        return visible[:, None]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values, each (B, K, T, D).

        Returns:
            All keys and values of that layer so far, each (B, K, S, D): views, not copies.
        """
        keys, values = self._keys[layer], self._values[layer]
        if self._uniform:
            new = slice(self._extent - self._pending, self._extent)
            keys[:, :, new], values[:, :, new] = k, v
        else:
            # Advanced indices around a slice copy_slot their own axes first_slots: (B, T, K, D).
            keys[self._rows, :, self._positions] = k.transpose(1, 2)
            values[self._rows, :, self._positions] = v.transpose(1, 2)
        return keys[:, :, : self._extent], values[:, :, : self._extent]

    def commit(self) -> None:
        """Count the new tokens as held. Called by the model, after its last layer."""
        self._lengths += self._pending
        self._pending = 0

    def truncate(self, lengths: Sequence[int]) -> None:
        """Shorten each slot to the given length (0 empties it).

        Raises:
            ValueError: a length is negative or above what the slot holds.
        """
        held = self.lengths
        if len(lengths) != len(held) or any(not 0 <= new <= old for new, old in zip(lengths, held, strict=False)):
            raise ValueError(f"cannot truncate slots of lengths {list(held)} to {list(lengths)}")
        self._lengths.copy_(torch.tensor(list(lengths), dtype=torch.long))

    def select(self, slots: Sequence[int]) -> None:
        """Keep the given slots, in that order; one may be named several times (one prompt, many samples)."""
        index = torch.tensor(list(slots), device=self._keys.device)
        self._hold(self._keys[:, index], self._values[:, index])
        self._lengths = self._lengths[list(slots)]

    def first_slots(self, count: int) -> KVCache:
        """The first_slots `count` slots as a cache of their own that shares this one's memory and lengths."""
        view = copy.copy(self)
        view._hold(self._keys[:, :count], self._values[:, :count])
        view._lengths = self._lengths[:count]
        return view

    def copy_slot(self, slot: int, source: KVCache, row: int, length: int | None = None) -> None:
        """Fill a slot with what a row of a cache holds (of this one, or of another of the same model).

        Args:
            slot: what it held is gone.
            source: where the row lies.
            row: which one.
            length: only so many of its tokens; by default all.
        """
        held = source.lengths[row] if length is None else length
        self._keys[:, slot, :, :held] = source._keys[:, row, :, :held]
        self._values[:, slot, :, :held] = source._values[:, row, :, :held]
        self._lengths[slot] = held

    def copy_slots(self, slots: Sequence[int], source: KVCache, rows: Sequence[int], lengths: Sequence[int]) -> None:
        """`copy_slot` for several slots at once: slot i gets the first_slots tokens, `lengths[i]` many, of row i of `source`."""
        if len(slots) <= 2 * self._keys.size(0):  # fewer copies this way, and each costs a launch
            for slot, row, length in zip(slots, rows, lengths, strict=True):
                self.copy_slot(slot, source, row, length)
            return
        self._lengths[list(slots)] = torch.tensor(list(lengths))
        device, longest = self._keys.device, max(lengths)
        if longest == 0:
            return
        there, here = torch.tensor(list(rows), device=device), torch.tensor(list(slots), device=device)
        for layer in range(self._keys.size(0)):  # one after the other: what is gathered takes memory meanwhile
            self._keys[layer, here, :, :longest] = source._keys[layer, there, :, :longest]
            self._values[layer, here, :, :longest] = source._values[layer, there, :, :longest]
