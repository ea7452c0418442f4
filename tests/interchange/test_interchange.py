"""Import and export compared with transformers: equal logits and gradients, or a clear error."""

import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    NanoChatConfig,
    NanoChatForCausalLM,
)

from glassgpt.data import load_tokenizer
from glassgpt.errors import InterchangeError
from glassgpt.interchange import huggingface
from glassgpt.interchange.huggingface import export_model, import_model
from glassgpt.interchange.layouts import layout_for
from glassgpt.interchange.weights import copy_weights
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

BYTES = load_tokenizer("bytes")
SHAPES = [(33, 3, 3, 21), (16, 1, 1, 7), (24, 2, 4, 40), (5, 4, 2, 6)]  # context, layers, heads, width


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    context, layers, heads, width = request.param
    return {"vocab_size": 257, "n_positions": context, "n_layer": layers, "n_head": heads, "n_embd": width}


def randomize(model):
    """Randomize all parameters, including biases (initially 0) and gains (initially 1)."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + is_gain)
    return model


def hf_gpt2(shape, cls=GPT2LMHeadModel, **settings):
    config = GPT2Config(**shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **settings)
    return randomize(cls(config)).eval()


def save(theirs, folder, tokenizer=BYTES):
    theirs.save_pretrained(folder)
    if tokenizer:
        tokenizer.save(folder / "glassgpt-tokenizer.json")
    return folder


def config_of(shape, **settings):
    rest = {key: shape[key] for key in ("vocab_size", "n_layer", "n_head", "n_embd")}
    return ModelConfig(context_length=shape["n_positions"], **rest, **settings)


def tokens_for(config):
    return torch.randint(257, (3, config.context_length), generator=torch.Generator().manual_seed(1))


def assert_same_function(ours, theirs):
    """Compare logits, and the gradient of the loss for every parameter, to a relative 1e-5."""
    tokens = tokens_for(ours.config)
    logits, reference = ours(tokens), theirs(tokens).logits
    torch.testing.assert_close(logits, reference, rtol=1e-5, atol=1e-5 * reference.abs().max().item())
    for output in (logits, reference):
        torch.nn.functional.cross_entropy(output[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    found = dict(ours.named_parameters())
    expected = dict(theirs.named_parameters())
    mappings = layout_for(ours.config.arch).parameter_mappings(ours.config)
    mappings = [mapping for mapping in mappings if mapping.ours in found]
    assert len(mappings) == len(found)
    for mapping in mappings:
        gradient = expected[mapping.theirs].grad
        gradient = gradient.T if mapping.transposed else gradient
        scale = gradient.abs().max().item()
        assert scale > 0
        torch.testing.assert_close(found[mapping.ours].grad, gradient, rtol=1e-5, atol=1e-5 * scale, msg=mapping.ours)


def test_imported_gpt2_computes_the_same_function(shape, tmp_path):
    theirs = hf_gpt2(shape)
    ours, tokenizer = import_model(save(theirs, tmp_path))
    assert not ours.training
    assert tokenizer.fingerprint == BYTES.fingerprint
    assert_same_function(ours, theirs)


def test_exported_gpt2_computes_the_same_function(shape, tmp_path):
    ours = randomize(build_model(config_of(shape))).eval()
    export_model(ours, BYTES, tmp_path / "new" / "folder")
    theirs, loading_info = GPT2LMHeadModel.from_pretrained(tmp_path / "new" / "folder", output_loading_info=True)
    assert not any(loading_info.values())
    assert_same_function(ours, theirs.eval())


SMALL = {"vocab_size": 257, "n_positions": 16, "n_layer": 2, "n_head": 2, "n_embd": 8}


def test_model_without_biases_is_exported_with_zero_biases(tmp_path):
    ours = randomize(build_model(config_of(SMALL, bias=False))).eval()
    export_model(ours, BYTES, tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    assert_same_function(ours, theirs)
    assert not any(p.any() for name, p in theirs.named_parameters() if name.endswith("bias"))


def test_export_and_import_round_trip_is_bit_equal(tmp_path):
    ours = randomize(build_model(config_of(SMALL, dropout=0.25, init_std=0.03))).eval()
    export_model(ours, BYTES, tmp_path)
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1  # the weights are as readable as the rest
    back, tokenizer = import_model(tmp_path)
    assert back.config == ours.config
    assert tokenizer.fingerprint == BYTES.fingerprint
    for (name, a), b in zip(ours.state_dict().items(), back.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_base_model_without_prefix_is_imported(tmp_path):
    theirs = hf_gpt2(SMALL, GPT2Model)
    save(theirs, tmp_path)
    assert "wte.weight" in load_file(tmp_path / "model.safetensors")
    ours, _ = import_model(tmp_path)
    tokens = tokens_for(ours.config)
    reference = theirs(tokens).last_hidden_state
    torch.testing.assert_close(ours.features(tokens), reference, rtol=1e-5, atol=1e-5)


def test_sharded_bfloat16_weights_are_imported_as_float32(tmp_path):
    theirs = hf_gpt2(SMALL).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path, max_shard_size="5KB")
    BYTES.save(tmp_path / "glassgpt-tokenizer.json")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    ours, _ = import_model(tmp_path)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert_same_function(ours, theirs.float())
    sorted(tmp_path.glob("model-*.safetensors"))[0].unlink()
    with pytest.raises(InterchangeError, match=r"model-00001.*missing"):
        import_model(tmp_path)


def test_export_replaces_its_own_files_and_keeps_others(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    export_model(build_model(config_of(SMALL)), BYTES, tmp_path)
    ours = randomize(build_model(config_of(SMALL)))
    export_model(ours, BYTES, tmp_path)
    assert torch.equal(import_model(tmp_path)[0].token_embedding.weight, ours.token_embedding.weight)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md", "config.json", "glassgpt-tokenizer.json", "merges.txt", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json", "vocab.json",
    }  # fmt: skip


def test_padded_vocabulary_is_exported(tmp_path):
    ours = randomize(build_model(config_of({**SMALL, "vocab_size": 320}))).eval()
    export_model(ours, BYTES, tmp_path)
    assert_same_function(ours, GPT2LMHeadModel.from_pretrained(tmp_path).eval())
    assert import_model(tmp_path)[0].config.vocab_size == 320


# Unsupported or damaged models: one clear error each.


@pytest.fixture
def folder(tmp_path):
    return save(hf_gpt2(SMALL), tmp_path / "model")


def assert_import_fails(folder, match):
    with pytest.raises(InterchangeError, match=match) as caught:
        import_model(folder)
    assert "\n" not in str(caught.value).strip()
    assert len(str(caught.value)) < 600
    assert str(folder) in str(caught.value)


def change(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"model_type": "mamba"}, "type mamba; only gpt2"),
        ({"n_inner": 20}, r"c_fc.weight is \(8, 32\), expected \(8, 20\)"),
        ({"n_inner": "wide"}, "n_inner is 'wide'; it must be an integer"),
        ({"activation_function": "relu"}, "activation_function is 'relu'; gpt2 only supports gelu_new"),
        ({"layer_norm_epsilon": 0}, "norm_eps is 0; it must be above 0"),
        ({"layer_norm_epsilon": None}, "wrong type"),
        ({"quantization_config": {"quant_method": "gptq"}}, "does not support quantization_config"),
        ({"auto_map": {"AutoModelForCausalLM": "code.Model"}}, "does not support auto_map"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is false, but the weights have no lm_head.weight"),
        ({"num_attention_heads": 4}, "n_head is 2, but num_attention_heads, .* is 4; delete the wrong one"),
        ({"n_head": 3}, "n_head is 3, which does not divide"),
        ({"n_layer": "two"}, "n_layer is .two.; it must be an integer"),
        ({"n_positions": 15}, r"wpe.weight is \(16, 8\), expected \(15, 8\)"),
        ({"n_layer": 3}, "says 3 blocks, but the weights have 2"),
        ({"n_layer": 1}, "says 1 blocks, but the weights have 2"),
        ({"vocab_size": 200}, r"wte.weight is \(257, 8\), expected \(200, 8\)"),
        ({"n_layer": 10**9}, "n_layer is 1,000,000,000; it must be at most"),
        ({"n_embd": 10**12, "n_head": 7}, "n_embd is 1,000,000,000,000; it must be at most"),
        ({"n_positions": 10**15}, "context_length is 1,000,000,000,000,000; it must be at most"),
        ({"n_head": 10**4000}, "n_head is a number of more than 4,000 digits; it must be at most"),
        ({"n_layer": -1}, "n_layer is -1; it must be at least 1"),
        ({"n_layer": True}, "n_layer is True; it must be an integer"),
        ({"n_layer": 2.0}, "n_layer is 2.0; it must be an integer"),
        ({"model_type": "x" * 10**6}, "type 'xxx"),
        ({"activation_function": "x" * 10**6}, "activation_function is 'xxx"),
        ({"activation_function": ["gelu"]}, "wrong type"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unsupported_config_values_raise(folder, settings, match):
    change(folder, **settings)
    assert_import_fails(folder, match)


DAMAGED = ["{", "[]", "null", "\x00", "[" * 100_000, '{"a":' * 100_000, '{"n_layer": ' + "9" * 5000 + "}"]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_config_raises(folder, content):
    (folder / "config.json").write_text(content)
    assert_import_fails(folder, "JSON")


def test_missing_config_raises(folder):
    (folder / "config.json").unlink()
    assert_import_fails(folder, "no config.json")
    assert_import_fails(folder / "nowhere", "no config.json")
    assert_import_fails(folder / "model.safetensors", "no config.json")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_raise(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert_import_fails(folder, "damaged")


def test_missing_tensor_raises(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["transformer.h.1.mlp.c_fc.bias"]
    save_file(weights, path)
    assert_import_fails(folder, "no transformer.h.1.mlp.c_fc.bias")


def test_pickled_weights_are_rejected(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert_import_fails(folder, "no model.safetensors; pickled weights are not loaded")


def test_missing_tokenizer_raises(folder):
    (folder / "glassgpt-tokenizer.json").unlink()
    assert_import_fails(folder, "no tokenizer files")


def test_missing_tokenizer_defaults_to_gpt2_for_its_vocabulary_size(tmp_path):
    theirs = hf_gpt2({**SMALL, "vocab_size": 50257})
    _, tokenizer = import_model(save(theirs, tmp_path, tokenizer=None))
    assert tokenizer.encode("Hello, world!") == [15496, 11, 995, 0]


# Weights that do not say what the configuration says, or say it in another way.


def stored(folder, change):
    """Apply a change to the stored weights of a folder."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_aliases_of_config_keys_are_read(tmp_path):
    theirs = hf_gpt2({**SMALL, "n_head": 4})
    save(theirs, tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    names = {"n_head": "num_attention_heads", "n_layer": "num_hidden_layers", "n_embd": "hidden_size"}
    names["n_positions"] = "max_position_embeddings"
    path.write_text(json.dumps({names.get(key, key): value for key, value in config.items()}))
    ours, _ = import_model(tmp_path)
    assert ours.config.n_head == 4
    assert_same_function(ours, theirs)


@pytest.mark.parametrize("tied", [{}, {"tie_word_embeddings": True}, {"tie_word_embeddings": False}], ids=str)
def test_head_that_differs_from_the_embedding_is_refused(folder, tied):
    change(folder, tie_word_embeddings=None)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["tie_word_embeddings"]
    path.write_text(json.dumps(config | tied))
    stored(folder, lambda weights: weights.update({"lm_head.weight": weights["transformer.wte.weight"] + 1}))
    assert_import_fails(folder, "lm_head.weight differs from transformer.wte.weight")


@pytest.mark.parametrize("tied", [True, False])
def test_head_that_equals_the_embedding_is_imported(folder, tied):
    change(folder, tie_word_embeddings=tied)
    stored(folder, lambda weights: weights.update({"lm_head.weight": weights["transformer.wte.weight"].clone()}))
    assert_same_function(import_model(folder)[0], hf_gpt2(SMALL))


def test_head_alone_stands_for_the_tied_embedding(folder):
    """`safetensors.torch.save_model` keeps only one name of a shared tensor."""
    stored(folder, lambda weights: weights.update({"lm_head.weight": weights.pop("transformer.wte.weight")}))
    assert_same_function(import_model(folder)[0], hf_gpt2(SMALL))


def test_causal_masks_of_old_checkpoints_are_skipped(folder):
    mask = torch.ones(1, 1, 16, 16).tril().bool()
    stored(folder, lambda weights: weights.update({"transformer.h.0.attn.bias": mask}))
    assert_same_function(import_model(folder)[0], hf_gpt2(SMALL))


@pytest.mark.parametrize(
    ("name", "tensor", "match"),
    [
        ("score.weight", torch.zeros(2, 8), "1 tensors that GPT2LMHeadModel does not have, such as 'score.weight'"),
        ("x" * 10**5, torch.zeros(2), "1 tensors .* such as 'xxx"),
        ("wte.weight", torch.zeros(257, 8), "both 'wte.weight' and 'transformer.wte.weight'|both 'transformer"),
        ("transformer.h.0.ln_1.bias", torch.zeros(8, dtype=torch.int8), "of type I8, so the model is quantized"),
        ("transformer.h.0.ln_1.bias", torch.zeros(9), r"ln_1.bias is \(9,\), expected \(8,\)"),
    ],
    ids=range(5),
)
def test_unexpected_tensor_is_refused_by_name(folder, name, tensor, match):
    stored(folder, lambda weights: weights.update({name: tensor}))
    assert_import_fails(folder, match)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_said_at_import(folder, value):
    def spoil(weights):
        weights["transformer.h.1.mlp.c_fc.weight"][3, 2] = value

    stored(folder, spoil)
    notices = []
    model, _ = import_model(folder, notices.append)
    assert not model.blocks[1].mlp.up.weight.isfinite().all()
    assert "1 of 28 weights" in notices[0]
    assert "transformer.h.1.mlp.c_fc.weight" in notices[0]


def test_model_that_is_another_function_is_refused(folder, monkeypatch):
    def copy_wrongly(model, named, layout):
        not_finite = copy_weights(model, named, layout)
        model.norm.bias.data += 0.1
        return not_finite

    monkeypatch.setattr(huggingface, "copy_weights", copy_wrongly)
    assert_import_fails(folder, "logits differ from those of transformers")


@pytest.mark.parametrize("content", [b"\xff" * 100, (2**40).to_bytes(8, "little") + b"{}", b"\x02" + b"\0" * 7 + b"{}"])
def test_damaged_safetensors_header_raises(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    assert_import_fails(folder, "damaged|blocks")


def test_deeply_nested_safetensors_header_raises(folder):
    header = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert_import_fails(folder, "damaged")


def test_named_pipe_is_not_read(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert_import_fails(folder, "no config.json")


# Variants of GPT-2 with a setting for each.


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"n_inner": 20}, {"n_inner": 20}),
        ({"n_inner": 32}, {}),
        ({"layer_norm_epsilon": 1e-2}, {"norm_eps": 1e-2}),
        ({"activation_function": "gelu"}, {"activation": "gelu"}),
        ({"activation_function": "gelu_pytorch_tanh"}, {}),
    ],
    ids=str,
)
def test_variant_is_the_same_function_in_both_directions(tmp_path, theirs, ours):
    reference = hf_gpt2(SMALL, **theirs)
    imported, tokenizer = import_model(save(reference, tmp_path / "theirs"))
    assert imported.config == config_of(SMALL, dropout=0.0, **ours)
    assert_same_function(imported, reference)
    export_model(imported, tokenizer, tmp_path / "ours")
    imported.zero_grad()
    assert_same_function(imported, GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval())


