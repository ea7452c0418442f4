"""The tables between our parameter names and those of Hugging Face's layouts.

GPT-2's are OpenAI's, whose linear layers keep their matrices as (in, out), PyTorch's as (out, in): those are
transposed. Modern's are those of NanoChat.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class ParameterMapping(NamedTuple):
    """One row of the table."""

    ours: str
    theirs: str
    transposed: bool


_OUTSIDE_BLOCKS = (
    ParameterMapping("token_embedding.weight", "transformer.wte.weight", transposed=False),
    ParameterMapping("position_embedding.weight", "transformer.wpe.weight", transposed=False),
    ParameterMapping("norm.weight", "transformer.ln_f.weight", transposed=False),
    ParameterMapping("norm.bias", "transformer.ln_f.bias", transposed=False),
)
_NORMS = {"norm1": "ln_1", "norm2": "ln_2"}
_LINEARS = {
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}


def gpt2_parameter_mappings(n_layer: int) -> Iterator[ParameterMapping]:
    """Every parameter of a GPT-2 with `n_layer` blocks."""
    yield from _OUTSIDE_BLOCKS
    for layer in range(n_layer):
        for ours, openai in (_NORMS | _LINEARS).items():
            for part in ("weight", "bias"):
                transposed = ours in _LINEARS and part == "weight"
                theirs = f"transformer.h.{layer}.{openai}.{part}"
                yield ParameterMapping(f"blocks.{layer}.{ours}.{part}", theirs, transposed)


_MODERN_OUTSIDE = {"token_embedding": "model.embed_tokens", "lm_head": "lm_head"}
_MODERN_LINEARS = {
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}


def modern_parameter_mappings(n_layer: int) -> Iterator[ParameterMapping]:
    """Every parameter of a Modern with `n_layer` blocks."""
    for ours, theirs in _MODERN_OUTSIDE.items():
        yield ParameterMapping(f"{ours}.weight", f"{theirs}.weight", transposed=False)
    for layer in range(n_layer):
        for ours, theirs in _MODERN_LINEARS.items():
            yield ParameterMapping(
                f"blocks.{layer}.{ours}.weight", f"model.layers.{layer}.{theirs}.weight", transposed=False
            )
