"""Llama (Touvron et al. 2023): the architecture of most open models since, such as SmolLM2 and TinyLlama.

What changed from GPT-2, each with its source: rotary instead of learned positions (Su et al. 2021), so that attention
sees distances; RMSNorm instead of LayerNorm (Zhang and Sennrich 2019), which leaves out mean and bias; a gate in the MLP
(SwiGLU, Shazeer 2020); key and value heads that several query heads share (Ainslie et al. 2023), for a smaller cache;
no biases. The residual stream, pre-norm blocks and the softmax are GPT-2's.

Hugging Face's Llama is the same function; the tests compare with it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.model.activations import DIMENSIONLESS, block_activations, captured, captured_heads, derived, logits
from glassgpt.model.attention import AttentionFunction, attend
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.hook_points import Activation, Axis
from glassgpt.model.rotary import RotaryEmbedding, split_heads
from glassgpt.model.transformer import Block, LanguageModel, ParameterKind
from glassgpt.model.vectors import vectors_of


class LlamaAttention(nn.Module):
    """Multi-head attention with rotary positions and shared key and value heads."""

    def __init__(self, config: ModelConfig, layer: int, attend: AttentionFunction, rotary: RotaryEmbedding) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_width
        self.attend = attend
        self.rotary = rotary
        self.q = nn.Linear(config.n_embd, config.attention_width, bias=config.bias)
        self.k = nn.Linear(config.n_embd, config.kv_heads * self.head_dim, bias=config.bias)
        self.v = nn.Linear(config.n_embd, config.kv_heads * self.head_dim, bias=config.bias)
        self.out = nn.Linear(config.attention_width, config.n_embd, bias=config.bias)
        self.out_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Mix information between positions, (B, T, C) -> (B, T, C)."""
        positions = None if cache is None else cache.positions()
        q = self.rotary(split_heads(self.q(x), self.head_dim), positions)  # (B, H, T, D)
        k = self.rotary(split_heads(self.k(x), self.head_dim), positions)  # (B, K, T, D)
        v = split_heads(self.v(x), self.head_dim)
        mask = None
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
            mask = cache.mask()
        y = self.attend(q, k, v, mask, 0.0)
        return self.out_dropout(self.out(y.transpose(1, 2).flatten(2)))


class SwiGLU(nn.Module):
    """Two linear layers side by side, one of which gates the other, and one back; applied to each position."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.n_embd, config.inner_width, bias=False)
        self.activation = nn.SiLU()
        self.up = nn.Linear(config.n_embd, config.inner_width, bias=False)
        self.down = nn.Linear(config.inner_width, config.n_embd, bias=False)
        self.out_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position, (B, T, C) -> (B, T, C)."""
        return self.out_dropout(self.down(self.activation(self.gate(x)) * self.up(x)))


class Llama(LanguageModel):
    """A Llama, of which `config.tied_head` says whether the head is the token embedding.

    Args:
        config: the shape; vocab_size must be set.
        attend: attention function; `attend_readable` computes it from the formula.
    """

    def __init__(self, config: ModelConfig, attend: AttentionFunction = attend) -> None:
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.embedding_dropout = nn.Dropout(config.dropout)
        frequencies = 1.0 / config.rope_theta ** (
            torch.arange(0, config.head_width, 2, dtype=torch.float32) / config.head_width
        )
        self.rotary = RotaryEmbedding(config.context_length, frequencies)
        self.blocks = nn.ModuleList(
            Block(
                nn.RMSNorm(config.n_embd, config.norm_eps),
                LlamaAttention(config, layer, attend, self.rotary),
                nn.RMSNorm(config.n_embd, config.norm_eps),
                SwiGLU(config),
            )
            for layer in range(config.n_layer)
        )
        self.norm = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.lm_head = None if config.tied_head else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.initialize()

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the token embeddings, (B, T, C); attention adds the positions."""
        return self.embedding_dropout(vectors_of(tokens, self.token_embedding))

    def head(self, features: Tensor) -> Tensor:
        """Return the dot product of each feature vector with every row of the head, (B, T, V)."""
        return F.linear(features, self.token_embedding.weight) if self.lm_head is None else self.lm_head(features)

    def parameter_kinds(self) -> dict[str, ParameterKind]:
        """Return the kind of each parameter: the embedding, the head if it is not tied, matrices, gains and biases."""
        special: dict[str, ParameterKind] = {"token_embedding.weight": "embedding", "lm_head.weight": "head"}
        return {
            name: "vector" if parameter.ndim < 2 else special.get(name, "matrix")
            for name, parameter in self.named_parameters()
        }

    def initial_std(self, name: str) -> float:
        """See `LanguageModel.initial_std`; the same scales as GPT-2's."""
        into_residual = name.endswith((".out.weight", ".down.weight"))
        return self.config.init_std / (math.sqrt(2 * self.config.n_layer) if into_residual else 1.0)

    def activations(self) -> dict[str, Activation]:
        """See `LanguageModel.activations`."""
        declared = {
            "embedding": captured("embedding_dropout", "row `tokens` of the token embedding", Llama.embed),
            "rotary.cos": self._angles(self.rotary.cos, "cos"),
            "rotary.sin": self._angles(self.rotary.sin, "sin"),
        }
        for layer in range(self.config.n_layer):
            gate = f"blocks.{layer}.mlp.gate"
            gated = {gate: captured(gate, "norm2 · Wgateᵀ", SwiGLU.forward, channels="hidden")}
            nonlinearity = "silu(mlp.gate) · mlp.up"
            declared |= block_activations(self, layer, self._qkv(layer), nonlinearity, gated)
        head = "token embedding" if self.lm_head is None else "lm_head"
        norm = f"x / sqrt(mean x² + {self.config.norm_eps:g}) · gain"
        return {
            **declared,
            "norm": captured("norm", norm, LanguageModel.features, read_only=True),
            "logits": logits(f"norm · {head}ᵀ", Llama.head, lambda read: self.head(read("norm"))),
        }

    def _qkv(self, layer: int) -> dict[str, Activation]:
        """Declare q and k as projected and rotated, and v as projected."""
        at, source, width = f"blocks.{layer}.attention", LlamaAttention.forward, self.config.head_width
        v = captured_heads(f"{at}.v", "norm1 · Wvᵀ", source, width, heads="kv_head")
        return {**self._rotated(at, "q", "head"), **self._rotated(at, "k", "kv_head"), f"{at}.v": v}

    def _rotated(self, at: str, name: str, heads: Axis) -> dict[str, Activation]:
        """Declare q or k as projected and rotated by its position."""
        source, projected = LlamaAttention.forward, f"{at}.{name}.projected"
        first = captured_heads(f"{at}.{name}", f"norm1 · W{name}ᵀ", source, self.config.head_width, heads=heads)
        formula = f"{name}.projected rotated by its position"
        rotated = derived(
            projected, first.axes, formula, RotaryEmbedding.forward, lambda x: self.rotary(x[None], None)[0]
        )
        return {projected: first, f"{at}.{name}": rotated}

    def _angles(self, table: Tensor, function: str) -> Activation:
        """Declare cosines or sines of the rotation angles of the text's positions."""
        formula = f"{function}(position · {self.config.rope_theta:g}^(-2i / D))"
        return Activation(
            ("position", "angle"), DIMENSIONLESS, formula, RotaryEmbedding, lambda read: table[: read("tokens").size(0)]
        )
