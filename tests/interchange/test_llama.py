"""Llama compared with transformers: import, export, refusals, and a cache across both."""

import dataclasses
import json

import pytest
import torch
from test_interchange import BYTES, assert_same_function, randomize, save, tokens_for
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from glassgpt.errors import InterchangeError
from glassgpt.interchange.huggingface import export_model, import_model
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

SHAPES = [(33, 3, 4, 2, 24), (16, 1, 1, 1, 6), (24, 2, 6, 1, 36)]  # context, layers, heads, key heads, width
VARIANTS = [
    (SHAPES[0], {"tie_word_embeddings": True}),
    (SHAPES[1], {}),
    (SHAPES[2], {"attention_bias": True, "rms_norm_eps": 1e-3}),
    (SHAPES[0], {"head_dim": 10}),
    (SHAPES[0], {"rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}}),
]


def hf_llama(context, layers, heads, kv_heads, width, **settings):
    config = LlamaConfig(
        vocab_size=257,
        max_position_embeddings=context,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        hidden_size=width,
        intermediate_size=3 * width - 1,
        **settings,
    )
    return randomize(LlamaForCausalLM(config)).eval()


@pytest.mark.parametrize(("shape", "settings"), VARIANTS, ids=str)
def test_imported_llama_computes_the_same_function(shape, settings, tmp_path):
    theirs = hf_llama(*shape, **settings)
    ours, tokenizer = import_model(save(theirs, tmp_path))
    assert (ours.config.arch, tokenizer.name) == ("llama", "bytes")
    assert ours.config.tied_head == settings.get("tie_word_embeddings", False)
    assert_same_function(ours, theirs)


def test_imported_llama_greedily_continues_as_transformers_does(tmp_path):
    theirs = hf_llama(*SHAPES[0])
    ours, _ = import_model(save(theirs, tmp_path))
    prompt = tokens_for(ours.config)[:1, :5]
    expected = theirs.generate(prompt, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
    tokens = prompt
    for _ in range(20):
        tokens = torch.cat([tokens, ours(tokens)[:, -1:].argmax(-1)], dim=1)
    assert tokens.tolist() == expected.tolist()


@pytest.mark.parametrize(
    "changes", [{"head_dim": 4}, {"tied_head": False}, {"bias": True, "n_inner": 50, "rope_theta": 5e4}], ids=str
)
def test_exported_llama_computes_the_same_function(changes, tmp_path):
    shape = {"context_length": 33, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 24, "bias": False}
    ours = randomize(build_model(ModelConfig(arch="llama", vocab_size=257, **shape | changes)))
    export_model(ours, BYTES, tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert isinstance(theirs, LlamaForCausalLM)
    assert_same_function(ours.eval(), theirs)
    back, _ = import_model(tmp_path / "out")
    assert back.config == dataclasses.replace(ours.config, n_inner=ours.config.inner_width)


def test_sharded_weights_are_imported(tmp_path):
    theirs = hf_llama(*SHAPES[0])
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    BYTES.save(tmp_path / "glassgpt-tokenizer.json")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_same_function(import_model(tmp_path)[0], theirs)


def test_config_of_transformers_4_is_read(tmp_path):
    save(hf_llama(*SHAPES[0], rope_parameters={"rope_type": "default", "rope_theta": 500}), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    older = config | {"rope_theta": 500, "rope_scaling": None}
    (tmp_path / "config.json").write_text(json.dumps(older))
    ours, _ = import_model(tmp_path)
    assert ours.config.rope_theta == 500.0
    assert isinstance(ours.config.rope_theta, float)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_act", "gelu", "hidden_act is 'gelu'; llama only supports 'silu'"),
        ("mlp_bias", True, "mlp_bias is True"),
        ("head_dim", 8, r"q_proj.weight is \(24, 24\), expected \(32, 24\)"),
        ("head_dim", -6, "model.head_dim is -6; it must be positive"),
        ("head_dim", 7, "model.head_dim is 7; it must be even"),
        ("head_dim", "wide", "head_dim is 'wide'; it must be an integer"),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0}, "does not support rope_scaling"),
        ("rope_parameters", {"rope_type": "llama3", "rope_theta": 5e5}, "llama only supports rope_type 'default'"),
        ("rope_parameters", {"rope_theta": 1e4, "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("rope_parameters", {"rope_theta": 0}, "rope_theta is 0.0; it must be a number above 1"),
        ("rope_parameters", {"rope_theta": "large"}, "wrong type"),
        ("rope_parameters", {"rope_theta": 10**400}, "wrong type"),
        ("num_attention_heads", 0, "model.n_head is 0; it must be at least 1"),
        ("num_key_value_heads", 3, "n_kv_head is 3; it must divide"),
        ("attention_bias", True, "have no model.layers.0.self_attn.q_proj.bias"),
        ("intermediate_size", 70, r"expected \(70, 24\)"),
        ("tie_word_embeddings", True, "lm_head.weight differs from model.embed_tokens.weight"),
    ],
)
def test_unsupported_llama_values_raise(tmp_path, key, value, message):
    save(hf_llama(*SHAPES[0]), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(InterchangeError, match=message):
        import_model(tmp_path)
