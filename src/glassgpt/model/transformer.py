"""The parts shared by all architectures: the residual block and the language model around it.

Each architecture has its own file, which defines the parts (`embed`, `blocks`, `norm`, `head`). This file combines them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.fp8_cache import RoundedCache
from glassgpt.model.hook_points import Activation
from glassgpt.model.quantized import QuantizedMatrix
from glassgpt.model.token_dropout import TokenDropout

ParameterKind = Literal["embedding", "matrix", "vector", "head"]
"""Category of a parameter, from which the optimizer derives algorithm, learning rate and weight decay."""


class Block(nn.Module):
    """A pre-norm residual block: attention mixes positions, the MLP transforms each one."""

    def __init__(self, norm1: nn.Module, attention: nn.Module, norm2: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2, self.mlp = norm1, attention, norm2, mlp

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Add both sublayers to the residual stream, (B, T, C) -> (B, T, C)."""
        x = x + self.attention(self.norm1(x), cache)
        return x + self.mlp(self.norm2(x))


class LanguageModel(nn.Module, ABC):
    """Base class of every architecture: tokens in, logits out.

    Attributes:
        config: the shape; vocab_size is the actual size, never 0.
        blocks: the residual blocks.
        norm: the final normalization.
        quantized: by parameter name, the integers of matrices that were loaded as such; see `quantized.py`.
        fp8_weights, fp8_cache: whether matrices, and keys and values in caches, are rounded to 8 bits; see `e4m3.py`.
    """

    blocks: nn.ModuleList
    norm: nn.Module

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_dropout = TokenDropout(config.token_dropout)
        self.quantized: dict[str, QuantizedMatrix] = {}
        self.fp8_weights = self.fp8_cache = False

    @abstractmethod
    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Embed tokens (B, T) int64 at positions (B or 1, T) as (B, T, C)."""

    @abstractmethod
    def head(self, features: Tensor) -> Tensor:
        """Map features (B, T, C) to logits (B, T, V)."""

    @abstractmethod
    def initial_std(self, name: str) -> float:
        """Return the initial standard deviation of an embedding or matrix, by parameter name; 0 means all zeros."""

    @abstractmethod
    def parameter_kinds(self) -> dict[str, ParameterKind]:
        """Return the kind of every parameter, keyed as in `named_parameters`."""

    def activations(self) -> dict[str, Activation]:
        """Declare the named activations of a forward pass in data-flow order, for inspection; see `hook_points.py`.

        An architecture that declares none trains and generates, but cannot be inspected.
        """
        return {}

    def initialize(self) -> None:
        """Initialize embeddings and matrices from a normal distribution and biases to zero; leave norm gains at 1."""
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                if name.endswith("bias"):
                    nn.init.zeros_(parameter)
            elif std := self.initial_std(name):
                nn.init.normal_(parameter, std=std)
            else:
                nn.init.zeros_(parameter)

    def new_cache(self, slots: int, capacity: int | None = None) -> KVCache:
        """Return an empty cache for `slots` sequences of up to `capacity` tokens, the context length by default."""
        weights = next(self.parameters())
        cache = RoundedCache if self.fp8_cache else KVCache
        return cache(self.config, slots, capacity, dtype=weights.dtype, device=weights.device)

    def features(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return the last hidden state after the final norm, (B, T, C); `head` turns it into logits.

        Raises:
            IndexError: the tokens exceed the model's context or the cache.
        """
        n_tokens = tokens.size(1)
        if cache is None:
            if n_tokens > self.config.context_length:
                raise IndexError(f"{n_tokens} tokens exceed the context of {self.config.context_length}")
            positions = torch.arange(n_tokens, device=tokens.device)[None]  # (1, T)
        else:
            cache.begin(n_tokens)
            positions = cache.positions()
        x = self.embed(tokens, positions)  # of tokens (B, T), or of vectors (B, T, C) in their place
        x = self.token_dropout(x)
        if torch.is_autocast_enabled(x.device.type):
            # Autocast would leave the residual stream in float32, the largest tensor that memory has to move.
            x = x.to(torch.get_autocast_dtype(x.device.type))
        for block in self.blocks:
            x = block(x, cache)
        if cache is not None:
            cache.commit()
        return self.norm(x)

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return the logits of the token after each input token, (B, T, V).

        Args:
            tokens: (B, T) int64; with a cache, the tokens that follow those already cached.
            cache: a cache with B slots, or None to process these tokens alone.

        Raises:
            IndexError: the tokens exceed the model's context or the cache.
        """
        return self.head(self.features(tokens, cache))

    def __call__(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Call `forward` (redefined only for its type annotations)."""
        return super().__call__(tokens, cache)
