"""One decoding step in kernels: the equivalent of `model(tokens, cache)` and sampling for one token per sequence.

Residual stream and logits are float32 whatever the weights' type is, so a step is closer to the float32 model than
its reference implementation in bfloat16.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import triton
from torch import Tensor, nn

from glassgpt.generation.gpu.kernels.model import add_norm_kernel, attention_kernel, embed_kernel
from glassgpt.generation.gpu.launch import cache_lines, launcher
from glassgpt.generation.gpu.layers import FusedLinear, FusedNorm, fuse_gpt2, fuse_modern
from glassgpt.generation.gpu.sampler import FusedSampler, SamplingLimits
from glassgpt.generation.gpu.slots import SlotState
from glassgpt.generation.gpu.tiles import ATTENTION_STAGES, ATTENTION_WARPS, FEW_ROWS, MAX_SPLITS, attention_block_keys
from glassgpt.model import modern
from glassgpt.model.cache import KVCache
from glassgpt.model.gpt2 import GPT2
from glassgpt.model.modern import Modern
from glassgpt.model.transformer import LanguageModel


class FusedStep:
    """Computes the next token of each of the first slots of a cache, without involving the host.

    Args:
        model: supported by the kernels; see `can_fuse`.
        cache: the slots. Its own lengths are not used; `state` has them.
        state: of the slots.
        vocab_size: the tokenizer's.
    """

    def __init__(self, model: LanguageModel, cache: KVCache, state: SlotState, vocab_size: int) -> None:
        self._model, self._cache, self._state = model, cache, state
        self._blocks, self._head = fuse_modern(model) if isinstance(model, Modern) else fuse_gpt2(cast(GPT2, model))
        self._norm = FusedNorm.from_module(model.norm)
        slots, width, device = cache.keys.size(1), model.config.n_embd, cache.keys.device
        like: dict[str, Any] = {"dtype": cache.keys.dtype, "device": device}
        self._x = torch.empty(slots, width, device=device)  # the residual stream
        self._normed = torch.empty(slots, width, **like)
        self._qkv = torch.empty(slots, self._blocks[0].qkv.weight.size(0), **like)
        self._attended = torch.empty(slots, width, **like)
        self._hidden = torch.empty(slots, self._blocks[0].up.weight.size(0), **like)
        self._parts = torch.empty(MAX_SPLITS * slots * width, device=device)
        # Rows start at whole cache lines, so that they can be loaded 16 bytes at a time.
        padded = -(-self._head.weight.size(0) // 32) * 32
        self.logits = torch.empty(slots, padded, device=device)[:, : self._head.weight.size(0)]
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
        attended, hidden = self._attended[:rows], self._hidden[:rows]
        norms = [*(block.norm1 for block in self._blocks), self._norm]
        self._embed(x, normed, norms[0])
        for layer, block in enumerate(self._blocks):
            block.qkv(normed, qkv)
            self._attend(layer, qkv, attended)
            self._add(block.out, attended, x, normed, block.norm2)
            block.up(normed, hidden)
            self._add(block.down, hidden, x, normed, norms[layer + 1])
        self._head(normed, self.logits[:rows])

    def _embed(self, x: Tensor, normed: Tensor, norm: FusedNorm) -> None:
        model, width = self._model, x.size(1)
        tokens = cast(nn.Embedding, model.token_embedding).weight
        positions = model.position_embedding.weight if isinstance(model, GPT2) else tokens
        launcher(embed_kernel, x.size(0), (x.size(0),), 4)(
            self._state.ints, tokens, positions, x, _or(norm.gain, tokens), _or(norm.shift, tokens), normed,
            self._n_slots, model.config.context_length, norm.eps, modern.NORM_EPS,
            WIDTH=width, BLOCK=triton.next_power_of_2(width), MODERN=isinstance(model, Modern),
            HAS_GAIN=norm.gain is not None, HAS_SHIFT=norm.shift is not None,
        )  # fmt: skip

    def _add(self, linear: FusedLinear, y: Tensor, x: Tensor, normed: Tensor, norm: FusedNorm) -> None:
        """Compute x += linear(y), and normed = norm(x)."""
        parts, width = linear.in_parts(y, self._parts), x.size(1)
        launcher(add_norm_kernel, x.size(0), (x.size(0),), 4)(
            x, parts, _or(linear.bias, x), _or(norm.gain, x), _or(norm.shift, x), normed, x.size(0), norm.eps,
            WIDTH=width, BLOCK=triton.next_power_of_2(width), SPLITS=parts.size(0),
            MODERN=isinstance(self._model, Modern), HAS_BIAS=linear.bias is not None,
            HAS_GAIN=norm.gain is not None, HAS_SHIFT=norm.shift is not None,
        )  # fmt: skip

    def _attend(self, layer: int, qkv: Tensor, attended: Tensor) -> None:
        config, keys = self._model.config, self._cache.keys[layer]
        is_modern = isinstance(self._model, Modern)
        cos, sin = (self._model.rotary.cos, self._model.rotary.sin) if isinstance(self._model, Modern) else (keys, keys)
        window = config.layer_window(layer) if is_modern else 0
        rows, capacity = qkv.size(0), self._cache.capacity
        half = max(16, triton.next_power_of_2(config.head_dim // 2))
        block_keys = attention_block_keys(half)
        # Many rows keep the memory busy anyway; prefetching more than one block of keys would only get in the way.
        n_prefetched = capacity if rows <= FEW_ROWS else block_keys
        launcher(attention_kernel, rows, (rows, config.kv_heads), ATTENTION_WARPS, ATTENTION_STAGES)(
            self._state.ints, qkv, keys, self._cache.values[layer], cos, sin, attended,
            self._n_slots, capacity, n_prefetched, window, config.head_dim**-0.5, modern.NORM_EPS,
            N_HEAD=config.n_head, KV_HEADS=config.kv_heads, HEAD_DIM=config.head_dim, HALF=half,
            QUERIES=max(16, triton.next_power_of_2(config.n_head // config.kv_heads)),
            BLOCK_S=block_keys, LINES=cache_lines(config.head_dim * keys.element_size()), MODERN=is_modern,
        )  # fmt: skip

    @property
    def _n_slots(self) -> int:
        return self._state.ints.size(1)


def _or(tensor: Tensor | None, placeholder: Tensor) -> Tensor:
    """Return the tensor, or a placeholder that the kernel ignores."""
    return placeholder if tensor is None else tensor
