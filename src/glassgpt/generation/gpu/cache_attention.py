"""Attention of a step's new tokens over the cache: which kernels are launched, and how.

The kernel is chosen once, by the model's shape alone: a text has the same bits in any batch and with any capacity.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from glassgpt.generation.gpu import tiles
from glassgpt.generation.gpu.kernels.attention import (
    attention_kernel,
    chunk_attention_kernel,
    combine_kernel,
    row_attention_kernel,
)
from glassgpt.generation.gpu.launch import cache_lines, launcher
from glassgpt.generation.gpu.slots import StepState
from glassgpt.generation.gpu.tiles import (
    ATTENTION_WARPS,
    FEW_ROWS,
    LONG_CONTEXT,
    PREFETCHED_BYTES,
    attention_block_keys,
    attention_chunk_keys,
)
from glassgpt.model import modern
from glassgpt.model.config import ModelConfig
from glassgpt.model.fp8_cache import CacheSlots, Fp8Storage


class RowAttention:
    """`row_attention_kernel`: attention from one or several successive tokens of each slot.

    Args:
        config: the model's shape.
        cache: the slots.
        state: a column for each row of a step.
        rotation: see `FusedModel`.
        is_normed: see `FusedModel`.
    """

    def __init__(
        self,
        config: ModelConfig,
        cache: CacheSlots,
        state: StepState,
        rotation: tuple[Tensor, Tensor] | None,
        *,
        is_normed: bool,
    ) -> None:
        self._config, self._cache, self._state = config, cache, state
        self._rotation = rotation or (cache.keys, cache.keys)  # the kernels ignore placeholders
        in_fp8 = isinstance(cache, Fp8Storage)
        self._exponents = (cache.key_exponents, cache.value_exponents) if in_fp8 else (cache.keys, cache.values)
        self._stages = tiles.FP8_ATTENTION_STAGES if in_fp8 else tiles.ATTENTION_STAGES
        half = max(16, triton.next_power_of_2(config.head_width // 2))
        self._block_keys = attention_block_keys(half)
        self._shape: dict[str, Any] = {
            "N_HEAD": config.n_head, "KV_HEADS": config.kv_heads, "HEAD_DIM": config.head_width, "HALF": half,
            "QUERIES": attention_queries(config), "BLOCK_S": self._block_keys,
            "LINES": cache_lines(config.head_width * cache.keys.element_size()),
            "ROTATED": rotation is not None, "NORMED_HEADS": is_normed, "IN_FP8": in_fp8,
        }  # fmt: skip

    def __call__(self, layer: int, qkv: Tensor, attended: Tensor, width: int) -> None:
        """Store the new keys and values of a layer, and attend.

        Args:
            layer: which layer.
            qkv: queries, keys and values of the new tokens, (M, (H + 2K) · D).
            attended: output, (M, H · D).
            width: rows of each slot, at successive positions; M is a multiple of it.
        """
        self._launch(row_attention_kernel, layer, qkv, attended, qkv.size(0) // width, width=width)

    def _launch(self, kernel: Any, layer: int, qkv: Tensor, attended: Tensor, slots: int, **more: int) -> None:
        # Many rows keep the memory busy anyway; prefetching more than one block of keys would only get in the way.
        n_prefetched = self._cache.capacity if slots <= FEW_ROWS else self._block_keys
        launcher(kernel, qkv.size(0), (slots, self._config.kv_heads), ATTENTION_WARPS, self._stages)(
            self._state.ints, qkv, *self._memory(layer), *self._rotation, attended,
            slots=self._n_columns, capacity=self._cache.capacity, n_prefetched=n_prefetched, **more,
            window=self._config.layer_window(layer), scale=self._scale, eps=modern.NORM_EPS, **self._shape,
        )  # fmt: skip

    def _memory(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return keys and values of a layer, and their exponents; the kernels ignore these placeholders, too."""
        keys_and_values = self._cache.keys[layer], self._cache.values[layer]
        return *keys_and_values, self._exponents[0][layer], self._exponents[1][layer]

    @property
    def _n_columns(self) -> int:
        return self._state.ints.size(1)

    @property
    def _scale(self) -> float:
        return self._config.head_width**-0.5


