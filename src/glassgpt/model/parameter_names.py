"""Mappings between our parameter names and those of Hugging Face checkpoints.

GPT-2's names are OpenAI's. Its linear layers store matrices as (in, out), PyTorch's as (out, in), so those are
transposed. Modern's names are NanoChat's, which are Llama's except in the MLP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from glassgpt.model.config import ModelConfig


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


def gpt2_parameter_mappings(config: ModelConfig) -> Iterator[ParameterMapping]:
    """Yield a mapping for every parameter of a GPT-2, including the biases that a checkpoint always has."""
    yield from _GPT2_OUTSIDE_BLOCKS
    for layer in range(config.n_layer):
        for ours, openai in (_GPT2_NORMS | _GPT2_LINEARS).items():
            for part in ("weight", "bias"):
                transposed = ours in _GPT2_LINEARS and part == "weight"
                theirs = f"transformer.h.{layer}.{openai}.{part}"
                yield ParameterMapping(f"blocks.{layer}.{ours}.{part}", theirs, transposed)


_ATTENTION = {
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
}
_MODERN_MLP = {"mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}
_LLAMA_MLP = {"mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj"}
_LLAMA_NORMS = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}


def modern_parameter_mappings(config: ModelConfig) -> Iterator[ParameterMapping]:
    """Yield a mapping for every parameter of a Modern."""
    yield _same("token_embedding.weight", "model.embed_tokens.weight")
    yield _same("lm_head.weight", "lm_head.weight")
    for layer in range(config.n_layer):
        for ours, theirs in (_ATTENTION | _MODERN_MLP).items():
            yield _same(f"blocks.{layer}.{ours}.weight", f"model.layers.{layer}.{theirs}.weight")


def llama_parameter_mappings(config: ModelConfig) -> Iterator[ParameterMapping]:
    """Yield a mapping for every parameter of a Llama."""
    yield _same("token_embedding.weight", "model.embed_tokens.weight")
    yield _same("norm.weight", "model.norm.weight")
    if not config.tied_head:
        yield _same("lm_head.weight", "lm_head.weight")
    for layer in range(config.n_layer):
        for ours, theirs in (_LLAMA_NORMS | _ATTENTION | _LLAMA_MLP).items():
            has_bias = config.bias and ours in _ATTENTION
            for part in ("weight", "bias") if has_bias else ("weight",):
                yield _same(f"blocks.{layer}.{ours}.{part}", f"model.layers.{layer}.{theirs}.{part}")


def _same(ours: str, theirs: str) -> ParameterMapping:
    return ParameterMapping(ours, theirs, transposed=False)


_GGUF_OUTSIDE_BLOCKS = {
    "token_embedding": "token_embd",
    "position_embedding": "position_embd",
    "norm": "output_norm",
    "lm_head": "output",
}
_GGUF_IN_BLOCKS = {
    "norm1": "attn_norm",
    "attention.qkv": "attn_qkv",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.out": "attn_output",
    "norm2": "ffn_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
}


def gguf_name(name: str) -> str:
    """Return llama.cpp's name of a parameter; it stores matrices as PyTorch does, (out, in)."""
    module, _, part = name.rpartition(".")
    if not module.startswith("blocks."):
        return f"{_GGUF_OUTSIDE_BLOCKS[module]}.{part}"
    _, layer, inner = module.split(".", 2)
    return f"blk.{layer}.{_GGUF_IN_BLOCKS[inner]}.{part}"
