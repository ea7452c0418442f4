"""The recipe that trains a small GPT fastest, as far as it needs no fragile tricks.

What differs from GPT-2, each change with its source: rotary positions instead of learned ones (Su et al. 2021),
normalisation by the root mean square and without gains (Zhang and Sennrich 2019), also of queries and keys (Henry
et al. 2020), squared ReLU (So et al. 2021), projections into the residual stream that begin at zero, a head of its
own whose logits are softly capped (Gemma Team 2024), no biases. Queries, keys and values are separate matrices, so
that an optimizer that orthogonalises sees true ones. Heads of width 128 are the fastest on a GPU.

The function is the one that Hugging Face calls NanoChat, which is what the tests hold it against.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.model.attention import AttentionFunction, attend
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import Block, LanguageModel, ParameterKind

NORM_EPS = 1e-6
MLP_RATIO = 4
ROTARY_BASE = 10_000.0
LOGIT_CAP = 15.0


class RMSNorm(nn.Module):
    """Each position scaled to a root mean square of 1; nothing is learned."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, C)."""
        return F.rms_norm(x, (x.size(-1),), eps=NORM_EPS)


class RotaryEmbedding(nn.Module):
    """Turns the pairs (i, i + D/2) of a vector by an angle that grows with its position (Su et al. 2021, eq. 15).

    The product of a query and a key then depends on the distance between them alone.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, context_length: int, width: int) -> None:
        super().__init__()
        frequencies = ROTARY_BASE ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
        angles = torch.outer(torch.arange(context_length, dtype=torch.float32), frequencies)  # (context, D/2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """(B, H, T, D) at positions (B, T), or at 0 … T - 1 -> (B, H, T, D)."""
        if positions is None:
            cos, sin = self.cos[: x.size(2)], self.sin[: x.size(2)]  # (T, D/2)
        else:
            cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]  # (B, 1, T, D/2)
        first, second = x.float().chunk(2, dim=-1)
        return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1).type_as(x)


class ModernAttention(nn.Module):
    """Multi-head attention with rotary positions and normalised queries and keys."""

    def __init__(self, config: ModelConfig, layer: int, attend: AttentionFunction, rotary: RotaryEmbedding) -> None:
        super().__init__()
        self.layer = layer
        self.window = config.layer_window(layer)
        self.head_dim = config.head_dim
        self.attend = attend
        self.rotary = rotary
        self.norm = RMSNorm()
        self.q = nn.Linear(config.n_embd, config.n_head * self.head_dim, bias=False)
        self.k = nn.Linear(config.n_embd, config.kv_heads * self.head_dim, bias=False)
        self.v = nn.Linear(config.n_embd, config.kv_heads * self.head_dim, bias=False)
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.out_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        positions = None if cache is None else cache.positions()
        q = self.rotary(self.norm(self._heads(self.q(x))), positions)
        k = self.rotary(self.norm(self._heads(self.k(x))), positions)
        v = self._heads(self.v(x))
        mask = None
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
            mask = cache.mask(self.window)
        y = self.attend(q, k, v, mask, 0.0, self.window)
        return self.out_dropout(self.out(y.transpose(1, 2).reshape(x.shape)))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, H·D) -> (B, H, T, D)."""
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


class SquaredReLUMLP(nn.Module):
    """Each position on its own: widen, bend, narrow."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.n_embd, MLP_RATIO * config.n_embd, bias=False)
        self.down = nn.Linear(MLP_RATIO * config.n_embd, config.n_embd, bias=False)
        self.out_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.out_dropout(self.down(F.relu(self.up(x)).square()))


class Modern(LanguageModel):
    """A GPT by today's recipe.

    Args:
        config: the shape, with its vocab_size filled in.
        attend: the attention function; `attend_readable` writes the formula out.
    """

    def __init__(self, config: ModelConfig, attend: AttentionFunction = attend) -> None:
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.rotary = RotaryEmbedding(config.context_length, config.head_dim)
        self.blocks = nn.ModuleList(
            Block(RMSNorm(), ModernAttention(config, layer, attend, self.rotary), RMSNorm(), SquaredReLUMLP(config))
            for layer in range(config.n_layer)
        )
        self.norm = RMSNorm()
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self._initialise()

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """What a token is; where it stands, attention adds."""
        return self.embedding_dropout(self.norm(self.token_embedding(tokens)))

    def head(self, features: Tensor) -> Tensor:
        """Logits that stay between -15 and 15: a token is never ruled out, and no logit runs away."""
        # Features are divided instead of logits, which are many more.
        return LOGIT_CAP * torch.tanh(self.lm_head(features / LOGIT_CAP))

    def parameter_kinds(self) -> dict[str, ParameterKind]:
        """The embedding, the head, and matrices; there is nothing else."""
        outside: dict[str, ParameterKind] = {"token_embedding.weight": "embedding", "lm_head.weight": "head"}
        return {name: outside.get(name, "matrix") for name, _ in self.named_parameters()}

    def initial_std(self, name: str) -> float:
        """See `LanguageModel.initial_std`."""
        if name == "token_embedding.weight":
            return 1.0  # normalised before anything sees it, so that its scale only sets how fast it turns
        if name == "lm_head.weight":
            return 0.0  # every token is as probable as any other: the loss begins at ln V
        # Each block begins as the identity.
        return 0.0 if name.endswith((".out.weight", ".down.weight")) else self.config.init_std
