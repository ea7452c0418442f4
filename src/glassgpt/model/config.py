"""The shape of a model as plain data. Does not import torch, so that configurations can be read and checked quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glassgpt.model.config_checks import GPT2_NORM_EPS, ROPE_THETA, CustomParts, excessive_sizes, variant_problems
from glassgpt.model.window_config import Windows

SHAPE_FIELDS = (
    "arch", "vocab_size", "context_length", "n_layer", "n_head", "n_kv_head", "n_embd", "window", "window_pattern",
    "sinks", "bias", "n_inner", "head_dim", "norm_eps", "activation", "rope_theta", "tied_head", "block", "custom",
)  # fmt: skip
"""Fields that determine the parameters or their meaning; the others may change between training runs."""

GPT2_VOCAB_SIZE = 50257
"""Vocabulary size assumed for counting when the configuration leaves it open and no tokenizer is given."""

MLP_RATIO = 4
"""Width of the MLP's hidden layer as a multiple of n_embd, where n_inner leaves it open."""

INNER_MULTIPLE = 64
"""Llama's hidden width is a multiple of this, where n_inner leaves it open."""


@dataclass(frozen=True)
class ModelConfig(Windows, CustomParts):
    """Shape of a model, in OpenAI's names.

    Attributes:
        arch: architecture; `gpt2` reproduces OpenAI's GPT-2 exactly, `modern` is the recipe that trains fastest, `llama`
            is the architecture of SmolLM2 and of most open models, `gated_deltanet` has linear attention.
        vocab_size: rows of the token embedding; 0 takes the tokenizer's vocabulary size.
        context_length: maximum number of tokens the model sees at once.
        n_layer: number of blocks.
        n_head: attention heads per block; must divide n_embd, unless head_dim is set.
        n_kv_head: key/value heads, each shared by n_head / n_kv_head query heads; 0 means n_head. Not for GPT-2.
        n_embd: width of the residual stream.
        dropout: probability of dropping an activation in training, in [0, 1).
        token_dropout: probability of hiding an input token in training, in [0, 1): a fixed vector takes its place.
        init_std: standard deviation of the initial weights; OpenAI's 0.02 suits widths near 768, narrower models
            learn faster with a larger value.
        bias: whether linear layers and norms have biases, as OpenAI's do; must be false for modern, and for llama
            concerns attention only.
        n_inner: width of the MLP's hidden layer; 0 means 4 · n_embd, or for llama 8/3 · n_embd, rounded up to a multiple
            of 64.
        head_dim: channels per attention head; 0 means n_embd / n_head. With another number, the heads together are
            narrower or wider than the residual stream, as after pruning heads.
        norm_eps: added to the variance by LayerNorm, or to the mean square by RMSNorm. Not for Modern.
        activation: nonlinearity of the MLP: OpenAI's tanh form of GELU, or the exact one. GPT-2 only.
        rope_theta: base of the frequencies of rotary positions. Llama only.
        tied_head: whether the head is the token embedding; GPT-2's always is, Modern's never. Llama only.
    """

    arch: Literal["gpt2", "modern", "llama", "gated_deltanet"] = "gpt2"
    vocab_size: int = 0
    context_length: int = 1024
    n_layer: int = 12
    n_head: int = 12
    n_kv_head: int = 0
    n_embd: int = 768
    dropout: float = 0.0
    token_dropout: float = 0.0
    init_std: float = 0.02
    bias: bool = True
    n_inner: int = 0
    head_dim: int = 0
    norm_eps: float = GPT2_NORM_EPS
    activation: Literal["gelu_tanh", "gelu"] = "gelu_tanh"
    rope_theta: float = ROPE_THETA
    tied_head: bool = True

    @property
    def inner_width(self) -> int:
        """Width of the MLP's hidden layer, with 0 resolved."""
        if self.n_inner or self.arch != "llama":
            return self.n_inner or MLP_RATIO * self.n_embd
        # Two matrices up instead of one: 2/3 of GPT-2's width costs the same (Shazeer 2020).
        return -(-2 * MLP_RATIO * self.n_embd // (3 * INNER_MULTIPLE)) * INNER_MULTIPLE

    @property
    def head_width(self) -> int:
        """Channels per attention head, with 0 resolved."""
        return self.head_dim or self.n_embd // self.n_head

    @property
    def attention_width(self) -> int:
        """Channels of all heads together; n_embd unless `head_dim` says otherwise."""
        return self.n_head * self.head_width

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads, with 0 resolved to `n_head`."""
        return self.n_kv_head or self.n_head

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
        return found + variant_problems(self)
