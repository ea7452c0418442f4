"""A KV cache whose blocks with windows keep only the positions that a later token can see.

Such a block has `window + n_new - 1` places, in which position p takes the place of an old one: number p modulo their
count. The first `sinks` positions have places of their own in front of them. Keys carry their absolute rotation, so the
order of the places does not matter, and what a block computes is what it computes with all keys (`KVCache`, the reference).

Two things follow. Tokens can be taken back only as far as nothing needed was overwritten, and padding must not be stored:
its length is given in advance (`expect`), and what lies behind goes to one more place that nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from glassgpt.model.cache import KVCache
from glassgpt.model.cache_storage import CacheStorage
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.whole_media import WholeMedia


class WindowCache(KVCache):
    """Keys and values of every layer, the older ones only where a block sees the whole context; see `KVCache`.

    Args:
        config: the model's shape, with a window.
        slots: number of sequences B.
        capacity: positions C per slot; defaults to the model's context length.
        n_new: new tokens per pass of the model, at most.
        dtype: of keys and values; must be the model's.
        device: the model's device.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        capacity: int | None = None,
        *,
        n_new: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self._window, self._sinks = config.window, config.sinks
        self._max_new, self._ring = n_new, config.window + n_new - 1
        kinds = [bool(config.layer_window(layer)) for layer in range(config.n_layer)]
        self._rows = [(kind, kinds[:layer].count(kind)) for layer, kind in enumerate(kinds)]  # number among its kind
        capacity = config.context_length if capacity is None else capacity

        def zeros(layers: int, places: int) -> Tensor:
            shape = (layers, slots, config.kv_heads, places, config.head_width)
            return torch.zeros(shape, dtype=dtype, device=device)

        self._set_tensors(*(zeros(kinds.count(False), capacity) for _ in range(2)))
        self._recent = tuple(zeros(kinds.count(True), self._sinks + self._ring + 1) for _ in range(2))
        self._lengths = torch.zeros(slots, dtype=torch.long)
        self._expected: Tensor | None = None

    @property
    def n_bytes(self) -> int:
        """Bytes of keys and values together."""
        return super().n_bytes + sum(tensor.nbytes for tensor in self._recent)

    def expect(self, lengths: Sequence[int]) -> None:
        """See `CacheStorage.expect`."""
        self._expected = torch.tensor(list(lengths), dtype=torch.long)

    def begin(self, n_tokens: int) -> None:
        """See `KVCache.begin`.

        Raises:
            IndexError: also if these are more new tokens than the cache was made for.
        """
        if n_tokens > self._max_new:
            raise IndexError(f"{n_tokens} new tokens, but this cache takes at most {self._max_new} at once")
        super().begin(n_tokens)
        device, sinks, places = self._keys.device, self._sinks, self._sinks + self._ring
        ends = self._stored(self._lengths + n_tokens)  # (B,)
        self._ends = ends.to(device)
        self._is_padded = bool((ends < self._lengths + n_tokens).any())
        self._seen = min(self._extent, places)  # places that attention reads
        # As long as nothing was overwritten, places are positions, and a batch of one length needs no mask. Later a single
        # new token sees all of the places, if there are no more than its window.
        is_plain = self._uniform and not self._is_padded
        self._is_whole = is_plain and (self._extent <= places or (n_tokens == 1 and self._ring == self._window))
        first = self._place(torch.tensor(self._extent - n_tokens)).item()
        self._new = slice(int(first), int(first) + n_tokens)
        self._is_slice = is_plain and self._new.stop <= places and not self._new.start < sinks < self._new.stop
        if not self._is_slice:
            placed = self._place(self._positions)  # (B, T)
            self._places = torch.where(self._positions < self._ends[:, None], placed, places)

    def mask(self, window: int = 0, sinks: int = 0) -> Tensor | None:
        """See `KVCache.mask`; with a window, S are the places that `append` returned."""
        if not window:
            return super().mask()
        if (window, sinks) not in self._masks:
            self._masks[window, sinks] = None if self._is_whole else self._recent_mask()
        return self._masks[window, sinks]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """See `KVCache.append`; of a block with a window, the keys and values that it still has."""
        is_recent, row = self._rows[layer]
        if not is_recent:
            return super().append(row, k, v)
        keys, values = self._tensors_of(layer)
        if self._is_slice:
            keys[:, :, self._new], values[:, :, self._new] = k, v
        else:
            keys[self._slot_index, :, self._places] = k.transpose(1, 2)
            values[self._slot_index, :, self._places] = v.transpose(1, 2)
        return keys[:, :, : self._seen], values[:, :, : self._seen]

    def truncate(self, lengths: Sequence[int]) -> None:
        """See `CacheStorage.truncate`.

        Raises:
            ValueError: also if positions that the next token would see were overwritten.
        """
        for slot, length in enumerate(lengths[: len(self.lengths)]):
            self._require(slot, length)
        super().truncate(lengths)
        self._expected = None

    def _require(self, slot: int, length: int) -> None:
        """Check that a token behind the first `length` ones of a slot finds all that it sees."""
        held = int(self._stored(self._lengths)[slot])
        first_seen, first_kept = max(self._sinks, length - self._window + 1), held - self._ring
        if length > held or (length > self._sinks and first_kept > first_seen):
            raise ValueError(f"a cache of windows cannot return from {held} tokens to {length}")

    def select(self, slots: Sequence[int]) -> None:
        """See `CacheStorage.select`."""
        super().select(slots)
        self._recent = tuple(tensor[:, list(slots)] for tensor in self._recent)

    def first_slots(self, count: int) -> Self:
        """See `CacheStorage.first_slots`."""
        view = super().first_slots(count)
        view._recent = tuple(tensor[:, :count] for tensor in self._recent)
        return view

    def copy_slot(self, slot: int, source: CacheStorage, source_slot: int, length: int | None = None) -> None:
        """See `CacheStorage.copy_slot`; the source may also be a cache that keeps everything."""
        held = source.lengths[source_slot] if length is None else length
        kept = self._ring
        if isinstance(source, WindowCache):
            source._require(source_slot, held)
            kept = min(kept, source._ring)
        positions = torch.arange(held, device=self._keys.device)
        positions = positions[(positions < self._sinks) | (positions >= held - kept)]
        here, there = self._place(positions), source._place(positions) if isinstance(source, WindowCache) else positions
        for layer, (is_recent, _) in enumerate(self._rows):
            is_same = isinstance(source, WindowCache)
            others = source._tensors_of(layer) if is_same else (source.keys[layer], source.values[layer])
            for ours, theirs in zip(self._tensors_of(layer), others, strict=True):
                if is_recent:
                    ours[slot][:, here] = theirs[source_slot][:, there]
                else:
                    ours[slot, :, :held] = theirs[source_slot, :, :held]
        self._lengths[slot] = held

    def copy_slots(
        self, slots: Sequence[int], source: CacheStorage, source_slots: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """See `CacheStorage.copy_slots`."""
        for slot, source_slot, length in zip(slots, source_slots, lengths, strict=True):
            self.copy_slot(slot, source, source_slot, length)

    def _tensors_of(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values of a layer, (B, K, places, D) each."""
        is_recent, row = self._rows[layer]
        keys, values = self._recent if is_recent else (self._keys, self._values)
        return keys[row], values[row]

    def _stored(self, lengths: Tensor) -> Tensor:
        """Return how many tokens of each slot are not padding, (B,)."""
        return lengths if self._expected is None else torch.minimum(lengths, self._expected)

    def _place(self, positions: Tensor) -> Tensor:
        """Return the places of positions in a block with a window."""
        behind = positions - self._sinks
        return torch.where(behind < 0, positions, self._sinks + behind % self._ring)

    def _recent_mask(self) -> Tensor:
        # Place j holds the latest stored position that is assigned to it. Tokens of the padding see what the last token
        # sees: they must see something, as the average of nothing is NaN.
        places = torch.arange(self._seen, device=self._keys.device)  # (S,)
        last = self._ends[:, None, None] - 1  # (B, 1, 1)
        held = torch.where(places < self._sinks, places, last - (last - places) % self._ring)
        positions = torch.minimum(self._positions[..., None], last)  # (B, T, 1)
        in_window = (held >= self._sinks) & (held > positions - self._window)
        return ((held <= positions) & (in_window | (places < self._sinks)))[:, None]


def decoding_cache(model: LanguageModel, slots: int, capacity: int, n_new: int = 1) -> KVCache:
    """Return an empty cache for passes of at most `n_new` tokens: one that keeps windows, if that is smaller.

    Args:
        model: whose texts are generated; one with parts of the user's own, or whose media are seen as a whole whatever the
            window, gets the cache that keeps everything.
        slots: number of sequences.
        capacity: positions per slot.
        n_new: new tokens per pass, at most.
    """
    config = model.config
    keeps_all = config.plugins or isinstance(model, WholeMedia)
    if not config.window or keeps_all or capacity <= config.sinks + config.window + n_new:
        return model.new_cache(slots, capacity)
    weights = next(model.parameters())
    return WindowCache(config, slots, capacity, n_new=n_new, dtype=weights.dtype, device=weights.device)
