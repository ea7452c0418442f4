"""Lesson 5, the whole model: the exercises, solved.

Shapes: B sequences, T tokens, C channels, V tokens in the vocabulary.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from glassgpt.model.attention import attend
from glassgpt.model.config import ModelConfig
from glassgpt.model.gpt2 import MLP, CausalSelfAttention
from glassgpt.model.transformer import Block, LanguageModel, ParameterKind

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
    """Return the sum of each token's vector and its position's vector, (B, T, C)."""
    return token_table[tokens] + position_table[start : start + tokens.size(1)]


def count_parameters(vocab_size: int, context_length: int, n_layer: int, n_embd: int) -> int:
    """Return how many numbers a GPT-2 of this shape has to learn."""
    norm = 2 * n_embd
    attention = (n_embd + 1) * 3 * n_embd + (n_embd + 1) * n_embd
    mlp = (n_embd + 1) * 4 * n_embd + (4 * n_embd + 1) * n_embd
    return (vocab_size + context_length) * n_embd + n_layer * (norm + attention + norm + mlp) + norm


def initial_std(name: str, n_layer: int, std: float = 0.02) -> float:
    """Return the standard deviation of a matrix at the start."""
    into_stream = name.endswith((".attention.out.weight", ".mlp.down.weight"))
    return std / math.sqrt(2 * n_layer) if into_stream else std


def from_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of the published GPT-2, and transpose the matrices of its linear layers."""
    renamed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        module, _, kind = name.rpartition(".")
        block = ""
        if module.startswith("h."):
            _, number, module = module.split(".", 2)
            block = f"{NAMES['h']}.{number}."
        is_matrix = "c_" in module and kind == "weight"
        renamed[f"{block}{NAMES[module]}.{kind}"] = weight.T if is_matrix else weight
    return renamed


class GPT(LanguageModel):
    """The whole model."""

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
        self.initialize()

    def initial_std(self, name: str) -> float:
        """Return the standard deviation of a matrix at the start, by exercise 5.3."""
        return initial_std(name, self.config.n_layer, self.config.init_std)

    def parameter_kinds(self) -> dict[str, ParameterKind]:
        """Return which optimizer and weight decay each parameter gets."""
        kinds: dict[str, ParameterKind] = {
            name: "vector" if p.ndim < 2 else "matrix" for name, p in self.named_parameters()
        }
        embeddings: dict[str, ParameterKind] = dict.fromkeys(
            ("token_embedding.weight", "position_embedding.weight"), "embedding"
        )
        return kinds | embeddings

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the sum of both embeddings, (B, T, C)."""
        return self.token_embedding(tokens) + self.position_embedding(positions)

    def features(self, tokens: Tensor, cache: Any = None) -> Tensor:
        """Return the vectors after all blocks and the last norm, (B, T, C)."""
        if cache is None:
            positions = torch.arange(tokens.size(1), device=tokens.device)[None]
        else:
            cache.begin(tokens.size(1))
            positions = cache.positions()
        x = self.embed(tokens, positions)
        for block in self.blocks:
            x = block(x, cache)
        if cache is not None:
            cache.commit()
        return self.norm(x)

    def head(self, features: Tensor) -> Tensor:
        """Return a score for each token of the vocabulary, (B, T, V)."""
        return features @ self.token_embedding.weight.T
