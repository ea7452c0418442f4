"""GPT-2 as OpenAI published it (Radford et al. 2019), to the last detail.

Read `CausalSelfAttention.forward` and `MLP.forward` first, the two things that a block does; then `GPT2`, which names the
parts. How they are put together, `x + attention(norm1(x))` and so on, is the same for every architecture and stands in
`transformer.py`; the softmax itself is `attend_readable` in `attention.py`.

Learned positions, LayerNorm before each sub-layer and at the end (eps 1e-5), tanh-GELU, biases, the head
tied to the token embedding, weights from N(0, init_std), by default 0.02, and residual projections scaled by
1/sqrt(2 n_layer).
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.model.attention import AttentionFunction, attend
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import Block, LanguageModel, ParameterKind

NORM_EPS = 1e-5
MLP_RATIO = 4


class CausalSelfAttention(nn.Module):
    """Multi-head attention with the projections to q, k and v in one matrix product."""

    def __init__(self, config: ModelConfig, layer: int, attend: AttentionFunction) -> None:
        super().__init__()
        self.layer = layer
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.attend = attend
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.out_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        batch, n_tokens, width = x.shape
        # (B, T, 3C) -> three of (B, H, T, D)
        q, k, v = self.qkv(x).view(batch, n_tokens, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)
        mask = None
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
            mask = cache.mask()
        y = self.attend(q, k, v, mask, self.dropout if self.training else 0.0)
        y = y.transpose(1, 2).reshape(batch, n_tokens, width)
        return self.out_dropout(self.out(y))


class MLP(nn.Module):
    """Each position on its own: widen, bend, narrow."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.n_embd, MLP_RATIO * config.n_embd, bias=config.bias)
        self.down = nn.Linear(MLP_RATIO * config.n_embd, config.n_embd, bias=config.bias)
        self.out_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        # GPT-2's GELU is the tanh form; the exact one moves logits by 1e-3.
        return self.out_dropout(self.down(F.gelu(self.up(x), approximate="tanh")))


class GPT2(LanguageModel):
    """OpenAI's GPT-2.

    Args:
        config: the shape, with its vocab_size filled in.
        attend: the attention function; `attend_readable` writes the formula out.
    """

    def __init__(self, config: ModelConfig, attend: AttentionFunction = attend) -> None:
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.context_length, config.n_embd)
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(
                nn.LayerNorm(config.n_embd, NORM_EPS, bias=config.bias),
                CausalSelfAttention(config, layer, attend),
                nn.LayerNorm(config.n_embd, NORM_EPS, bias=config.bias),
                MLP(config),
            )
            for layer in range(config.n_layer)
        )
        self.norm = nn.LayerNorm(config.n_embd, NORM_EPS, bias=config.bias)
        self._initialise()

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """What a token is plus where it stands."""
        return self.embedding_dropout(self.token_embedding(tokens) + self.position_embedding(positions))

    def head(self, features: Tensor) -> Tensor:
        """Similarity with each token's own embedding (the head is tied)."""
        return F.linear(features, self.token_embedding.weight)

    def parameter_kinds(self) -> dict[str, ParameterKind]:
        """Embeddings (the tied head is one of them), matrices, and vectors (biases and gains)."""
        kinds: dict[str, ParameterKind] = {}
        for module_name, module in self.named_modules():
            kind: ParameterKind = "embedding" if isinstance(module, nn.Embedding) else "matrix"
            for name, parameter in module.named_parameters(module_name, recurse=False):
                kinds[name] = "vector" if parameter.ndim < 2 else kind
        return kinds

    def initial_std(self, name: str) -> float:
        """See `LanguageModel.initial_std` (Radford et al. 2019, section 2.3)."""
        # Each block adds two projections to the residual stream; their scale keeps its variance at depth.
        into_residual = name.endswith((".out.weight", ".down.weight"))
        return self.config.init_std / (math.sqrt(2 * self.config.n_layer) if into_residual else 1.0)
