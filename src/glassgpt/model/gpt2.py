"""GPT-2 exactly as OpenAI published it (Radford et al. 2019).

Read `CausalSelfAttention.forward` and `MLP.forward` first: they are the two halves of a block. `GPT2` then lists the
parts of the model. How the parts are combined, `x + attention(norm1(x))` and so on, is the same for every architecture
and is in `transformer.py`; the softmax is in `attend_readable` in `attention.py`.

Learned position embeddings, LayerNorm before each sublayer and at the end (eps 1e-5), tanh GELU, biases, the head tied
to the token embedding, initial weights from N(0, init_std), residual projections scaled by 1/sqrt(2 n_layer).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.model.activations import block_activations, captured, captured_heads, logits
from glassgpt.model.attention import AttentionFunction, attend
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.hook_points import Activation
from glassgpt.model.transformer import Block, LanguageModel, ParameterKind
from glassgpt.model.vectors import vectors_of


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention; one matrix product computes q, k and v."""

    def __init__(self, config: ModelConfig, layer: int, attend: AttentionFunction) -> None:
        super().__init__()
        self.layer = layer
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.attend = attend
        self.qkv = nn.Linear(config.n_embd, 3 * config.attention_width, bias=config.bias)
        self.out = nn.Linear(config.attention_width, config.n_embd, bias=config.bias)
        self.out_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Mix information between positions, (B, T, C) -> (B, T, C)."""
        batch, n_tokens, _ = x.shape
        # (B, T, 3HD) -> three of (B, H, T, D)
        q, k, v = self.qkv(x).view(batch, n_tokens, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)
        mask = None  # causal
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, H, S, D): the cached positions, then the new ones
            mask = cache.mask()
        y = self.attend(q, k, v, mask, self.dropout if self.training else 0.0)  # (B, H, T, D)
        y = y.transpose(1, 2).reshape(batch, n_tokens, -1)  # heads side by side again
        return self.out_dropout(self.out(y))


class MLP(nn.Module):
    """Two linear layers with a GELU in between, applied to each position independently."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.n_embd, config.inner_width, bias=config.bias)
        # GPT-2 uses the tanh approximation of GELU; the exact form shifts logits by 1e-3.
        self.activation = nn.GELU(approximate="tanh" if config.activation == "gelu_tanh" else "none")
        self.down = nn.Linear(config.inner_width, config.n_embd, bias=config.bias)
        self.out_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position, (B, T, C) -> (B, T, C)."""
        return self.out_dropout(self.down(self.activation(self.up(x))))


class GPT2(LanguageModel):
    """OpenAI's GPT-2.

    Args:
        config: the shape; vocab_size must be set.
        attend: attention function; `attend_readable` computes it from the formula.
    """

    def __init__(self, config: ModelConfig, attend: AttentionFunction = attend) -> None:
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.context_length, config.n_embd)
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(
                nn.LayerNorm(config.n_embd, config.norm_eps, bias=config.bias),
                CausalSelfAttention(config, layer, attend),
                nn.LayerNorm(config.n_embd, config.norm_eps, bias=config.bias),
                MLP(config),
            )
            for layer in range(config.n_layer)
        )
        self.norm = nn.LayerNorm(config.n_embd, config.norm_eps, bias=config.bias)
        self.initialize()

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the sum of token and position embeddings, (B, T, C)."""
        return self.embedding_dropout(vectors_of(tokens, self.token_embedding) + self.position_embedding(positions))

    def head(self, features: Tensor) -> Tensor:
        """Return the dot product of each feature vector with every token embedding (tied head), (B, T, V)."""
        return F.linear(features, self.token_embedding.weight)

    def parameter_kinds(self) -> dict[str, ParameterKind]:
        """Return the kind of each parameter: embeddings (including the tied head), matrices, biases and gains."""
        kinds: dict[str, ParameterKind] = {}
        for module_name, module in self.named_modules():
            kind: ParameterKind = "embedding" if isinstance(module, nn.Embedding) else "matrix"
            for name, parameter in module.named_parameters(module_name, recurse=False):
                kinds[name] = "vector" if parameter.ndim < 2 else kind
        return kinds

    def initial_std(self, name: str) -> float:
        """See `LanguageModel.initial_std` (Radford et al. 2019, section 2.3)."""
        # Each block adds two projections to the residual stream; scaling them keeps its variance independent of depth.
        into_residual = name.endswith((".out.weight", ".down.weight"))
        return self.config.init_std / (math.sqrt(2 * self.config.n_layer) if into_residual else 1.0)

    def activations(self) -> dict[str, Activation]:
        """See `LanguageModel.activations`."""
        declared = {
            "embedding.token": captured("token_embedding", "row `tokens` of the token embedding", GPT2.embed),
            "embedding.position": captured("position_embedding", "row 0 … T - 1", GPT2.embed),
            "embedding": captured("embedding_dropout", "embedding.token + embedding.position", GPT2.embed),
        }
        nonlinearity = "gelu(mlp.up), tanh form" if self.config.activation == "gelu_tanh" else "gelu(mlp.up)"
        for layer in range(self.config.n_layer):
            declared |= block_activations(self, layer, self._qkv(layer), nonlinearity)
        norm = f"(x - mean) / sqrt(var + {self.config.norm_eps:g}) · gain + bias"
        return {
            **declared,
            "norm": captured("norm", norm, LanguageModel.features, read_only=True),
            "logits": logits("norm · token embeddingᵀ", GPT2.head, lambda read: self.head(read("norm"))),
        }

    def _qkv(self, layer: int) -> dict[str, Activation]:
        """Declare q, k and v, each a third of one matrix product."""
        at = f"blocks.{layer}.attention"

        def third(index: int) -> Callable[[Tensor], Tensor]:
            return lambda raw: raw.view(*raw.shape[:2], 3, -1)[:, :, index]

        return {
            f"{at}.{name}": captured_heads(
                f"{at}.qkv", f"{name.upper()} part of norm1 · Wᵀ + b", CausalSelfAttention.forward,
                self.config.head_width, part=third(index),
            )
            for index, name in enumerate("qkv")
        }  # fmt: skip