# A failed export leaves nothing behind.


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("failing", ["save_file", "write_tokenizer_files"])
def test_failed_export_leaves_nothing_behind(tmp_path, monkeypatch, failing, existing):
    folder = tmp_path / "out"
    if existing:
        export_model(build_model(config_of(SMALL)), BYTES, folder)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def disk_full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface, failing, disk_full)
    with pytest.raises(OSError, match="No space left on device"):
        export_model(randomize(build_model(config_of(SMALL))), BYTES, folder)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == [folder] * existing


def test_export_to_a_file_path_raises(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InterchangeError, match="cannot be written"):
        export_model(build_model(config_of(SMALL)), BYTES, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


# Modern is the same function as NanoChat, which transformers implements.

MODERN = [(33, 3, 4, 2, 24), (16, 1, 1, 1, 6), (24, 2, 4, 4, 40)]  # context, layers, heads, key heads, width


def hf_nanochat(context, layers, heads, kv_heads, width):
    config = NanoChatConfig(
        vocab_size=257,
        max_position_embeddings=context,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        hidden_size=width,
        intermediate_size=(2 + layers) * width,
    )
    return randomize(NanoChatForCausalLM(config)).eval()


@pytest.mark.parametrize("shape", MODERN, ids=str)
def test_imported_nanochat_computes_the_same_function(shape, tmp_path):
    theirs = hf_nanochat(*shape)
    ours, tokenizer = import_model(save(theirs, tmp_path))
    assert (ours.config.arch, tokenizer.name) == ("modern", "bytes")
    assert_same_function(ours, theirs)


@pytest.mark.parametrize("shape", MODERN, ids=str)
def test_exported_modern_computes_the_same_function(shape, tmp_path):
    context, layers, heads, kv_heads, width = shape
    config = ModelConfig(
        arch="modern",
        vocab_size=257,
        context_length=context,
        n_layer=layers,
        n_head=heads,
        n_kv_head=kv_heads,
        n_embd=width,
        n_inner=(2 + layers) * width,
        head_dim=2 * layers,
        bias=False,
    )
    ours = randomize(build_model(config))
    export_model(ours, BYTES, tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert isinstance(theirs, NanoChatForCausalLM)
    assert_same_function(ours.eval(), theirs)


def test_sliding_window_cannot_be_exported(tmp_path):
    config = ModelConfig(
        arch="modern", vocab_size=257, context_length=8, n_layer=1, n_head=1, n_embd=4, window=3, bias=False
    )
    with pytest.raises(InterchangeError, match="sliding window of 3"):
        export_model(build_model(config), BYTES, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_act", "gelu", "hidden_act is 'gelu'"),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 5e5}, "only supports base 10000"),
        ("intermediate_size", 100, r"expected \(100, 24\)"),
        ("max_position_embeddings", 10**12, "context_length is 1,000,000,000,000; it must be at most"),
        ("num_hidden_layers", 10**9, "n_layer is 1,000,000,000; it must be at most"),
        ("rope_parameters", {"rope_theta": 1e4, "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_unsupported_nanochat_values_raise(tmp_path, key, value, message):
    save(hf_nanochat(*MODERN[0]), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(InterchangeError, match=message):
        import_model(tmp_path)
