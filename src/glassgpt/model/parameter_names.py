"""Mappings between our parameter names and those of Hugging Face checkpoints.

GPT-2's names are OpenAI's. Its linear layers store matrices as (in, out), PyTorch's as (out, in), so those are
transposed. Modern's names are NanoChat's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class ParameterMapping(NamedTuple):
    """One parameter under both names.

    Attributes:
        ours: name in our model.
        theirs: name in the Hugging Face checkpoint.
        transposed: whether the checkpoint stores the transposed matrix.
    """

    ours: str
    theirs: str
    transposed: bool


_GPT2_OUTSIDE_BLOCKS = (
    ParameterMapping("token_embedding.weight", "transformer.wte.weight", transposed=False),
    ParameterMapping("position_embedding.weight", "transformer.wpe.weight", transposed=False),
    ParameterMapping("norm.weight", "transformer.ln_f.weight", transposed=False),
    ParameterMapping("norm.bias", "transformer.ln_f.bias", transposed=False),
)
_GPT2_NORMS = {"norm1": "ln_1", "norm2": "ln_2"}
_GPT2_LINEARS = {
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}


def gpt2_parameter_mappings(n_layer: int) -> Iterator[ParameterMapping]:
    """Yield a mapping for every parameter of a GPT-2 with `n_layer` blocks."""
    yield from _GPT2_OUTSIDE_BLOCKS
    for layer in range(n_layer):
        for ours, openai in (_GPT2_NORMS | _GPT2_LINEARS).items():
            for part in ("weight", "bias"):
                transposed = ours in _GPT2_LINEARS and part == "weight"
                theirs = f"transformer.h.{layer}.{openai}.{part}"
                yield ParameterMapping(f"blocks.{layer}.{ours}.{part}", theirs, transposed)


_MODERN_OUTSIDE_BLOCKS = {"token_embedding": "model.embed_tokens", "lm_head": "lm_head"}
_MODERN_LINEARS = {
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}


def modern_parameter_mappings(n_layer: int) -> Iterator[ParameterMapping]:
    """Yield a mapping for every parameter of a Modern with `n_layer` blocks."""
    for ours, theirs in _MODERN_OUTSIDE_BLOCKS.items():
        yield ParameterMapping(f"{ours}.weight", f"{theirs}.weight", transposed=False)
    for layer in range(n_layer):
        for ours, theirs in _MODERN_LINEARS.items():
            yield ParameterMapping(
                f"blocks.{layer}.{ours}.weight", f"model.layers.{layer}.{theirs}.weight", transposed=False
            )
