"""The memory of linear attention: per layer and sequence a state of constant size, in slots like a `KVCache`.

A state cannot be shortened, because it does not say what a single token has added. Two consequences: tokens behind the end
of a shorter prompt must not enter it, so that the lengths are given in advance (`expect`); and a slot can go back by one
pass of the model only, to the state before that pass, which is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from glassgpt.model.cache import KVCache
from glassgpt.model.cache_storage import CacheStorage
from glassgpt.model.config import ModelConfig

CONVOLVED = 4
"""Positions that the short convolution combines, the current one included."""


@dataclass(frozen=True)
class LayerState:
    """Inputs and memory of a layer, from which it continues a text.

    Attributes:
        inputs: (B, CONVOLVED - 1, C) inputs of the short convolution at the last positions.
        state: (B, H, D, D) float32, the memory.
        is_real: (B, T) bool, False for padding among the new tokens; None if there is none.
    """

    inputs: Tensor
    state: Tensor
    is_real: Tensor | None


class RecurrentCache(KVCache):
    """The states of all layers; see `KVCache` for what a model and an engine call.

    Args:
        config: the model's shape.
        slots: number of sequences B.
        capacity: positions per slot, which cost no memory; defaults to the model's context length.
        dtype: of the model.
        device: the model's device.
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
        width, heads = config.head_width, config.n_head
        inputs = torch.zeros(
            config.n_layer, slots, CONVOLVED - 1, 3 * config.attention_width, dtype=dtype, device=device
        )
        states = torch.zeros(config.n_layer, slots, heads, width, width, device=device)
        self._capacity = config.context_length if capacity is None else capacity
        self._lengths = torch.zeros(slots, dtype=torch.long)
        self._lengths_before = self._lengths.clone()
        self._tensors = (inputs, states)
        self._before = (inputs.clone(), states.clone())
        self._expected: Tensor | None = None

    @staticmethod
    def of(cache: KVCache) -> RecurrentCache:
        """Return the cache, if it is one for linear attention.

        Raises:
            TypeError: it is not: several conversations in one row, or a tracer's.
        """
        if not isinstance(cache, RecurrentCache):
            raise TypeError(f"linear attention needs a RecurrentCache, not a {type(cache).__name__}")
        return cache

    @property
    def capacity(self) -> int:
        """Number of positions per slot."""
        return self._capacity

    @property
    def n_bytes(self) -> int:
        """Bytes of the states, and of those before the last pass."""
        return 2 * sum(tensor.nbytes for tensor in self._tensors)

    def expect(self, lengths: Sequence[int]) -> None:
        """See `CacheStorage.expect`."""
        self._expected = torch.tensor(list(lengths), dtype=torch.long)

    def begin(self, n_tokens: int) -> None:
        """See `KVCache.begin`."""
        longest = int(self._lengths.max())
        if longest + n_tokens > self.capacity:
            raise IndexError(f"{longest} cached + {n_tokens} new tokens exceed the cache of {self.capacity}")
        expected = self._lengths + n_tokens if self._expected is None else self._expected
        self._n_real = (expected - self._lengths).clamp(0, n_tokens)  # (B,)
        device, new = self._tensors[0].device, torch.arange(n_tokens)
        self._positions = (self._lengths[:, None] + new).to(device)
        is_real = new < self._n_real[:, None]  # (B, T)
        self._is_real = None if bool(is_real.all()) else is_real.to(device)
        self._new: list[tuple[Tensor, Tensor]] = []

    def read(self, layer: int) -> LayerState:
        """Return the state of a layer before the new tokens."""
        inputs, states = self._tensors
        return LayerState(inputs[layer], states[layer], self._is_real)

    def write(self, layer: int, inputs: Tensor, state: Tensor) -> None:
        """Note the state of the next layer after the new tokens; `commit` stores it.

        Args:
            layer: number of the layer; layers write in order.
            inputs: (B, CONVOLVED - 1 + T, C), inputs of its short convolution, those before the new tokens in front.
            state: (B, H, D, D).
        """
        assert layer == len(self._new)
        # The last ones of each sequence's own tokens: its padding is behind them.
        at = self._n_real[:, None] + torch.arange(CONVOLVED - 1)
        at = at.to(inputs.device)[..., None].expand(-1, -1, inputs.size(2))
        self._new.append((inputs.gather(1, at), state))

    def commit(self) -> None:
        """See `KVCache.commit`; the states before the pass are kept for one step back."""
        self._lengths_before.copy_(self._lengths)
        for kept, current in zip(self._before, self._tensors, strict=True):
            kept.copy_(current)
        for layer, new in enumerate(self._new):
            for tensor, values in zip(self._tensors, new, strict=True):
                tensor[layer] = values
        self._new = []
        self._lengths += self._n_real

    def truncate(self, lengths: Sequence[int]) -> None:
        """Return slots to the given lengths: empty, what they hold, or what they held before the last pass.

        Raises:
            ValueError: a slot has no state of that length.
        """
        held, before = self.lengths, tuple(self._lengths_before.tolist())
        for slot, length in enumerate(lengths):
            if length == held[slot]:
                continue
            if length not in (0, before[slot]):
                raise ValueError(f"linear attention cannot return from {held[slot]} tokens to {length}")
            for tensor, kept in zip(self._tensors, self._before, strict=True):
                tensor[:, slot] = kept[:, slot] if length == before[slot] else 0
            self._lengths[slot] = length
        self._expected = None

    def select(self, slots: Sequence[int]) -> None:
        """See `CacheStorage.select`."""
        index = list(slots)
        for name in ("_tensors", "_before"):
            inputs, states = getattr(self, name)
            setattr(self, name, (inputs[:, index], states[:, index]))
        self._lengths, self._lengths_before = self._lengths[index], self._lengths_before[index]

    def first_slots(self, count: int) -> Self:
        """See `CacheStorage.first_slots`."""
        view = self.__new__(type(self))
        view.__dict__.update(self.__dict__)
        for name in ("_tensors", "_before"):
            inputs, states = getattr(self, name)
            setattr(view, name, (inputs[:, :count], states[:, :count]))
        view._lengths, view._lengths_before = self._lengths[:count], self._lengths_before[:count]
        return view

    def copy_slot(self, slot: int, source: CacheStorage, source_slot: int, length: int | None = None) -> None:
        """See `CacheStorage.copy_slot`.

        Raises:
            ValueError: the source has no state of that length.
        """
        assert isinstance(source, RecurrentCache)
        held = source.lengths[source_slot]
        if length not in (None, 0, held):
            raise ValueError(f"linear attention cannot return from {held} tokens to {length}")
        for tensor, other in zip(self._tensors, source._tensors, strict=True):
            tensor[:, slot] = 0 if length == 0 else other[:, source_slot]
        self._lengths[slot] = 0 if length == 0 else held
        self._lengths_before[slot] = -1  # no earlier state is known

    def copy_slots(
        self, slots: Sequence[int], source: CacheStorage, source_slots: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """See `CacheStorage.copy_slots`."""
        for slot, source_slot, length in zip(slots, source_slots, lengths, strict=True):
            self.copy_slot(slot, source, source_slot, length)
