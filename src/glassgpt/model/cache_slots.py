"""Copying, selecting and sharing the slots of a KV cache; what generation needs beyond a plain forward pass."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor


class SlotOperations:
    """Operations on whole slots, mixed into `KVCache`, which owns the lengths and the write position."""

    _keys: Tensor
    _values: Tensor
    _lengths: Tensor

    def _set_storage(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values = keys, values  # (n_layer, B, K, C, D)
        self._slot_index = torch.arange(keys.size(1), device=keys.device)[:, None]  # (B, 1)

    def select(self, slots: Sequence[int]) -> None:
        """Keep the given slots in that order; a slot may be repeated (one prompt, several samples)."""
        index = torch.tensor(list(slots), device=self._keys.device)
        self._set_storage(self._keys[:, index], self._values[:, index])
        self._lengths = self._lengths[list(slots)]

    def first_slots(self, count: int) -> Self:
        """Return a view of the first `count` slots that shares this cache's memory and lengths."""
        view = copy.copy(self)
        view._set_storage(self._keys[:, :count], self._values[:, :count])
        view._lengths = self._lengths[:count]
        return view

    def copy_slot(self, slot: int, source: SlotOperations, source_slot: int, length: int | None = None) -> None:
        """Replace a slot with a copy of another, from this cache or another one of the same model.

        Args:
            slot: destination; its previous content is lost.
            source: cache to copy from.
            source_slot: slot of `source` to copy.
            length: number of leading tokens to copy; defaults to all.
        """
        held = int(source._lengths[source_slot]) if length is None else length
        self._keys[:, slot, :, :held] = source._keys[:, source_slot, :, :held]
        self._values[:, slot, :, :held] = source._values[:, source_slot, :, :held]
        self._lengths[slot] = held

    def copy_slots(
        self, slots: Sequence[int], source: SlotOperations, source_slots: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """Copy several slots at once: the first `lengths[i]` tokens of `source_slots[i]` into `slots[i]`."""
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
