"""What the architectures share: the block and the language-model shell.

An architecture is a file of its own that says what the parts are (`embed`, `blocks`, `norm`, `head`); how
they are put together is said once, here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig

ParameterKind = Literal["embedding", "matrix", "vector", "head"]
"""What an optimizer needs to know of a parameter: how its update should be scaled and decayed."""


class Block(nn.Module):
    """A pre-norm residual block: attention moves information between positions, the MLP works on each."""

    def __init__(self, norm1: nn.Module, attention: nn.Module, norm2: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2, self.mlp = norm1, attention, norm2, mlp

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attention(self.norm1(x), cache)
        return x + self.mlp(self.norm2(x))


class LanguageModel(nn.Module, ABC):
    """tokens -> logits, for every architecture.

    Attributes:
        config: the shape; its vocab_size is the real one here, never 0.
        blocks: the residual blocks.
        norm: the last normalisation.
    """

    blocks: nn.ModuleList
    norm: nn.Module

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens (B, T) int64 at positions (B or 1, T) -> (B, T, C)."""

    @abstractmethod
    def head(self, features: Tensor) -> Tensor:
        """Features (B, T, C) -> logits (B, T, V)."""

    @abstractmethod
    def initial_std(self, name: str) -> float:
        """Standard deviation that a fresh embedding or matrix is drawn with, by its name; 0 where it begins at zero."""

    @abstractmethod
    def parameter_kinds(self) -> dict[str, ParameterKind]:
        """The kind of every parameter, by its name in `named_parameters`."""

    def _initialise(self) -> None:
        """Draw what begins at random, and zero what does not; gains of norms stay 1."""
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                if name.endswith("bias"):
                    nn.init.zeros_(parameter)
            elif std := self.initial_std(name):
                nn.init.normal_(parameter, std=std)
            else:
                nn.init.zeros_(parameter)

    def features(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """The last hidden state (B, T, C), normalised; `head` makes logits of it, in chunks if need be.

        Raises:
            IndexError: the tokens do not fit the model's context or the cache.
        """
        n_tokens = tokens.size(1)
        if cache is None:
            if n_tokens > self.config.context_length:
                raise IndexError(f"{n_tokens} tokens exceed the context of {self.config.context_length}")
            positions = torch.arange(n_tokens, device=tokens.device)[None]  # (1, T)
        else:
            cache.begin(n_tokens)
            positions = cache.positions()
        x = self.embed(tokens, positions)
        if torch.is_autocast_enabled(x.device.type):
            # The residual stream too: left in float32, it would be the largest thing that memory has to move.
            x = x.to(torch.get_autocast_dtype(x.device.type))
        for block in self.blocks:
            x = block(x, cache)
        if cache is not None:
            cache.commit()
        return self.norm(x)

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each of `tokens` (B, T) int64.

        Args:
            tokens: new tokens of each row; with a cache they continue what its slots hold.
            cache: as many slots as there are rows, or None to see these tokens alone.

        Raises:
            IndexError: the tokens do not fit the model's context or the cache.
        """
        return self.head(self.features(tokens, cache))

    def __call__(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """See `forward` (restated so that callers see its types)."""
        return super().__call__(tokens, cache)
