"""The memory of a KV cache: preallocated tensors in slots, which can be copied, selected and shared."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from glassgpt.model.config import ModelConfig


class CacheStorage:
    """Keys and values of every layer and the length of every slot, without the logic of a forward pass.

    Args:
        config: the model's shape.
        slots: number of sequences B.
        capacity: positions C per slot; defaults to the model's context length.
        dtype: of keys and values; must be the model's.
        device: the model's device.
    """

    _lengths: Tensor

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        capacity: int | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        capacity = config.context_length if capacity is None else capacity
        shape = (config.n_layer, slots, config.kv_heads, capacity, config.head_width)
        keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self._set_tensors(keys, values)
        self._lengths = torch.zeros(slots, dtype=torch.long)  # on the CPU: the decode loop reads them at every step

    @classmethod
    def from_tensors(cls, keys: Tensor, values: Tensor) -> Self:
        """Return an empty cache that stores its keys and values in these tensors, (n_layer, B, K, C, D) each."""
        cache = cls.__new__(cls)
        cache._set_tensors(keys, values)
        cache._lengths = torch.zeros(keys.size(1), dtype=torch.long)
        return cache

    def _set_tensors(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values = keys, values  # (n_layer, B, K, C, D)
        self._slot_index = torch.arange(keys.size(1), device=keys.device)[:, None]  # (B, 1)

    @property
    def keys(self) -> Tensor:
        """The storage of all keys, (n_layer, B, K, C, D); undefined beyond the length of a slot."""
        return self._keys

    @property
    def values(self) -> Tensor:
        """The storage of all values, (n_layer, B, K, C, D); undefined beyond the length of a slot."""
        return self._values

    @property
    def capacity(self) -> int:
        """Number of positions C per slot."""
        return self._keys.size(3)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens held by each slot."""
        return tuple(self._lengths.tolist())

    @property
    def n_bytes(self) -> int:
        """Bytes of keys and values together."""
        return 2 * self._keys.nbytes

    def expect(self, lengths: Sequence[int]) -> None:
        """Say in advance how many tokens of each slot are not padding; `truncate` follows when all are there.

        Keys and values of padding do no harm until then; a recurrent state must not see it (`recurrent_cache.py`).
        """

    def truncate(self, lengths: Sequence[int]) -> None:
        """Shorten each slot to the given length; 0 empties it.

        Raises:
            ValueError: a length is negative or exceeds what the slot holds.
        """
        held = self.lengths
        if len(lengths) != len(held) or any(not 0 <= new <= old for new, old in zip(lengths, held, strict=False)):
            raise ValueError(f"cannot truncate slots of lengths {list(held)} to {list(lengths)}")
        self._lengths.copy_(torch.tensor(list(lengths), dtype=torch.long))

    def select(self, slots: Sequence[int]) -> None:
        """Keep the given slots in that order; a slot may be repeated (one prompt, several samples)."""
        index = torch.tensor(list(slots), device=self._keys.device)
        self._set_tensors(self._keys[:, index], self._values[:, index])
        self._lengths = self._lengths[list(slots)]

    def first_slots(self, count: int) -> Self:
        """Return a view of the first `count` slots that shares this cache's memory and lengths."""
        view = copy.copy(self)
        view._set_tensors(self._keys[:, :count], self._values[:, :count])
        view._lengths = self._lengths[:count]
        return view

    def copy_slot(self, slot: int, source: CacheStorage, source_slot: int, length: int | None = None) -> None:
        """Replace a slot with a copy of another, from this cache or another one of the same model.

        Args:
            slot: destination; its previous content is lost.
            source: cache to copy from.
            source_slot: slot of `source` to copy.
            length: number of leading tokens to copy; defaults to all.
        """
        held = source.lengths[source_slot] if length is None else length
        self._keys[:, slot, :, :held] = source._keys[:, source_slot, :, :held]
        self._values[:, slot, :, :held] = source._values[:, source_slot, :, :held]
        self._lengths[slot] = held

    def copy_slots(
        self, slots: Sequence[int], source: CacheStorage, source_slots: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """Copy several slots at once: the first `lengths[i]` tokens of `source_slots[i]` into `slots[i]`."""
        if _is_range(slots) and _is_range(source_slots) and len(set(lengths)) == 1:
            # As in a batch of prompts of one length: two kernel launches.
            here, there = slice(slots[0], slots[-1] + 1), slice(source_slots[0], source_slots[-1] + 1)
            self._keys[:, here, :, : lengths[0]] = source._keys[:, there, :, : lengths[0]]
            self._values[:, here, :, : lengths[0]] = source._values[:, there, :, : lengths[0]]
            self._lengths[here] = lengths[0]
            return
        if len(slots) <= 2 * self._keys.size(0):  # fewer copies this way, and each costs a kernel launch
            for slot, source_slot, length in zip(slots, source_slots, lengths, strict=True):
                self.copy_slot(slot, source, source_slot, length)
            return
        self._lengths[list(slots)] = torch.tensor(list(lengths))
        device, longest = self._keys.device, max(lengths)
        if longest == 0:
            return
        there = torch.tensor(list(source_slots), device=device)
        here = torch.tensor(list(slots), device=device)
        for layer in range(self._keys.size(0)):  # layer by layer: the gathered copy is temporary memory
            self._keys[layer, here, :, :longest] = source._keys[layer, there, :, :longest]
            self._values[layer, here, :, :longest] = source._values[layer, there, :, :longest]


def _is_range(slots: Sequence[int]) -> bool:
    return list(slots) == list(range(slots[0], slots[0] + len(slots)))
