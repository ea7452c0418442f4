"""Conversion between our configurations and Hugging Face's `config.json`, for each architecture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from glassgpt.errors import InterchangeError
from glassgpt.interchange.files import shown
from glassgpt.interchange.formats.base import heads_problem
from glassgpt.model import modern
from glassgpt.model.config import GPT2_VOCAB_SIZE, MLP_RATIO, ModelConfig
from glassgpt.model.config_checks import GPT2_NORM_EPS, ROPE_THETA
from glassgpt.model.parameter_names import (
    ParameterMapping,
    gpt2_parameter_mappings,
    llama_parameter_mappings,
    modern_parameter_mappings,
)

HFConfig = dict[str, Any]
"""The content of a Hugging Face `config.json`."""


@dataclass(frozen=True)
class Layout:
    """The Hugging Face counterpart of one of our architectures.

    Attributes:
        arch: our name.
        model_type: Hugging Face's `model_type`.
        architecture: name of the transformers class.
        base_model_prefix: prefix of parameter names inside the language model; a checkpoint of the base model alone
            omits it.
        required: config keys whose values our architecture cannot change, with the accepted values; the first one is
            written on export.
        parameter_mappings: yields the mapping of every parameter.
        from_hf: converts a Hugging Face config to ours.
        to_hf: converts our config to Hugging Face keys, except those in `required`.
        embedding_shapes: shapes of the embeddings under their Hugging Face names.
        block_prefix: beginning of the names of the blocks' parameters, up to the number.
        buffers: matches tensors of a checkpoint that are no parameters.
        tied_by_default: whether a config that does not say so has a head that is the token embedding.
        tied_embedding: returns the name of the embedding that is also the head, or None if the head is a separate
            parameter.
        aliases: other names of config keys, which transformers' `attribute_map` accepts.
    """

    arch: str
    model_type: str
    architecture: str
    base_model_prefix: str
    required: dict[str, tuple[Any, ...]]
    parameter_mappings: Callable[[ModelConfig], Iterator[ParameterMapping]]
    from_hf: Callable[[HFConfig], ModelConfig]
    to_hf: Callable[[ModelConfig], HFConfig]
    embedding_shapes: Callable[[ModelConfig], dict[str, tuple[int, ...]]]
    block_prefix: str
    buffers: re.Pattern[str]
    tied_by_default: bool = True
    tied_embedding: Callable[[ModelConfig], str | None] = lambda config: None
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])


ACTIVATIONS: dict[str, Literal["gelu_tanh", "gelu"]] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
}
"""Our name of each of transformers' activations; the first of each is written on export."""


def _gpt2_from_hf(given: HFConfig) -> ModelConfig:
    activation = given.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise InterchangeError(
            f"activation_function is {shown(activation)}; gpt2 only supports {', '.join(ACTIVATIONS)}"
        )
    n_inner = given.get("n_inner")
    n_embd = given.get("n_embd", 768)
    return ModelConfig(
        vocab_size=given.get("vocab_size", GPT2_VOCAB_SIZE),
        context_length=given.get("n_positions", 1024),
        n_layer=given.get("n_layer", 12),
        n_head=given.get("n_head", 12),
        n_embd=n_embd,
        dropout=given.get("resid_pdrop", 0.1),
        init_std=given.get("initializer_range", 0.02),
        n_inner=0 if n_inner is None or n_inner == MLP_RATIO * n_embd else n_inner,
        norm_eps=given.get("layer_norm_epsilon", GPT2_NORM_EPS),
        activation=ACTIVATIONS[activation],
    )


def _gpt2_to_hf(config: ModelConfig) -> HFConfig:
    if problem := heads_problem(config, "transformers' GPT-2"):
        raise InterchangeError(problem)
    return {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "attn_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "n_inner": config.n_inner or None,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation),
        "tie_word_embeddings": True,
    }


def _rotary_base(given: HFConfig, arch: str) -> float:
    """Return the base of the rotary frequencies, after refusing every variant of rotary positions by name."""
    rotary: HFConfig = given.get("rope_parameters") or {}
    if not isinstance(rotary, dict):  # pyright: ignore[reportUnnecessaryIsInstance] - untrusted input
        raise InterchangeError(f"rope_parameters is {shown(rotary)}; it must be an object")
    if rotary.get("rope_type", "default") != "default":
        raise InterchangeError(f"rope_parameters is {shown(rotary)}; {arch} only supports rope_type 'default'")
    if extra := rotary.keys() - {"rope_theta", "rope_type"}:
        raise InterchangeError(f"rope_parameters has {shown(sorted(extra))}, which {arch} does not support")
    base = rotary.get("rope_theta", given.get("rope_theta", ROPE_THETA))
    return float(base) if isinstance(base, int) else base


def _shape_from_hf(given: HFConfig, *, heads: int, width: int) -> dict[str, Any]:
    """Return the fields that Modern and Llama read from the same keys.

    Args:
        given: the config.
        heads: number of heads where it does not say so.
        width: of the residual stream, likewise.
    """
    heads, width = given.get("num_attention_heads", heads), given.get("hidden_size", width)
    kv_heads = given.get("num_key_value_heads") or heads
    head_dim = given.get("head_dim") or 0
    return {
        "context_length": given.get("max_position_embeddings", 2048),
        "n_head": heads,
        "n_kv_head": 0 if kv_heads == heads else kv_heads,
        "n_embd": width,
        "head_dim": 0 if type(head_dim) is type(heads) is int and head_dim * heads == width else head_dim,
        "init_std": given.get("initializer_range", 0.02),
    }


