"""Blocks that leave out what makes a deep model trainable, for the lesson's comparison."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from glassgpt.learn.small_training import VOCAB_SIZE
from glassgpt.model.attention import attend_readable
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.gpt2 import GPT2
from glassgpt.model.transformer import Block

Combine = Callable[[Tensor, Callable[[Tensor], Tensor], nn.Module], Tensor]
"""Combines the stream x, a sublayer and its norm."""

VARIANTS: dict[str, Combine] = {
    "GPT-2's block": lambda x, sublayer, norm: x + sublayer(norm(x)),
    "norm after": lambda x, sublayer, norm: norm(x + sublayer(x)),
    "no norms": lambda x, sublayer, norm: x + sublayer(x),
    "no residuals": lambda x, sublayer, norm: sublayer(norm(x)),
}


class VariantBlock(Block):
    """A block whose sublayers are combined in another way."""

    def __init__(self, block: Block, combine: Combine) -> None:
        super().__init__(block.norm1, block.attention, block.norm2, block.mlp)
        self.combine = combine

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Apply both sublayers, (B, T, C) -> (B, T, C)."""
        x = self.combine(x, lambda normed: self.attention(normed, cache), self.norm1)
        return self.combine(x, self.mlp, self.norm2)


def variant_model(name: str, n_layer: int, n_embd: int = 32, context_length: int = 48) -> GPT2:
    """Return a new GPT-2 with the blocks of a variant."""
    config = ModelConfig(
        vocab_size=VOCAB_SIZE, context_length=context_length, n_layer=n_layer, n_head=2, n_embd=n_embd, init_std=0.1
    )
    model = GPT2(config, attend_readable)
    model.blocks = nn.ModuleList(VariantBlock(block, VARIANTS[name]) for block in model.blocks)  # pyright: ignore
    return model
