"""The cost of a model: parameters by module, memory for inference and training, FLOPs per token.

The model is built on the `meta` device, so counting even the largest one allocates nothing.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from glassgpt.model.build import meta_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.config_checks import LINEAR
from glassgpt.model.recurrent_cache import RecurrentCache
from glassgpt.model.window_cache import WindowCache

FLOAT32_BYTES = 4
ACTIVATION_BYTES_PER_VALUE = 34
"""Bytes kept for backward per position, layer and channel, with mixed precision and a fused attention kernel
(Korthikanti et al. 2022, eq. 1 without its quadratic term)."""
LOGIT_BYTES = 10
"""Bytes per logit at the peak of the loss: bf16 logits, their float32 copy and its gradient."""


@dataclass(frozen=True)
class ParameterCount:
    """One row of the parameter table.

    Attributes:
        name: parameter name; `blocks.*` stands for every block.
        shape: shape of one copy, as text.
        copies: number of copies.
        parameters: total over all copies.
    """

    name: str
    shape: str
    copies: int
    parameters: int


@functools.lru_cache(maxsize=32)
def count_parameters(config: ModelConfig) -> int:
    """Return the number of parameters, counting a tied head once."""
    return sum(p.numel() for p in meta_model(config).parameters())


def parameter_table(config: ModelConfig) -> list[ParameterCount]:
    """Return parameter counts in forward order; corresponding parameters of all blocks share a row."""
    counts: dict[str, ParameterCount] = {}
    for name, parameter in meta_model(config).named_parameters():
        head, _, tail = name.partition(".")
        label = f"blocks.*.{tail.partition('.')[2]}" if head == "blocks" else name
        before = counts.get(label, ParameterCount(label, "", 0, 0))
        shape = " × ".join(f"{n:,}" for n in parameter.shape)
        counts[label] = ParameterCount(label, shape, before.copies + 1, before.parameters + parameter.numel())
    return list(counts.values())


def flops_per_token(config: ModelConfig, context_length: int | None = None) -> int:
    """Return the floating-point operations of training on one token, forward and backward.

    That is 6 per parameter used in a matrix product (including a tied head) and 12 · n_head · head_width · T per layer for
    attention, where T is the context length or the layer's shorter window (Chowdhery et al. 2022, appendix B).
    Positions, biases and norms are not counted. A forward pass alone costs a third.
    """
    context = config.context_length if context_length is None else context_length
    matrices = sum(
        count.parameters for count in parameter_table(config) if count.name.startswith("blocks") and "×" in count.shape
    )
    head = config.vocab_size * config.n_embd
    if config.arch in LINEAR:  # three products of a vector with the (D, D) state, where attention has two for each key
        attended = config.n_layer * 3 * config.head_width // 2
    else:
        attended = sum(min(config.layer_window(layer) or context, context) for layer in range(config.n_layer))
    return 6 * (matrices + head) + 12 * config.attention_width * attended


@dataclass(frozen=True)
class MemoryEstimate:
    """Predicted memory in bytes by component; see `training_memory` and `inference_memory`."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    cache: int

    @property
    def total(self) -> int:
        """Sum of all components."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.cache


def training_memory(config: ModelConfig, batch_size: int) -> MemoryEstimate:
    """Estimate the memory to train with AdamW and float32 weights on `batch_size` full-context sequences at once."""
    parameters = count_parameters(config)
    tokens = batch_size * config.context_length
    return MemoryEstimate(
        weights=FLOAT32_BYTES * parameters,
        gradients=FLOAT32_BYTES * parameters,
        optimizer=2 * FLOAT32_BYTES * parameters,
        activations=tokens * config.n_layer * config.n_embd * ACTIVATION_BYTES_PER_VALUE,
        logits=tokens * config.vocab_size * LOGIT_BYTES,
        cache=0,
    )


def checkpoint_bytes(trained: int, *, averaged: bool) -> int:
    """Return the size of a checkpoint on disk: `trained` weights, AdamW's two moments and, if kept, averaged weights."""
    copies = 4 if averaged else 3
    return copies * FLOAT32_BYTES * trained


def cache_bytes_per_token(config: ModelConfig, bytes_per_value: int = FLOAT32_BYTES) -> int:
    """Return the bytes of one token's keys and values in all layers; none with linear attention."""
    if config.arch in LINEAR:
        return 0
    return 2 * config.n_layer * config.kv_heads * config.head_width * bytes_per_value


def cache_bytes(config: ModelConfig, n_tokens: int, bytes_per_value: int = FLOAT32_BYTES) -> int:
    """Return the bytes of the cache of one sequence."""
    if config.arch not in LINEAR:
        return n_tokens * cache_bytes_per_token(config, bytes_per_value)
    dtype = torch.float32 if bytes_per_value == FLOAT32_BYTES else torch.bfloat16
    return RecurrentCache(config, 1, dtype=dtype, device="meta").n_bytes


def window_cache_bytes(config: ModelConfig) -> int:
    """Return the bytes of the float32 cache of one full-context sequence that keeps only windows, where that is possible."""
    return WindowCache(config, 1, device="meta").n_bytes


def inference_memory(config: ModelConfig, batch_size: int, bytes_per_value: int = FLOAT32_BYTES) -> MemoryEstimate:
    """Estimate the memory to generate `batch_size` full-context sequences at once."""
    return MemoryEstimate(
        weights=bytes_per_value * count_parameters(config),
        gradients=0,
        optimizer=0,
        activations=0,
        logits=batch_size * config.vocab_size * FLOAT32_BYTES,
        cache=batch_size * cache_bytes(config, config.context_length, bytes_per_value),
    )
