"""What a model is made of, as data. Free of torch, so that configurations can be read and checked alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SHAPE = ("arch", "vocab_size", "context_length", "n_layer", "n_head", "n_embd", "bias")
"""The settings that weights depend on; the others may change from one training to the next."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model, in OpenAI's names.

    Attributes:
        arch: architecture; `gpt2` is OpenAI's GPT-2 to the last detail.
        vocab_size: rows of the token embedding; 0 takes as many as the tokenizer has.
        context_length: most tokens that the model sees at once.
        n_layer: number of blocks.
        n_head: attention heads in each block; must divide n_embd.
        n_embd: width of the residual stream.
        dropout: probability of dropping an activation in training, in [0, 1).
        init_std: standard deviation of the initial weights; OpenAI's 0.02 suits widths near 768, narrower models
            learn faster from more.
        bias: whether linear layers and norms have biases, as OpenAI's have.
    """

    arch: Literal["gpt2"] = "gpt2"
    vocab_size: int = 0
    context_length: int = 1024
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    init_std: float = 0.02
    bias: bool = True

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    def same_shape(self, other: ModelConfig) -> bool:
        """Whether one's weights fit the other."""
        return all(getattr(self, name) == getattr(other, name) for name in SHAPE)

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
        return found
