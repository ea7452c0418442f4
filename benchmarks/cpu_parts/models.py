"""GPT-2 in glassgpt and in transformers, with the same weights."""

from __future__ import annotations

from typing import Any

import torch

from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.config_checks import GPT2_NORM_EPS as NORM_EPS
from glassgpt.model.parameter_names import gpt2_parameter_mappings
from glassgpt.model.transformer import LanguageModel

GPT2 = ModelConfig(vocab_size=50257)
"""GPT-2 124M without dropout, so that losses can be compared."""
END_OF_TEXT = 50256


def matching_models(config: ModelConfig = GPT2, seed: int = 1337) -> tuple[LanguageModel, Any]:
    """Return a freshly initialized glassgpt model and a GPT2LMHeadModel that computes the same function.

    The embedding of end-of-text is zero: its logit is then 0 and never among the 50 largest, so that neither model ends
    a text early.
    """
    ours = our_model(config, seed)
    return ours, _theirs(ours)


def our_model(config: ModelConfig = GPT2, seed: int = 1337) -> LanguageModel:
    """Return the model of `matching_models` in glassgpt alone."""
    torch.manual_seed(seed)
    ours = build_model(config)
    with torch.no_grad():
        ours.get_parameter("token_embedding.weight")[END_OF_TEXT] = 0.0
    return ours


def _theirs(ours: LanguageModel) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = ours.config
    config = GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.context_length,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        layer_norm_epsilon=NORM_EPS,
        attn_implementation="sdpa",
    )
    theirs = GPT2LMHeadModel(config)
    theirs.loss_type = "ForCausalLM"  # the default, set here to avoid a warning
    parameters = dict(theirs.named_parameters())
    weights = ours.state_dict()
    with torch.no_grad():
        for name in gpt2_parameter_mappings(shape):
            weight = weights[name.ours]
            parameters[name.theirs].copy_(weight.T if name.transposed else weight)
    return theirs
