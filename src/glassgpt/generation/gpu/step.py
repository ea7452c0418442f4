"""One decoding step in kernels: the equivalent of `model(tokens, cache)` and sampling for one token per sequence.

Residual stream and logits are float32 whatever the weights' type is, so a step is closer to the float32 model than
its reference implementation in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from glassgpt.generation.gpu.cache_attention import select_attention
from glassgpt.generation.gpu.kernels.model import (
    add_norm_kernel,
    embed_kernel,
    gate_kernel,
)
from glassgpt.generation.gpu.launch import launcher
from glassgpt.generation.gpu.layers import FusedLinear, FusedNorm, fuse
from glassgpt.generation.gpu.sampler import FusedSampler, SamplingLimits
from glassgpt.generation.gpu.slots import StepState
from glassgpt.generation.gpu.tiles import MAX_SPLITS
from glassgpt.model import modern
from glassgpt.model.fp8_cache import CacheSlots
from glassgpt.model.transformer import LanguageModel

GATE_BLOCK = 1024
"""Columns of the hidden layer per program of `gate_kernel`."""


class FusedStep:
    """Computes the next token of each of the first slots of a cache, without involving the host.

    Args:
        model: supported by the kernels; see `can_fuse`.
        cache: the slots. Lengths of its own are not used; `state` has them.
        state: of the slots.
        vocab_size: the tokenizer's.

    Attributes:
        width: rows of each slot in the next step, at successive positions; more than one only in a `RowStep`.
    """

    width = 1
    _has_several_rows = False

    def __init__(self, model: LanguageModel, cache: CacheSlots, state: StepState, vocab_size: int) -> None:
        self._config, self._state = model.config, state
        self._fused = fused = fuse(model)
        attention = select_attention(model.config, is_normed=fused.is_normed, has_several_rows=self._has_several_rows)
        self._attend = attention(model.config, cache, state, fused.rotation, is_normed=fused.is_normed)
        first, head = self._fused.blocks[0], self._fused.head
        rows, width, device = state.ints.size(1), model.config.n_embd, cache.keys.device
        like: dict[str, Any] = {"dtype": self._fused.tokens.dtype, "device": device}
        self._x = torch.empty(rows, width, device=device)  # the residual stream
        self._normed = torch.empty(rows, width, **like)
        self._qkv = torch.empty(rows, first.qkv.weight.size(0), **like)
        self._attended = torch.empty(rows, first.out.weight.size(1), **like)
        self._up = torch.empty(rows, first.up.weight.size(0), **like)
        self._hidden = torch.empty(rows, first.down.weight.size(1), **like) if self._fused.is_gated else self._up
        self._parts = torch.empty(MAX_SPLITS * rows * width, device=device)
        # Rows start at whole cache lines, so that they can be loaded 16 bytes at a time.
        padded = -(-head.weight.size(0) // 32) * 32
        self.logits = torch.empty(rows, padded, device=device)[:, : head.weight.size(0)]
        self.sample = FusedSampler(state, vocab_size, self.logits)

    def __call__(self, rows: int, sampled: Tensor, limits: SamplingLimits) -> None:
        """Feed each row's newest token and write its next one into `sampled` (M or more,) int32.

        Args:
            rows: M, from slot 0 on.
            sampled: output tensor.
            limits: what the rows' options need.
        """
        self.feed(rows)
        self.sample(rows, sampled, limits)

    def feed(self, rows: int) -> None:
        """Write the newest tokens' keys and values into the cache and compute `logits`; lengths do not change yet."""
        x, normed, qkv = self._x[:rows], self._normed[:rows], self._qkv[:rows]
        attended, up, hidden = self._attended[:rows], self._up[:rows], self._hidden[:rows]
        norms = [*(block.norm1 for block in self._fused.blocks), self._fused.norm]
        self._embed(x, normed, norms[0])
        for layer, block in enumerate(self._fused.blocks):
            block.qkv(normed, qkv)
            self._attend(layer, qkv, attended, self.width)
            self._add(block.out, attended, x, normed, block.norm2)
            block.up(normed, up)
            if self._fused.is_gated:
                self._gate(up, hidden)
            self._add(block.down, hidden, x, normed, norms[layer + 1])
        self._fused.head(normed, self.logits[:rows])

    def _embed(self, x: Tensor, normed: Tensor, norm: FusedNorm) -> None:
        fused, width = self._fused, x.size(1)
        launcher(embed_kernel, x.size(0), (x.size(0),), 4)(
            self._state.ints, fused.tokens, _or(fused.positions, x), x, _or(norm.gain, x), _or(norm.shift, x), normed,
            self._n_columns, self._config.context_length, norm.eps, modern.NORM_EPS,
            WIDTH=width, BLOCK=triton.next_power_of_2(width), HAS_POSITIONS=fused.positions is not None,
            IS_NORMED=fused.is_normed, CENTERED=norm.is_centered,
            HAS_GAIN=norm.gain is not None, HAS_SHIFT=norm.shift is not None,
        )  # fmt: skip

    def _add(self, linear: FusedLinear, y: Tensor, x: Tensor, normed: Tensor, norm: FusedNorm) -> None:
        """Compute x += linear(y), and normed = norm(x)."""
        parts, width = linear.in_parts(y, self._parts), x.size(1)
        launcher(add_norm_kernel, x.size(0), (x.size(0),), 4)(
            x, parts, _or(linear.bias, x), _or(norm.gain, x), _or(norm.shift, x), normed, x.size(0), norm.eps,
            WIDTH=width, BLOCK=triton.next_power_of_2(width), SPLITS=parts.size(0),
            CENTERED=norm.is_centered, HAS_BIAS=linear.bias is not None,
            HAS_GAIN=norm.gain is not None, HAS_SHIFT=norm.shift is not None,
        )  # fmt: skip

    def _gate(self, up: Tensor, hidden: Tensor) -> None:
        """Compute the hidden layer from gate and up side by side."""
        rows, width = hidden.shape
        launcher(gate_kernel, rows, (rows, triton.cdiv(width, GATE_BLOCK)), 4)(
            up, hidden, WIDTH=width, BLOCK=GATE_BLOCK
        )

    @property
    def _n_columns(self) -> int:
        return self._state.ints.size(1)


def _or(tensor: Tensor | None, placeholder: Tensor) -> Tensor:
    """Return the tensor, or a placeholder that the kernel ignores."""
    return placeholder if tensor is None else tensor
