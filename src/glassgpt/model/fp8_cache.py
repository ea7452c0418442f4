"""A KV cache in 8 bits: E4M3 numbers, with a power of two for each head and position.

`Fp8Storage` is the memory that the GPU's kernels read and write. `RoundedCache` is its readable reference
implementation for a model in PyTorch: it keeps the same values in the model's type.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glassgpt.model.cache import KVCache
from glassgpt.model.cache_storage import CacheStorage
from glassgpt.model.config import ModelConfig
from glassgpt.model.e4m3 import E4M3, round_to_e4m3, to_e4m3


class RoundedCache(KVCache):
    """A `KVCache` whose keys and values are rounded to 8 bits when they are stored."""

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """See `KVCache`."""
        return super().append(layer, round_to_e4m3(k), round_to_e4m3(v))


class Fp8Storage:
    """Keys and values of every layer in 8 bits, in slots.

    Args:
        config: the model's shape.
        slots: number of sequences B.
        capacity: positions C per slot.
        device: the model's device.

    Attributes:
        keys: (n_layer, B, K, C, D) E4M3.
        values: as `keys`.
        key_exponents: (n_layer, B, K, C) uint8; see `Fp8Vectors`.
        value_exponents: as `key_exponents`.
        capacity: C.
    """

    def __init__(self, config: ModelConfig, slots: int, capacity: int, *, device: torch.device | str = "cpu") -> None:
        self.capacity = capacity
        shape = (config.n_layer, slots, config.kv_heads, capacity, config.head_width)
        # PyTorch copies and indexes bytes, but not everywhere 8-bit floats.
        self._bytes = tuple(torch.zeros(shape, dtype=torch.uint8, device=device) for _ in range(2))
        self.keys, self.values = (each.view(E4M3) for each in self._bytes)
        exponents = (torch.zeros(shape[:-1], dtype=torch.uint8, device=device) for _ in range(2))
        self.key_exponents, self.value_exponents = exponents

    def copy_slot(self, slot: int, source: Fp8Storage, source_slot: int, length: int) -> None:
        """Replace the first `length` tokens of a slot with those of another, as they are."""
        for target, memory in zip(self._tensors, source._tensors, strict=True):
            target[:, slot, :, :length] = memory[:, source_slot, :, :length]

    def copy_slots(
        self, slots: Sequence[int], source: CacheStorage, source_slots: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """Round the first `lengths[i]` tokens of `source_slots[i]` into `slots[i]`."""
        device, longest = self.keys.device, max(lengths)
        there, here = (torch.tensor(list(index), device=device) for index in (source_slots, slots))
        for layer in range(self.keys.size(0)):  # layer by layer: the gathered copy is temporary memory
            for vectors, values, exponents in zip((source.keys, source.values), *self._pairs, strict=True):
                rounded = to_e4m3(vectors[layer, there, :, :longest])
                values[layer, here, :, :longest] = rounded.values.view(torch.uint8)
                exponents[layer, here, :, :longest] = rounded.exponents

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return *self._bytes, self.key_exponents, self.value_exponents

    @property
    def _pairs(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return self._bytes, (self.key_exponents, self.value_exponents)


CacheSlots = KVCache | Fp8Storage
"""Memory that the GPU's kernels decode from."""
