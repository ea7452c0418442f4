"""What a model is made of, as data. Free of torch, so that configurations can be read and checked alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SHAPE_FIELDS = ("arch", "vocab_size", "context_length", "n_layer", "n_head", "n_kv_head", "n_embd", "window", "bias")
"""The settings that weights, or what they mean, depend on; the others may change from one training to the next."""

GPT2_VOCAB_SIZE = 50257
"""What a vocabulary that was left open is counted with, where there is no tokenizer."""

FULL_ATTENTION_EVERY = 4
"""With a sliding window, every so manieth block and the last one still see the whole context."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model, in OpenAI's names.

    Attributes:
        arch: architecture; `gpt2` is OpenAI's GPT-2 to the last detail, `modern` the recipe that trains fastest.
        vocab_size: rows of the token embedding; 0 takes as many as the tokenizer has.
        context_length: most tokens that the model sees at once.
        n_layer: number of blocks.
        n_head: attention heads in each block; must divide n_embd.
        n_kv_head: key and value heads, each shared by n_head / n_kv_head query heads; 0 is one for each. Modern only.
        n_embd: width of the residual stream.
        window: most tokens back that attention looks, in three blocks of four; 0 is the whole context. Modern only.
        dropout: probability of dropping an activation in training, in [0, 1).
        init_std: standard deviation of the initial weights; OpenAI's 0.02 suits widths near 768, narrower models
            learn faster from more.
        bias: whether linear layers and norms have biases, as OpenAI's have; modern has none.
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

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_head or self.n_head

    def layer_window(self, layer: int) -> int:
        """How many tokens back the block with number `layer` (0 is the first) sees, itself included; 0 is all."""
        sees_all = (layer + 1) % FULL_ATTENTION_EVERY == 0 or layer == self.n_layer - 1
        return 0 if sees_all else self.window

    def same_shape(self, other: ModelConfig) -> bool:
        """Whether one's weights fit the other."""
        return all(getattr(self, name) == getattr(other, name) for name in SHAPE_FIELDS)

    def problems(self) -> list[str]:
        """Everything about this configuration that cannot work, a line each; empty when it can."""
        found: list[str] = []
        for name in ("context_length", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                found.append(f"model.{name} is {getattr(self, name)}; it must be at least 1")
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
                f"the nearest that does is {nearest}"
            )
        return found + self._arch_problems()

    def _arch_problems(self) -> list[str]:
        if self.arch == "gpt2":
            return [
                f"model.{name} is {getattr(self, name)}, and gpt2 has nothing of the kind; "
                "leave it at 0, or set model.arch to modern"
                for name in ("n_kv_head", "window")
                if getattr(self, name) != 0
            ]
        found: list[str] = []
        if self.bias:
            found.append("model.bias is true, and modern has no biases; set model.bias to false")
        if self.window < 0:
            found.append(f"model.window is {self.window}; it must be positive, or 0 for the whole context")
        if self.n_kv_head < 0 or (self.n_kv_head and self.n_head % self.n_kv_head):
            found.append(
                f"model.n_kv_head is {self.n_kv_head}; it must divide model.n_head {self.n_head}, or be 0 for as many"
            )
        if self.n_head >= 1 and self.n_embd % self.n_head == 0 and self.head_dim % 2:
            found.append(f"model.n_embd / model.n_head is {self.head_dim}; modern turns pairs, so it must be even")
        return found
