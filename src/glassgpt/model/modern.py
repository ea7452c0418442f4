"""The recipe that trains a small GPT fastest, without fragile tricks.

Differences from GPT-2, each with its source: rotary instead of learned positions (Su et al. 2021); RMSNorm without
gains (Zhang and Sennrich 2019), also on queries and keys (Henry et al. 2020); squared ReLU (So et al. 2021);
projections into the residual stream that start at zero; an untied head with softly capped logits (Gemma Team 2024);
no biases. Queries, keys and values are separate matrices because Muon orthogonalizes each matrix as a whole. Heads of
width 128 are the fastest on a GPU.

Hugging Face's NanoChat is the same function; the tests compare with it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

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

NORM_EPS = 1e-6
ROTARY_BASE = 10_000.0
LOGIT_CAP = 15.0


class RMSNorm(nn.Module):
    """Scale each position to a root mean square of 1; has no parameters."""

    eps = NORM_EPS

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension, (…, C) -> (…, C)."""
        return F.rms_norm(x, (x.size(-1),), eps=self.eps)


class BackwardRotary(RotaryEmbedding):
    """Rotate the other way, as NanoChat does; only the distance counts either way."""

    def rotate(self, first: Tensor, second: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """See `RotaryEmbedding`."""
        return first * cos + second * sin, second * cos - first * sin


class ModernAttention(nn.Module):
    """Multi-head attention with rotary positions and normalized queries and keys."""

    def __init__(self, config: ModelConfig, layer: int, attend: AttentionFunction, rotary: RotaryEmbedding) -> None:
        super().__init__()
        self.layer = layer
        self.reach = config.layer_reach(layer)
        self.head_dim = config.head_width
        self.attend = attend
        self.rotary = rotary
        self.norm = RMSNorm()
        self.q = nn.Linear(config.n_embd, config.attention_width, bias=False)
        self.k = nn.Linear(config.n_embd, config.kv_heads * self.head_dim, bias=False)
        self.v = nn.Linear(config.n_embd, config.kv_heads * self.head_dim, bias=False)
        self.out = nn.Linear(config.attention_width, config.n_embd, bias=False)
        self.out_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Mix information between positions, (B, T, C) -> (B, T, C)."""
        positions = None if cache is None else cache.positions()
        q = self.rotary(self.norm(split_heads(self.q(x), self.head_dim)), positions)
        k = self.rotary(self.norm(split_heads(self.k(x), self.head_dim)), positions)
        v = split_heads(self.v(x), self.head_dim)
        mask = None
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
            mask = cache.mask(*self.reach)
        y = self.attend(q, k, v, mask, 0.0, *self.reach)
        return self.out_dropout(self.out(y.transpose(1, 2).flatten(2)))


class SquaredReLUMLP(nn.Module):
    """Two linear layers with a squared ReLU in between, applied to each position independently."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.n_embd, config.inner_width, bias=False)
        self.down = nn.Linear(config.inner_width, config.n_embd, bias=False)
        self.out_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position, (B, T, C) -> (B, T, C)."""
        return self.out_dropout(self.down(F.relu(self.up(x)).square()))


class ModernRecipe(LanguageModel):
    """The modern recipe around whatever mixes positions: embedding, norms, MLPs and head.

    Args:
        config: the shape; vocab_size must be set.
        attention: builds the part of a block that mixes positions, by the block's number.
    """

    def __init__(self, config: ModelConfig, attention: Callable[[int], nn.Module]) -> None:
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(RMSNorm(), attention(layer), RMSNorm(), SquaredReLUMLP(config)) for layer in range(config.n_layer)
        )
        self.norm = RMSNorm()
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.initialize()

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the normalized token embeddings, (B, T, C); attention adds the positions."""
        return self.embedding_dropout(self.norm(vectors_of(tokens, self.token_embedding)))

    def head(self, features: Tensor) -> Tensor:
        """Return logits softly capped to (-15, 15), (B, T, V), so that none can grow without bound."""
        # Dividing the features costs less than dividing the logits, which are many more.
        return LOGIT_CAP * torch.tanh(self.lm_head(features / LOGIT_CAP))

    def parameter_kinds(self) -> dict[str, ParameterKind]:
        """Return the kind of each parameter: the embedding, the head, matrices and vectors."""
        special: dict[str, ParameterKind] = {"token_embedding.weight": "embedding", "lm_head.weight": "head"}
        return {  # the recipe has no vectors, but a block of the user's own may have some
            name: "vector" if parameter.ndim < 2 else special.get(name, "matrix")
            for name, parameter in self.named_parameters()
        }

    def initial_std(self, name: str) -> float:
        """See `LanguageModel.initial_std`."""
        if name == "token_embedding.weight":
            return 1.0  # embeddings are normalized, so this scale only sets how fast training rotates them
        if name == "lm_head.weight":
            return 0.0  # all tokens start equally likely: the initial loss is ln V
        # Each block starts as the identity.
        return 0.0 if name.endswith((".out.weight", ".down.weight")) else self.config.init_std

    def activations(self) -> dict[str, Activation]:
        """See `LanguageModel.activations`."""
        embed, head = ModernRecipe.embed, ModernRecipe.head
        declared = {
            "embedding.token": captured("token_embedding", "row `tokens` of the token embedding", embed),
            "embedding": captured("embedding_dropout", "embedding.token / rms(embedding.token)", embed),
            **self.position_activations(),
        }
        for layer in range(self.config.n_layer):
            declared |= self.layer_activations(layer)
        norm, capped = f"x / sqrt(mean x² + {NORM_EPS:g})", f"{LOGIT_CAP:g} tanh(logits.uncapped / {LOGIT_CAP:g})"
        return {
            **declared,
            # `norm` is applied to the embedding too, so that a hook on it would change both.
            "norm": captured("norm", norm, LanguageModel.features, read_only=True),
            "logits.uncapped": logits(
                "norm · lm_headᵀ", head, lambda read: LOGIT_CAP * self.lm_head(read("norm") / LOGIT_CAP)
            ),
            "logits": logits(capped, head, lambda read: self.head(read("norm"))),
        }

    def position_activations(self) -> dict[str, Activation]:
        """Declare what the architecture computes from positions alone."""
        return {}

    @abstractmethod
    def layer_activations(self, layer: int) -> dict[str, Activation]:
        """Declare the activations of a block."""


class Modern(ModernRecipe):
    """A GPT built by the modern recipe.

    Args:
        config: the shape; vocab_size must be set.
        attend: attention function; `attend_readable` computes it from the formula.
    """

    def __init__(self, config: ModelConfig, attend: AttentionFunction = attend) -> None:
        frequencies = ROTARY_BASE ** (-torch.arange(0, config.head_width, 2, dtype=torch.float32) / config.head_width)
        rotary = BackwardRotary(config.context_length, frequencies)
        super().__init__(config, lambda layer: ModernAttention(config, layer, attend, rotary))
        self.rotary = rotary

    def position_activations(self) -> dict[str, Activation]:
        """See `ModernRecipe.position_activations`."""
        return {"rotary.cos": _angles(self.rotary.cos, "cos"), "rotary.sin": _angles(self.rotary.sin, "sin")}

    def layer_activations(self, layer: int) -> dict[str, Activation]:
        """See `ModernRecipe.layer_activations`."""
        return block_activations(self, layer, self._qkv(layer), "relu(mlp.up)²")

    def _qkv(self, layer: int) -> dict[str, Activation]:
        """Declare q and k as projected, normalized and rotated, and v as projected."""
        at, source, width = f"blocks.{layer}.attention", ModernAttention.forward, self.config.head_width
        v = captured_heads(f"{at}.v", "norm1 · Wvᵀ", source, width, heads="kv_head")
        return {**self._rotated(at, "q", "head"), **self._rotated(at, "k", "kv_head"), f"{at}.v": v}

    def _rotated(self, at: str, name: str, heads: Axis) -> dict[str, Activation]:
        """Declare q or k as projected, normalized and rotated by its position."""
        source = ModernAttention.forward
        first = captured_heads(f"{at}.{name}", f"norm1 · W{name}ᵀ", source, self.config.head_width, heads=heads)
        projected, normalised = f"{name}.projected", f"{name}.normalised"
        formula = f"{projected} / rms({projected})"
        return {
            f"{at}.{projected}": first,
            f"{at}.{normalised}": derived(f"{at}.{projected}", first.axes, formula, source, self.norm),
            f"{at}.{name}": derived(
                f"{at}.{normalised}", first.axes, f"{normalised} rotated by its position", RotaryEmbedding.forward,
                lambda x: self.rotary(x[None], None)[0],
            ),
        }  # fmt: skip


def _angles(table: Tensor, function: str) -> Activation:
    """Declare cosines or sines of the rotation angles of the text's positions."""
    formula = f"{function}(position · {ROTARY_BASE:.0f}^(-2i / D))"
    return Activation(
        ("position", "angle"), DIMENSIONLESS, formula, RotaryEmbedding, lambda read: table[: read("tokens").size(0)]
    )
