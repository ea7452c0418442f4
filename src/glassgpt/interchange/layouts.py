"""What a `config.json` of Hugging Face's says, in both directions, for each architecture of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from glassgpt.errors import InterchangeError
from glassgpt.model import gpt2, modern
from glassgpt.model.config import GPT2_VOCAB_SIZE, ModelConfig
from glassgpt.model.parameter_names import ParameterMapping, gpt2_parameter_mappings, modern_parameter_mappings

Settings = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """How one of our architectures is spelled there.

    Attributes:
        arch: ours.
        model_type: theirs.
        architecture: their class.
        trunk: what their language model calls the model inside; a file of the bare trunk leaves it out.
        fixed: settings that our architecture has built in, with the values that it stands for, the first of which
            is written.
        names: every parameter.
        read: their settings to ours.
        write: ours to theirs, besides what is fixed.
    """

    arch: str
    model_type: str
    architecture: str
    trunk: str
    fixed: dict[str, tuple[Any, ...]]
    names: Callable[[int], Iterator[ParameterMapping]]
    read: Callable[[Settings], ModelConfig]
    write: Callable[[ModelConfig], Settings]


def _read_gpt2(given: Settings) -> ModelConfig:
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


def _write_gpt2(config: ModelConfig) -> Settings:
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


def _read_modern(given: Settings) -> ModelConfig:
    rotary: Settings = given.get("rope_parameters") or {}
    if not isinstance(rotary, dict):  # pyright: ignore[reportUnnecessaryIsInstance] - a stranger's file
        raise InterchangeError(f"rope_parameters is {rotary!r}, not an object")
    base = rotary.get("rope_theta", given.get("rope_theta", modern.ROTARY_BASE))
    if base != modern.ROTARY_BASE or rotary.get("rope_type", "default") != "default":
        raise InterchangeError(f"rope_parameters is {rotary}, and our Modern stands for base {modern.ROTARY_BASE:g}")
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


def _write_modern(config: ModelConfig) -> Settings:
    if config.window:
        raise InterchangeError(
            f"NanoChat's layout has no sliding window, and this model has one of {config.window}; it cannot be exported"
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


def _require_width(name: str, given: int | None, ours: int) -> None:
    if given not in (None, ours):
        raise InterchangeError(f"{name} is {given}, and ours is 4 times the width, {ours}")


LAYOUTS = (
    Layout(
        arch="gpt2",
        model_type="gpt2",
        architecture="GPT2LMHeadModel",
        trunk="transformer.",
        fixed={
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "layer_norm_epsilon": (gpt2.NORM_EPS,),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
            "tie_word_embeddings": (True,),
        },
        names=gpt2_parameter_mappings,
        read=_read_gpt2,
        write=_write_gpt2,
    ),
    Layout(
        arch="modern",
        model_type="nanochat",
        architecture="NanoChatForCausalLM",
        trunk="model.",
        fixed={
            "hidden_act": ("relu2",),
            "rms_norm_eps": (modern.NORM_EPS,),
            "final_logit_softcapping": (modern.LOGIT_CAP,),
            "attention_bias": (False,),
            "tie_word_embeddings": (False,),
        },
        names=modern_parameter_mappings,
        read=_read_modern,
        write=_write_modern,
    ),
)
"""One for each architecture."""


def layout_for(arch: str) -> Layout:
    """The layout of one of our architectures."""
    return next(layout for layout in LAYOUTS if layout.arch == arch)
