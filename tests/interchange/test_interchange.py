"""Weights to and from transformers: the same function, the same gradients, and clear words where it cannot be."""

import json

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
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

BYTES = load_tokenizer("bytes")
SHAPES = [(33, 3, 3, 21), (16, 1, 1, 7), (24, 2, 4, 40), (5, 4, 2, 6)]  # context, layers, heads, width


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    context, layers, heads, width = request.param
    return {"vocab_size": 257, "n_positions": context, "n_layer": layers, "n_head": heads, "n_embd": width}


def shake(model):
    """Everything away from its tame beginning: biases off zero, gains off one."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + is_gain)
    return model


def theirs_of(shape, cls=GPT2LMHeadModel, **settings):
    config = GPT2Config(**shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **settings)
    return shake(cls(config)).eval()


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
    """Logits, and the gradient of the loss for every parameter, to 1e-5 of their size."""
    tokens = tokens_for(ours.config)
    mine, reference = ours(tokens), theirs(tokens).logits
    torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5 * reference.abs().max().item())
    for logits in (mine, reference):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    found = dict(ours.named_parameters())
    expected = dict(theirs.named_parameters())
    names = [name for name in layout_for(ours.config.arch).names(ours.config.n_layer) if name.ours in found]
    assert len(names) == len(found)
    for name in names:
        gradient = expected[name.theirs].grad
        gradient = gradient.T if name.transposed else gradient
        scale = gradient.abs().max().item()
        assert scale > 0
        torch.testing.assert_close(found[name.ours].grad, gradient, rtol=1e-5, atol=1e-5 * scale, msg=name.ours)


def test_what_they_saved_is_the_same_function_here(shape, tmp_path):
    theirs = theirs_of(shape)
    ours, tokenizer = import_model(save(theirs, tmp_path))
    assert not ours.training
    assert tokenizer.fingerprint == BYTES.fingerprint
    assert_same_function(ours, theirs)


def test_what_we_wrote_is_the_same_function_there(shape, tmp_path):
    ours = shake(build_model(config_of(shape))).eval()
    export_model(ours, BYTES, tmp_path / "new" / "folder")
    theirs, told = GPT2LMHeadModel.from_pretrained(tmp_path / "new" / "folder", output_loading_info=True)
    assert not any(told.values())
    assert_same_function(ours, theirs.eval())


SMALL = {"vocab_size": 257, "n_positions": 16, "n_layer": 2, "n_head": 2, "n_embd": 8}


def test_a_model_without_biases_becomes_one_whose_biases_are_zero(tmp_path):
    ours = shake(build_model(config_of(SMALL, bias=False))).eval()
    export_model(ours, BYTES, tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    assert_same_function(ours, theirs)
    assert not any(p.any() for name, p in theirs.named_parameters() if name.endswith("bias"))


def test_there_and_back_is_bit_equal(tmp_path):
    ours = shake(build_model(config_of(SMALL, dropout=0.25, init_std=0.03))).eval()
    export_model(ours, BYTES, tmp_path)
    back, tokenizer = import_model(tmp_path)
    assert back.config == ours.config
    assert tokenizer.fingerprint == BYTES.fingerprint
    for (name, a), b in zip(ours.state_dict().items(), back.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_trunk_alone_has_no_prefix_and_loads(tmp_path):
    theirs = theirs_of(SMALL, GPT2Model)
    save(theirs, tmp_path)
    assert "wte.weight" in load_file(tmp_path / "model.safetensors")
    ours, _ = import_model(tmp_path)
    tokens = tokens_for(ours.config)
    reference = theirs(tokens).last_hidden_state
    torch.testing.assert_close(ours.features(tokens), reference, rtol=1e-5, atol=1e-5)


def test_weights_in_several_files_and_in_half_precision(tmp_path):
    theirs = theirs_of(SMALL).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path, max_shard_size="5KB")
    BYTES.save(tmp_path / "glassgpt-tokenizer.json")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    ours, _ = import_model(tmp_path)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert_same_function(ours, theirs.float())
    sorted(tmp_path.glob("model-*.safetensors"))[0].unlink()
    with pytest.raises(InterchangeError, match=r"model-00001.*missing"):
        import_model(tmp_path)


def test_exporting_again_replaces_and_keeps_what_is_not_ours(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    export_model(build_model(config_of(SMALL)), BYTES, tmp_path)
    ours = shake(build_model(config_of(SMALL)))
    export_model(ours, BYTES, tmp_path)
    assert torch.equal(import_model(tmp_path)[0].token_embedding.weight, ours.token_embedding.weight)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md", "config.json", "glassgpt-tokenizer.json", "merges.txt", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json", "vocab.json",
    }  # fmt: skip


def test_a_padded_vocabulary_is_exported_whole(tmp_path):
    ours = shake(build_model(config_of({**SMALL, "vocab_size": 320}))).eval()
    export_model(ours, BYTES, tmp_path)
    assert_same_function(ours, GPT2LMHeadModel.from_pretrained(tmp_path).eval())
    assert import_model(tmp_path)[0].config.vocab_size == 320


# What cannot be imported: one clear error each.


@pytest.fixture
def folder(tmp_path):
    return save(theirs_of(SMALL), tmp_path / "model")


def refused(folder, match):
    with pytest.raises(InterchangeError, match=match) as caught:
        import_model(folder)
    assert "\n" not in str(caught.value).strip()
    assert str(folder) in str(caught.value)


def change(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"model_type": "llama"}, "type llama; only gpt2"),
        ({"n_inner": 20}, "n_inner is 20.*32"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu'.*'gelu_new'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"n_head": 3}, "n_head is 3, which does not divide"),
        ({"n_layer": "two"}, "n_layer of the model is .two., not a whole number"),
        ({"n_positions": 15}, r"wpe.weight is \(16, 8\), expected \(15, 8\)"),
        ({"n_layer": 3}, "no h.2.ln_1.weight"),
        ({"vocab_size": 200}, "tokenizer has 257 tokens, the model only 200"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_ours_cannot_stand_for(folder, settings, match):
    change(folder, **settings)
    refused(folder, match)


@pytest.mark.parametrize("content", ["{", "[]", "null", "\x00"])
def test_a_configuration_that_is_none(folder, content):
    (folder / "config.json").write_text(content)
    refused(folder, "JSON|type None")


def test_no_configuration(folder):
    (folder / "config.json").unlink()
    refused(folder, "no config.json")
    refused(folder / "nowhere", "no config.json")
    refused(folder / "model.safetensors", "no config.json")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, "damaged")


def test_a_missing_tensor(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["transformer.h.1.mlp.c_fc.bias"]
    save_file(weights, path)
    refused(folder, "no h.1.mlp.c_fc.bias")


def test_pickled_weights_are_not_touched(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "no model.safetensors; pickled weights are not loaded")


def test_no_tokenizer_and_not_gpt2s_vocabulary(folder):
    (folder / "glassgpt-tokenizer.json").unlink()
    refused(folder, "no tokenizer files")


def test_no_tokenizer_but_gpt2s_vocabulary(tmp_path):
    theirs = theirs_of({**SMALL, "vocab_size": 50257})
    _, tokenizer = import_model(save(theirs, tmp_path, tokenizer=None))
    assert tokenizer.encode("Hello, world!") == [15496, 11, 995, 0]


# What goes wrong while exporting leaves nothing behind.


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("breaks", ["save_file", "write_tokenizer_files"])
def test_a_failed_export_leaves_nothing_behind(tmp_path, monkeypatch, breaks, there_before):
    folder = tmp_path / "out"
    if there_before:
        export_model(build_model(config_of(SMALL)), BYTES, folder)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def disk_full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface, breaks, disk_full)
    with pytest.raises(InterchangeError, match=r"cannot be written.*No space left"):
        export_model(shake(build_model(config_of(SMALL))), BYTES, folder)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == [folder] * there_before


def test_exporting_onto_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InterchangeError, match="cannot be written"):
        export_model(build_model(config_of(SMALL)), BYTES, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


# Modern is NanoChat's function, which transformers has: an oracle and a way out.

MODERN = [(33, 3, 4, 2, 24), (16, 1, 1, 1, 6), (24, 2, 4, 4, 40)]  # context, layers, heads, key heads, width


def nanochat_of(context, layers, heads, kv_heads, width):
    config = NanoChatConfig(
        vocab_size=257,
        max_position_embeddings=context,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        hidden_size=width,
        intermediate_size=4 * width,
    )
    return shake(NanoChatForCausalLM(config)).eval()


@pytest.mark.parametrize("shape", MODERN, ids=str)
def test_modern_is_the_function_that_they_call_nanochat(shape, tmp_path):
    theirs = nanochat_of(*shape)
    ours, tokenizer = import_model(save(theirs, tmp_path))
    assert (ours.config.arch, tokenizer.name) == ("modern", "bytes")
    assert_same_function(ours, theirs)


@pytest.mark.parametrize("shape", MODERN, ids=str)
def test_they_load_what_modern_saved(shape, tmp_path):
    context, layers, heads, kv_heads, width = shape
    config = ModelConfig(
        arch="modern",
        vocab_size=257,
        context_length=context,
        n_layer=layers,
        n_head=heads,
        n_kv_head=kv_heads,
        n_embd=width,
        bias=False,
    )
    ours = shake(build_model(config))
    export_model(ours, BYTES, tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert isinstance(theirs, NanoChatForCausalLM)
    assert_same_function(ours.eval(), theirs)


def test_a_window_has_no_place_in_their_layout(tmp_path):
    config = ModelConfig(
        arch="modern", vocab_size=257, context_length=8, n_layer=1, n_head=1, n_embd=4, window=3, bias=False
    )
    with pytest.raises(InterchangeError, match="no sliding window"):
        export_model(build_model(config), BYTES, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_act", "gelu", "hidden_act is 'gelu'"),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 5e5}, "stands for base 10000"),
        ("intermediate_size", 100, "intermediate_size is 100"),
    ],
)
def test_another_nanochat_is_refused(tmp_path, key, value, message):
    save(nanochat_of(*MODERN[0]), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(InterchangeError, match=message):
        import_model(tmp_path)
