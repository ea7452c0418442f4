"""Lesson 5, the whole model: replace every `raise NotImplementedError`, then run: glassgpt learn check 5

Shapes: B sequences, T tokens, C channels, V tokens in the vocabulary.
"""

import math

import torch
from torch import Tensor, nn

from glassgpt.model.attention import attend  # or yours: from lesson3.exercises import attend
from glassgpt.model.config import ModelConfig
from glassgpt.model.gpt2 import MLP, CausalSelfAttention
from glassgpt.model.transformer import Block, LanguageModel  # or your Block: from lesson4.exercises import Block

NAMES = {
    "wte": "token_embedding",
    "wpe": "position_embedding",
    "ln_f": "norm",
    "h": "blocks",
    "ln_1": "norm1",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.out",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
}
"""Names of modules in the published GPT-2, and in this program."""


def embed(tokens: Tensor, token_table: Tensor, position_table: Tensor, start: int = 0) -> Tensor:
    """Return the sum of each token's vector and its position's vector.

    Args:
        tokens: (B, T) int64.
        token_table: (V, C), row i belongs to token i.
        position_table: (context, C), row i belongs to position i.
        start: position of the first of the T tokens.

    Returns:
        (B, T, C).
    """
    raise NotImplementedError("exercise 5.1")


def count_parameters(vocab_size: int, context_length: int, n_layer: int, n_embd: int) -> int:
    """Return how many numbers a GPT-2 of this shape has to learn.

    All linear layers and norms have biases, the MLP is 4 · n_embd wide, and the output layer is the token table itself.
    """
    raise NotImplementedError("exercise 5.2")


def initial_std(name: str, n_layer: int, std: float = 0.02) -> float:
    """Return the standard deviation of a matrix at the start.

    Args:
        name: such as `token_embedding.weight` or `blocks.3.mlp.up.weight`. The matrices whose result is added to the
            residual stream are `….attention.out.weight` and `….mlp.down.weight`; theirs is std / √(2 · n_layer).
        n_layer: number of blocks.
        std: that of all other matrices.
    """
    raise NotImplementedError("exercise 5.3")


def from_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of the published GPT-2, and bring them into this program's form.

    Args:
        weights: by names such as `wte.weight` or `h.0.attn.c_attn.bias`; see `NAMES`. The matrices of the linear layers (those
            whose name contains `c_`) are (inputs, outputs); `nn.Linear` has them as (outputs, inputs).

    Returns:
        The same numbers by names such as `token_embedding.weight` or `blocks.0.attention.qkv.bias`.
    """
    raise NotImplementedError("exercise 5.4")


class GPT(LanguageModel):
    """The whole model. Write its last three methods; `forward` of the base class calls `head(features(tokens))`.

    Args:
        config: its shape.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.context_length, config.n_embd)
        self.blocks = nn.ModuleList(
            Block(
                nn.LayerNorm(config.n_embd),
                CausalSelfAttention(config, i, attend),
                nn.LayerNorm(config.n_embd),
                MLP(config),
            )
            for i in range(config.n_layer)
        )
        self.norm = nn.LayerNorm(config.n_embd)
        self.initialize()  # asks `initial_std` for each matrix

    def initial_std(self, name: str) -> float:
        """Return the standard deviation of a matrix at the start, by exercise 5.3."""
        return initial_std(name, self.config.n_layer, self.config.init_std)

    def parameter_kinds(self) -> dict[str, str]:
        """Return which optimizer and weight decay each parameter gets."""
        kinds = {name: "vector" if p.ndim < 2 else "matrix" for name, p in self.named_parameters()}
        return kinds | {"token_embedding.weight": "embedding", "position_embedding.weight": "embedding"}

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the sum of both embeddings: tokens (B, T) and positions (B or 1, T) to (B, T, C)."""
        raise NotImplementedError("exercise 5.5")

    def features(self, tokens: Tensor, cache=None) -> Tensor:
        """Return the vectors after all blocks and the last norm, (B, T) to (B, T, C).

        Without a cache the positions are 0 … T - 1. With one, `cache.begin(T)` comes first, `cache.positions()` returns the
        positions, each block gets the cache, and `cache.commit()` comes after the last block.
        """
        raise NotImplementedError("exercise 5.5")

    def head(self, features: Tensor) -> Tensor:
        """Return a score for each token of the vocabulary: the dot product with its embedding, (B, T, C) to (B, T, V)."""
        raise NotImplementedError("exercise 5.5")
