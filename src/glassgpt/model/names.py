"""The table between our parameter names and OpenAI's, as Hugging Face's GPT-2 layout stores them.

OpenAI's linear layers keep their matrices as (in, out), PyTorch's as (out, in): those are transposed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class ForeignName(NamedTuple):
    """One row of the table."""

    ours: str
    openai: str
    transposed: bool


_OUTSIDE_BLOCKS = (
    ForeignName("token_embedding.weight", "wte.weight", transposed=False),
    ForeignName("position_embedding.weight", "wpe.weight", transposed=False),
    ForeignName("norm.weight", "ln_f.weight", transposed=False),
    ForeignName("norm.bias", "ln_f.bias", transposed=False),
)
_NORMS = {"norm1": "ln_1", "norm2": "ln_2"}
_LINEARS = {
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}


def gpt2_names(n_layer: int) -> Iterator[ForeignName]:
    """Every parameter of a GPT-2 with `n_layer` blocks."""
    yield from _OUTSIDE_BLOCKS
    for layer in range(n_layer):
        for ours, openai in (_NORMS | _LINEARS).items():
            for part in ("weight", "bias"):
                transposed = ours in _LINEARS and part == "weight"
                yield ForeignName(f"blocks.{layer}.{ours}.{part}", f"h.{layer}.{openai}.{part}", transposed)
