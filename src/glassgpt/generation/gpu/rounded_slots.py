"""Slots in 8 bits whose prompts are rounded by a kernel: in PyTorch, it would take some 300 launches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton

from glassgpt.generation.gpu.kernels.rounding import round_slots_kernel
from glassgpt.generation.gpu.launch import launcher
from glassgpt.model.cache_storage import CacheStorage
from glassgpt.model.fp8_cache import Fp8Storage

BLOCK_TOKENS = 32
"""Positions per program."""


class RoundedSlots(Fp8Storage):
    """An `Fp8Storage`, of which `copy_slots` is the readable reference implementation."""

    def copy_slots(
        self, slots: Sequence[int], source: CacheStorage, source_slots: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """See `Fp8Storage`."""
        if not any(lengths):
            return
        places = torch.tensor([list(slots), list(source_slots), list(lengths)], dtype=torch.int32).to(self.keys.device)
        n_layer, n_slots, kv_heads, capacity, width = self.keys.shape
        grid = (n_layer * kv_heads, len(slots), triton.cdiv(max(lengths), BLOCK_TOKENS))
        for vectors, values, exponents in (
            (source.keys.contiguous(), self.keys, self.key_exponents), (source.values.contiguous(), self.values, self.value_exponents),
        ):  # fmt: skip
            launcher(round_slots_kernel, len(slots), grid, 4)(
                vectors, values, exponents, places, n_slots, capacity, vectors.size(1), vectors.size(3),
                KV_HEADS=kv_heads, HEAD_DIM=width, HALF=max(16, triton.next_power_of_2(width // 2)), BLOCK_T=BLOCK_TOKENS,
            )  # fmt: skip
