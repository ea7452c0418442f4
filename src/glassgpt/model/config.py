"""The shape of a model as plain data. Does not import torch, so that configurations can be read and checked quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glassgpt.model.config_checks import GPT2_NORM_EPS, excessive_sizes, variant_problems

SHAPE_FIELDS = (
    "arch", "vocab_size", "context_length", "n_layer", "n_head", "n_kv_head", "n_embd", "window", "bias",
    "n_inner", "norm_eps", "activation",
)  # fmt: skip
"""Fields that determine the parameters or their meaning; the others may change between training runs."""

GPT2_VOCAB_SIZE = 50257
"""Vocabulary size assumed for counting when the configuration leaves it open and no tokenizer is given."""

MLP_RATIO = 4
"""Width of the MLP's hidden layer as a multiple of n_embd, where n_inner leaves it open."""

FULL_ATTENTION_EVERY = 4
"""With a sliding window, every fourth block and the last one still attend to the whole context."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model, in OpenAI's names.

    Attributes:
        arch: architecture; `gpt2` reproduces OpenAI's GPT-2 exactly, `modern` is the recipe that trains fastest.
        vocab_size: rows of the token embedding; 0 takes the tokenizer's vocabulary size.
        context_length: maximum number of tokens the model sees at once.
        n_layer: number of blocks.
        n_head: attention heads per block; must divide n_embd.
        n_kv_head: key/value heads, each shared by n_head / n_kv_head query heads; 0 means n_head. Modern only.
        n_embd: width of the residual stream.
        window: maximum distance in tokens that attention looks back, in three blocks of four; 0 means the whole
            context. Modern only.
        dropout: probability of dropping an activation in training, in [0, 1).
        init_std: standard deviation of the initial weights; OpenAI's 0.02 suits widths near 768, narrower models
            learn faster with a larger value.
        bias: whether linear layers and norms have biases, as OpenAI's do; must be false for modern.
        n_inner: width of the MLP's hidden layer; 0 means 4 · n_embd. GPT-2 only.
        norm_eps: added to the variance by LayerNorm. GPT-2 only.
        activation: nonlinearity of the MLP: OpenAI's tanh form of GELU, or the exact one. GPT-2 only.
    """

    arch: Literal["gpt2", "modern"] = "gpt2"
    vocab_size: int = 0
    context_length: int = 1024
    n_layer: int = 12
    n_head: int = 12
    n_kv_head: int = 0
    n_embd: int = 768
    window: int = 0
    dropout: float = 0.0
    init_std: float = 0.02
    bias: bool = True
    n_inner: int = 0
    norm_eps: float = GPT2_NORM_EPS
    activation: Literal["gelu_tanh", "gelu"] = "gelu_tanh"

    @property
    def inner_width(self) -> int:
        """Width of the MLP's hidden layer, with 0 resolved to 4 · `n_embd`."""
        return self.n_inner or MLP_RATIO * self.n_embd

    @property
    def head_dim(self) -> int:
        """Channels per attention head."""
        return self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads, with 0 resolved to `n_head`."""
        return self.n_kv_head or self.n_head

    def layer_window(self, layer: int) -> int:
        """Return the attention window of a block (0 is the first), in tokens including the current one; 0 means all."""
        is_full = (layer + 1) % FULL_ATTENTION_EVERY == 0 or layer == self.n_layer - 1
        return 0 if is_full else self.window

    def same_shape(self, other: ModelConfig) -> bool:
        """Return whether weights of one configuration fit another."""
        return all(getattr(self, name) == getattr(other, name) for name in SHAPE_FIELDS)

    def problems(self) -> list[str]:
        """Return every invalid field as one line of text; empty if the configuration is valid."""
        found = [
            f"model.{name} is {getattr(self, name)}; it must be at least 1"
            for name in ("context_length", "n_layer", "n_head", "n_embd")
            if getattr(self, name) < 1
        ]
        if too_large := excessive_sizes(self):  # nothing below is computed with such numbers
            return too_large
        if self.vocab_size < 0:
            found.append(f"model.vocab_size is {self.vocab_size}; it must be positive, or 0 for the tokenizer's")
        if not 0.0 <= self.dropout < 1.0:
            found.append(f"model.dropout is {self.dropout}; it must be at least 0 and below 1")
        if not 0.0 < self.init_std < 1.0:
            found.append(f"model.init_std is {self.init_std}; it must be above 0 and below 1")
        if self.n_head >= 1 and self.n_embd >= 1 and self.n_embd % self.n_head:
            divisors = [n for n in range(1, self.n_embd + 1) if self.n_embd % n == 0]
            nearest = min(divisors, key=lambda n: abs(n - self.n_head))
            found.append(
                f"model.n_head is {self.n_head}, which does not divide model.n_embd {self.n_embd}; "
                f"the nearest divisor is {nearest}"
            )
        found += variant_problems(self.arch, self.n_inner, self.norm_eps, self.activation)
        return found + (self._gpt2_problems() if self.arch == "gpt2" else self._modern_problems())

    def _gpt2_problems(self) -> list[str]:
        return [
            f"model.{name} is {getattr(self, name)}, but gpt2 does not support it; set it to 0, or model.arch to modern"
            for name in ("n_kv_head", "window")
            if getattr(self, name) != 0
        ]

    def _modern_problems(self) -> list[str]:
        found: list[str] = []
        if self.bias:
            found.append("model.bias is true, but modern has no biases; set model.bias to false")
        if self.window < 0:
            found.append(f"model.window is {self.window}; it must be positive, or 0 for the whole context")
        if self.n_kv_head < 0 or (self.n_kv_head and self.n_head % self.n_kv_head):
            found.append(
                f"model.n_kv_head is {self.n_kv_head}; it must divide model.n_head {self.n_head}, or be 0 for n_head"
            )
        if self.n_head >= 1 and self.n_embd % self.n_head == 0 and self.head_dim % 2:
            found.append(
                f"model.n_embd / model.n_head is {self.head_dim}; it must be even, because modern rotates pairs of channels"
            )
        return found