class SingleAttention(RowAttention):
    """`attention_kernel`: attention from one token of each slot, 1 % faster than `RowAttention`."""

    def __call__(self, layer: int, qkv: Tensor, attended: Tensor, width: int) -> None:
        """See `RowAttention`; `width` must be 1."""
        assert width == 1
        self._launch(attention_kernel, layer, qkv, attended, qkv.size(0))


class ChunkAttention(RowAttention):
    """`chunk_attention_kernel` and `combine_kernel`: several programs share the keys of a slot.

    Args:
        config: see `RowAttention`, as are the others.
        cache: the slots.
        state: a column for each row of a step.
        rotation: see `FusedModel`.
        is_normed: see `FusedModel`.
    """

    def __init__(
        self,
        config: ModelConfig,
        cache: CacheSlots,
        state: StepState,
        rotation: tuple[Tensor, Tensor] | None,
        *,
        is_normed: bool,
    ) -> None:
        super().__init__(config, cache, state, rotation, is_normed=is_normed)
        self._chunk = attention_chunk_keys(self._block_keys, config.context_length)
        n_chunks = triton.next_power_of_2(triton.cdiv(config.context_length, self._chunk))
        shape = (self._n_columns, config.n_head, n_chunks)
        self._maxima, self._totals = torch.empty(2, *shape, device=cache.keys.device)
        self._sums = torch.empty(*shape, config.head_width, device=cache.keys.device)
        self._chunks = {"CHUNK": self._chunk, "CHUNKS": n_chunks}

    def __call__(self, layer: int, qkv: Tensor, attended: Tensor, width: int) -> None:
        """See `RowAttention`."""
        config, cache, rows = self._config, self._cache, qkv.size(0)
        slots, window, parts = rows // width, config.layer_window(layer), (self._maxima, self._totals, self._sums)
        n_chunks = triton.cdiv(cache.capacity, self._chunk)
        grid = (slots, config.kv_heads, n_chunks)
        launcher(chunk_attention_kernel, rows, grid, ATTENTION_WARPS, self._stages)(
            self._state.ints, qkv, *self._memory(layer), *self._rotation, *parts,
            slots=self._n_columns, width=width, capacity=cache.capacity, n_prefetched=self._n_prefetched(grid),
            window=window, scale=self._scale, eps=modern.NORM_EPS, **self._shape, **self._chunks,
        )  # fmt: skip
        launcher(combine_kernel, rows, (rows, config.n_head), 4)(
            self._state.ints, *parts, attended, columns=self._n_columns, capacity=cache.capacity, window=window,
            N_HEAD=config.n_head, HEAD_DIM=config.head_width, BLOCK_D=triton.next_power_of_2(config.head_width),
            **self._chunks,
        )  # fmt: skip

    def _n_prefetched(self, grid: tuple[int, int, int]) -> int:
        """Return how many keys of its chunk each program prefetches, so that all fit into the L2 cache."""
        slots, kv_heads, n_chunks = grid
        if slots > FEW_ROWS:
            return 0
        bytes_per_key = 2 * self._config.head_width * self._cache.keys.element_size()
        return min(self._chunk, PREFETCHED_BYTES // (slots * kv_heads * n_chunks * bytes_per_key))


def select_attention(config: ModelConfig, *, is_normed: bool, has_several_rows: bool) -> type[RowAttention]:
    """Return how a model attends.

    Args:
        config: the model's shape.
        is_normed: see `FusedModel`. Where keys are normalized, squares of keys are added in the order of `RowAttention` always.
        has_several_rows: whether slots may have several rows per step.
    """
    if config.context_length > LONG_CONTEXT:
        return ChunkAttention
    return RowAttention if is_normed or has_several_rows else SingleAttention


def attention_queries(config: ModelConfig) -> int:
    """Return the number of queries in a tile of attention; at least 16, as the tensor cores need."""
    return max(16, triton.next_power_of_2(config.n_head // config.kv_heads))