def _shape_to_hf(config: ModelConfig) -> HFConfig:
    """Return the keys that Modern and Llama have in common."""
    return {
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_size": config.n_embd,
        "intermediate_size": config.inner_width,
        "max_position_embeddings": config.context_length,
    }


def _modern_from_hf(given: HFConfig) -> ModelConfig:
    if _rotary_base(given, "modern") != modern.ROTARY_BASE:
        rotary = shown(given.get("rope_parameters") or given.get("rope_theta"))
        raise InterchangeError(f"rope_parameters is {rotary}; modern only supports base {modern.ROTARY_BASE:g}")
    shape = _shape_from_hf(given, heads=6, width=768)
    inner = given.get("intermediate_size", 8192)
    return ModelConfig(
        arch="modern",
        vocab_size=given.get("vocab_size", 50304),
        n_layer=given.get("num_hidden_layers", 12),
        bias=False,
        n_inner=0 if inner in (None, MLP_RATIO * shape["n_embd"]) else inner,
        **shape,
    )


def _modern_to_hf(config: ModelConfig) -> HFConfig:
    if config.window:
        raise InterchangeError(
            f"the model has a sliding window of {config.window}, which NanoChat does not support; it cannot be exported"
        )
    rotary = {"rope_type": "default", "rope_theta": modern.ROTARY_BASE}
    return {**_shape_to_hf(config), "rope_parameters": rotary}


def _llama_from_hf(given: HFConfig) -> ModelConfig:
    shape = _shape_from_hf(given, heads=32, width=4096)
    return ModelConfig(
        arch="llama",
        vocab_size=given.get("vocab_size", 32000),
        n_layer=given.get("num_hidden_layers", 32),
        bias=bool(given.get("attention_bias", False)),
        n_inner=given.get("intermediate_size", 11008),
        norm_eps=given.get("rms_norm_eps", 1e-6),
        rope_theta=_rotary_base(given, "llama"),
        tied_head=bool(given.get("tie_word_embeddings", False)),
        **shape,
    )


def _llama_to_hf(config: ModelConfig) -> HFConfig:
    return {
        **_shape_to_hf(config),
        "rms_norm_eps": config.norm_eps,
        # transformers 5 reads the first, its predecessors, llama.cpp and vLLM the second.
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta,
        "attention_bias": config.bias,
        "tie_word_embeddings": config.tied_head,
    }


LAYOUTS = (
    Layout(
        arch="gpt2",
        model_type="gpt2",
        architecture="GPT2LMHeadModel",
        base_model_prefix="transformer.",
        required={
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        parameter_mappings=gpt2_parameter_mappings,
        from_hf=_gpt2_from_hf,
        to_hf=_gpt2_to_hf,
        embedding_shapes=lambda config: {
            "transformer.wte.weight": (config.vocab_size, config.n_embd),
            "transformer.wpe.weight": (config.context_length, config.n_embd),
        },
        block_prefix="transformer.h.",
        buffers=re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)"),  # the causal mask of old checkpoints
        tied_embedding=lambda config: "transformer.wte.weight",
        aliases={
            "hidden_size": "n_embd",
            "max_position_embeddings": "n_positions",
            "num_attention_heads": "n_head",
            "num_hidden_layers": "n_layer",
        },
    ),
    Layout(
        arch="modern",
        model_type="nanochat",
        architecture="NanoChatForCausalLM",
        base_model_prefix="model.",
        required={
            "hidden_act": ("relu2",),
            "rms_norm_eps": (modern.NORM_EPS,),
            "final_logit_softcapping": (modern.LOGIT_CAP,),
            "attention_bias": (False,),
            "tie_word_embeddings": (False,),
        },
        parameter_mappings=modern_parameter_mappings,
        from_hf=_modern_from_hf,
        to_hf=_modern_to_hf,
        embedding_shapes=lambda config: {"model.embed_tokens.weight": (config.vocab_size, config.n_embd)},
        block_prefix="model.layers.",
        buffers=re.compile(r"model\.rotary_emb\.\w+"),
    ),
    Layout(
        arch="llama",
        model_type="llama",
        architecture="LlamaForCausalLM",
        base_model_prefix="model.",
        required={"hidden_act": ("silu", "swish"), "mlp_bias": (False,), "pretraining_tp": (1,)},
        parameter_mappings=llama_parameter_mappings,
        from_hf=_llama_from_hf,
        to_hf=_llama_to_hf,
        embedding_shapes=lambda config: {"model.embed_tokens.weight": (config.vocab_size, config.n_embd)},
        block_prefix="model.layers.",
        buffers=re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.\w+"),
        tied_by_default=False,
        tied_embedding=lambda config: "model.embed_tokens.weight" if config.tied_head else None,
    ),
)
"""One layout per architecture."""


def layout_for(arch: str) -> Layout:
    """Return the layout of one of our architectures."""
    return next(layout for layout in LAYOUTS if layout.arch == arch)
