"""What a model costs: parameters by part, memory to run and to train, arithmetic per token.

The model is built on the `meta` device, so that counting even the largest one takes no memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

FLOAT32_BYTES = 4
ACTIVATION_BYTES_PER_VALUE = 34
"""Bytes kept for backward per position, layer and channel under mixed precision with a fused attention
kernel (Korthikanti et al. 2022, eq. 1 without its quadratic term)."""
LOGIT_BYTES = 10
"""Bytes per logit at the peak of the loss: bf16 logits, their float32 copy and its gradient."""


@dataclass(frozen=True)
class ParameterCount:
    """One line of the parameter table.

    Attributes:
        name: what it is.
        shape: of one copy, as text.
        copies: how many there are.
        parameters: in all copies together.
    """

    name: str
    shape: str
    copies: int
    parameters: int


def _skeleton(config: ModelConfig) -> torch.nn.Module:
    with torch.device("meta"):
        return build_model(config)


def count_parameters(config: ModelConfig) -> int:
    """All parameters, the tied head counted once."""
    return sum(p.numel() for p in _skeleton(config).parameters())


def parameter_table(config: ModelConfig) -> list[ParameterCount]:
    """The parameters by part, the same part of every block on one line, in the order of the data's way."""
    parts: dict[str, ParameterCount] = {}
    for name, parameter in _skeleton(config).named_parameters():
        head, _, tail = name.partition(".")
        label = f"blocks.*.{tail.partition('.')[2]}" if head == "blocks" else name
        before = parts.get(label, ParameterCount(label, "", 0, 0))
        shape = " × ".join(f"{n:,}" for n in parameter.shape)
        parts[label] = ParameterCount(label, shape, before.copies + 1, before.parameters + parameter.numel())
    return list(parts.values())


def flops_per_token(config: ModelConfig, context_length: int | None = None) -> int:
    """Floating-point operations to train on one token, forward and backward.

    6 for each parameter that takes part in a matrix product (the tied head does, as head) and
    12 · n_embd · T for each layer's attention (Chowdhery et al. 2022, appendix B), T being the window where that is
    shorter; positions, biases and norms are left out. A forward pass alone costs a third.
    """
    context = config.context_length if context_length is None else context_length
    per_block = sum(
        part.parameters for part in parameter_table(config) if part.name.startswith("blocks") and "×" in part.shape
    )
    head = config.vocab_size * config.n_embd
    seen = sum(min(config.layer_window(layer) or context, context) for layer in range(config.n_layer))
    return 6 * (per_block + head) + 12 * config.n_embd * seen


@dataclass(frozen=True)
class MemoryEstimate:
    """Predicted bytes by component; see `training_memory` and `inference_memory`."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    cache: int

    @property
    def total(self) -> int:
        """All components together."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.cache


def training_memory(config: ModelConfig, rows: int) -> MemoryEstimate:
    """Memory to train with AdamW on `rows` sequences of a full context at once, float32 weights."""
    parameters = count_parameters(config)
    tokens = rows * config.context_length
    return MemoryEstimate(
        weights=FLOAT32_BYTES * parameters,
        gradients=FLOAT32_BYTES * parameters,
        optimizer=2 * FLOAT32_BYTES * parameters,
        activations=tokens * config.n_layer * config.n_embd * ACTIVATION_BYTES_PER_VALUE,
        logits=tokens * config.vocab_size * LOGIT_BYTES,
        cache=0,
    )


def checkpoint_bytes(config: ModelConfig, *, averaged: bool) -> int:
    """A checkpoint on disk: the weights, AdamW's two means, and the averaged weights where there are any."""
    copies = 4 if averaged else 3
    return copies * FLOAT32_BYTES * count_parameters(config)


def cache_bytes_per_token(config: ModelConfig, bytes_per_value: int = FLOAT32_BYTES) -> int:
    """Keys and values of one token in all layers."""
    return 2 * config.n_layer * config.kv_heads * config.head_dim * bytes_per_value


def inference_memory(config: ModelConfig, rows: int, bytes_per_value: int = FLOAT32_BYTES) -> MemoryEstimate:
    """Memory to generate `rows` texts of a full context at once."""
    return MemoryEstimate(
        weights=bytes_per_value * count_parameters(config),
        gradients=0,
        optimizer=0,
        activations=0,
        logits=rows * config.vocab_size * FLOAT32_BYTES,
        cache=rows * config.context_length * cache_bytes_per_token(config, bytes_per_value),
    )
