"""Conversion between our configurations and Hugging Face's `config.json`, for each architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from glassgpt.errors import InterchangeError
from glassgpt.model import gpt2, modern
from glassgpt.model.config import GPT2_VOCAB_SIZE, ModelConfig
from glassgpt.model.parameter_names import ParameterMapping, gpt2_parameter_mappings, modern_parameter_mappings

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
        parameter_mappings: yields the mapping of every parameter, given the number of blocks.
        from_hf: converts a Hugging Face config to ours.
        to_hf: converts our config to Hugging Face keys, except those in `required`.
    """

    arch: str
    model_type: str
    architecture: str
    base_model_prefix: str
    required: dict[str, tuple[Any, ...]]
    parameter_mappings: Callable[[int], Iterator[ParameterMapping]]
    from_hf: Callable[[HFConfig], ModelConfig]
    to_hf: Callable[[ModelConfig], HFConfig]


def _gpt2_from_hf(given: HFConfig) -> ModelConfig:
    config = ModelConfig(
        vocab_size=given.get("vocab_size", GPT2_VOCAB_SIZE),
        context_length=given.get("n_positions", 1024),
        n_layer=given.get("n_layer", 12),
        n_head=given.get("n_head", 12),
        n_embd=given.get("n_embd", 768),
        dropout=given.get("resid_pdrop", 0.1),
        init_std=given.get("initializer_range", 0.02),
    )
    _require_width("n_inner", given.get("n_inner"), gpt2.MLP_RATIO * config.n_embd)
    return config


def _gpt2_to_hf(config: ModelConfig) -> HFConfig:
    return {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "attn_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
    }


def _modern_from_hf(given: HFConfig) -> ModelConfig:
    rotary: HFConfig = given.get("rope_parameters") or {}
    if not isinstance(rotary, dict):  # pyright: ignore[reportUnnecessaryIsInstance] - untrusted input
        raise InterchangeError(f"rope_parameters is {rotary!r}; it must be an object")
    base = rotary.get("rope_theta", given.get("rope_theta", modern.ROTARY_BASE))
    if base != modern.ROTARY_BASE or rotary.get("rope_type", "default") != "default":
        raise InterchangeError(f"rope_parameters is {rotary}; modern only supports base {modern.ROTARY_BASE:g}")
    heads = given.get("num_attention_heads", 6)
    kv_heads = given.get("num_key_value_heads") or heads
    config = ModelConfig(
        arch="modern",
        vocab_size=given.get("vocab_size", 50304),
        context_length=given.get("max_position_embeddings", 2048),
        n_layer=given.get("num_hidden_layers", 12),
        n_head=heads,
        n_kv_head=0 if kv_heads == heads else kv_heads,
        n_embd=given.get("hidden_size", 768),
        init_std=given.get("initializer_range", 0.02),
        bias=False,
    )
    _require_width("intermediate_size", given.get("intermediate_size", 8192), modern.MLP_RATIO * config.n_embd)
    return config


def _modern_to_hf(config: ModelConfig) -> HFConfig:
    if config.window:
        raise InterchangeError(
            f"the model has a sliding window of {config.window}, which NanoChat does not support; it cannot be exported"
        )
    return {
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "hidden_size": config.n_embd,
        "intermediate_size": modern.MLP_RATIO * config.n_embd,
        "max_position_embeddings": config.context_length,
        "rope_parameters": {"rope_type": "default", "rope_theta": modern.ROTARY_BASE},
    }


def _require_width(name: str, given: int | None, expected: int) -> None:
    if given not in (None, expected):
        raise InterchangeError(f"{name} is {given}; it must be 4 times the width, {expected}")


LAYOUTS = (
    Layout(
        arch="gpt2",
        model_type="gpt2",
        architecture="GPT2LMHeadModel",
        base_model_prefix="transformer.",
        required={
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "layer_norm_epsilon": (gpt2.NORM_EPS,),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
            "tie_word_embeddings": (True,),
        },
        parameter_mappings=gpt2_parameter_mappings,
        from_hf=_gpt2_from_hf,
        to_hf=_gpt2_to_hf,
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
    ),
)
"""One layout per architecture."""


def layout_for(arch: str) -> Layout:
    """Return the layout of one of our architectures."""
    return next(layout for layout in LAYOUTS if layout.arch == arch)
