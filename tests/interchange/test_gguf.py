"""GGUF files, read back by the libraries gguf and transformers; `make test-export` runs them in llama.cpp."""

import json

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize
from tokenizers import ByteLevelBPETokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM

from glassgpt import api
from glassgpt.compression.methods.int4 import Int4
from glassgpt.data import load_tokenizer, train_tokenizer
from glassgpt.data.grammar import grammar_text
from glassgpt.data.tokenizers.bpe import PATTERNS
from glassgpt.errors import InterchangeError, UsageError
from glassgpt.evaluation.observer import SILENT
from glassgpt.interchange import gguf_tokenizer
from glassgpt.interchange.formats.base import ExportOptions
from glassgpt.interchange.formats.registry import FORMATS, require_exportable
from glassgpt.interchange.gguf_file import ARCHITECTURES, write_gguf
from glassgpt.interchange.gguf_reading import import_gguf
from glassgpt.interchange.gguf_tokenizer import MERGE_OF_NO_TEXT, bpe_content, choose_pre_tokenizer, tokenizer_fields
from glassgpt.interchange.manifest import MANIFEST
from glassgpt.interchange.tokenizer_import import read_tokenizer_files
from glassgpt.model.config import ModelConfig
from small_models import attentive_model

TEXT = ["the cat sat on 12345 mats. It's 한국어 문장 2024년, 1,234.5! " * 30, grammar_text(20, seed=1)]
TEXT += [" ".join(str(number**3) for number in range(400))]
SHAPE = {"vocab_size": 300, "n_embd": 64, "n_head": 4, "n_inner": 96}


def tokenizer(pattern="llama"):
    return train_tokenizer("bpe:300", TEXT, pattern)


def written(folder, weights="f32", model=None, vocabulary=None):
    write_gguf(model or attentive_model(**SHAPE), vocabulary or tokenizer(), folder / "model.gguf", weights)
    return gguf.GGUFReader(folder / "model.gguf")


def fields(reader):
    return {name: field.contents() for name, field in reader.fields.items()}


def test_settings_and_tokenizer_are_those_of_the_model(tmp_path):
    model, vocabulary = attentive_model(**SHAPE | {"vocab_size": 310}), tokenizer()
    found = fields(written(tmp_path, model=model, vocabulary=vocabulary))
    assert found["general.architecture"] == "gpt2"
    assert [
        found[f"gpt2.{name}"] for name in ("context_length", "embedding_length", "block_count", "feed_forward_length")
    ] == [48, 64, 2, 96]
    assert found["gpt2.attention.head_count"] == 4
    assert found["gpt2.attention.layer_norm_epsilon"] == pytest.approx(1e-5)
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "llama-bpe")
    assert found["tokenizer.ggml.eos_token_id"] == found["tokenizer.ggml.bos_token_id"] == vocabulary.end_of_text
    assert found["tokenizer.ggml.add_bos_token"] is False
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == 310
    assert tokens[vocabulary.end_of_text] == "<|endoftext|>"
    assert types == [1] * 299 + [3] + [5] * 10  # the model has more rows than the tokenizer has tokens
    assert len(found["tokenizer.ggml.merges"]) == 299 - 256


def test_tensors_are_the_parameters(tmp_path):
    model = attentive_model(**SHAPE)
    tensors = {tensor.name: tensor for tensor in written(tmp_path, model=model).tensors}
    assert "output.weight" not in tensors  # the head is the embedding (llama.cpp#12567)
    assert len(tensors) == len(model.state_dict())
    for name, ours in (
        ("token_embd.weight", "token_embedding.weight"),
        ("position_embd.weight", "position_embedding.weight"),
        ("output_norm.bias", "norm.bias"),
        ("blk.1.attn_qkv.weight", "blocks.1.attention.qkv.weight"),  # not square: transposing it would show
        ("blk.1.ffn_down.weight", "blocks.1.mlp.down.weight"),
        ("blk.0.attn_norm.weight", "blocks.0.norm1.weight"),
        ("blk.0.ffn_norm.bias", "blocks.0.norm2.bias"),
    ):
        np.testing.assert_array_equal(tensors[name].data, model.state_dict()[ours].numpy())


@pytest.mark.parametrize("bias", [True, False])
def test_transformers_computes_the_same_logits(bias, tmp_path):
    shape = SHAPE | {"n_inner": 0, "context_length": 1024}  # transformers does not read these two from the file
    model = attentive_model(**shape, bias=bias, norm_eps=1e-4)
    written(tmp_path, model=model)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32).eval()
    tokens = torch.randint(300, (3, 48), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = model(tokens), theirs(tokens).logits
    assert (found - expected).abs().max() < 1e-4
    assert expected.abs().max() > 1


def test_transformers_computes_the_same_logits_of_a_llama_with_wide_heads(tmp_path):
    model = attentive_model(**SHAPE, arch="llama", bias=False, n_kv_head=2, head_dim=24)
    written(tmp_path, model=model)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32).eval()
    tokens = torch.randint(300, (3, 48), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (theirs(tokens).logits - model(tokens)).abs().max() < 1e-4
    back = import_gguf(tmp_path / "model.gguf").model
    assert back.config == model.config
    with torch.inference_mode():
        assert torch.equal(back(tokens), model(tokens))


@pytest.mark.parametrize(
    ("weights", "kind", "bits"), [("f16", "F16", 16), ("q8_0", "Q8_0", 8.5), ("q4_0", "Q4_0", 4.5), ("q4_1", "Q4_1", 5)]
)
def test_matrices_are_stored_in_the_type(weights, kind, bits, tmp_path):
    model = attentive_model(**SHAPE)
    ours = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    reader = written(tmp_path, weights, model)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    up = tensors["blk.0.ffn_up.weight"]
    assert up.tensor_type.name == kind
    assert up.n_bytes * 8 == bits * up.n_elements  # a file of four bits that keeps the size of sixteen is wrong
    assert tensors["token_embd.weight"].tensor_type.name == ("Q8_0" if kind.startswith("Q4") else kind)
    assert {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) < 2} == {"F32"}
    assert tensors["position_embd.weight"].tensor_type.name == "F32"
    back, original = dequantize(up.data, up.tensor_type), ours["blocks.0.mlp.up.weight"]
    steps = {"F16": 2**-11, "Q8_0": 1 / 254, "Q4_0": 1 / 8, "Q4_1": 1 / 15}[
        kind
    ]  # of the largest weight of a block; scales are in float16
    largest = np.abs(original.reshape(-1, 32)).max(-1).repeat(32).reshape(original.shape)
    assert (np.abs(back.reshape(original.shape) - original) <= 1.2 * steps * largest).all()


def test_four_bits_without_offsets_are_written_as_they_are(tmp_path):
    model = Int4("nearest", symmetric=True).apply(attentive_model(**SHAPE), None, SILENT.progress)
    tensors = {tensor.name: tensor for tensor in written(tmp_path, "q4_0", model).tensors}
    for part, name in (("ffn_up", "mlp.up"), ("ffn_down", "mlp.down"), ("attn_output", "attention.out")):
        stored, original = tensors[f"blk.1.{part}.weight"], dict(model.named_parameters())[f"blocks.1.{name}.weight"]
        assert np.array_equal(dequantize(stored.data, stored.tensor_type), original.detach().numpy())


@pytest.mark.parametrize("shape", [{}, {"arch": "llama", "bias": False, "n_kv_head": 2}], ids=["gpt2", "llama"])
def test_four_bits_with_offsets_are_written_as_they_are(shape, tmp_path):
    tokens = torch.randint(257, (2, 4096), generator=torch.Generator().manual_seed(0)).view(-1, 32)
    model = Int4().apply(attentive_model(**SHAPE | shape), tokens, SILENT.progress)  # leaves integers 0 and 15 unused
    written(tmp_path, "q4_1", model)
    ours, back = dict(model.named_parameters()), dict(import_gguf(tmp_path / "model.gguf").model.named_parameters())
    assert [name for name in ours if name.startswith("blocks.") and not torch.equal(back[name], ours[name])] == []


def test_weight_that_exceeds_float16_is_refused(tmp_path):
    model = attentive_model(**SHAPE)
    model.blocks[0].mlp.up.weight.data[0, 0] = 1e5
    with pytest.raises(InterchangeError, match=r"blk.0.ffn_up.weight has a weight of 1e\+05, .*--weights f32"):
        written(tmp_path, "f16", model)
    assert dequantize(written(tmp_path, "f32", model).tensors[0].data, gguf.GGMLQuantizationType.F32) is not None


@pytest.mark.parametrize(
    ("config", "weights", "message"),
    [
        (ModelConfig(arch="modern", bias=False), "f32", "cannot express the architecture modern; export it with"),
        (ModelConfig(activation="gelu"), "f32", "tanh form of GELU; export it with --format hf"),  # transformers#13666
        (ModelConfig(n_embd=24, n_head=3), "q8_0", "n_embd is 24, .*multiple of 32, the block size of q8_0.*f16"),
        (ModelConfig(n_inner=100), "q4_0", "the width of the MLP is 100"),
    ],
)
def test_what_llama_cpp_cannot_express_is_refused(config, weights, message):
    with pytest.raises(UsageError, match=message):
        require_exportable(FORMATS["gguf"], config, ExportOptions(weights))


def test_format_lists_the_architectures_that_are_written():
    assert set(FORMATS["gguf"].architectures) == set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "pre"),
    [("gpt2", "gpt-2"), ("qwen2", "qwen2"), ("llama", "llama-bpe")],
)
def test_pre_tokenizer_is_that_of_the_pattern(name, pre):
    # On text without numbers all of them agree, so that the first one would do.
    vocabulary = train_tokenizer("bpe:300", ["the cat sat on the mat " * 50], name)
    assert choose_pre_tokenizer(vocabulary, bpe_content(vocabulary)).name == pre


@pytest.mark.slow
def test_gpt2_s_vocabulary_needs_gpt2_s_pre_tokenizer():
    vocabulary = load_tokenizer("gpt2")
    found = tokenizer_fields(vocabulary, 50257)
    assert (found.pre, len(found.merges), found.tokens[50256]) == ("gpt-2", 50000, "<|endoftext|>")


def test_imported_tokenizer_gets_the_pre_tokenizer_that_fits(tmp_path):
    theirs = ByteLevelBPETokenizer()  # as SmolLM2's: digits one by one, then GPT-2's words
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    theirs.pre_tokenizer = pre_tokenizers.Sequence(steps)
    theirs.train_from_iterator(
        [*TEXT, "a  1 b   22 c\n\n 3 " * 50], 400, special_tokens=["<|endoftext|>", "<|im_start|>"]
    )
    theirs.save(str(tmp_path / "tokenizer.json"))
    vocabulary = read_tokenizer_files(tmp_path)
    found = tokenizer_fields(vocabulary, vocabulary.vocab_size)
    assert (vocabulary.kind, found.pre, found.tokens[1], found.types[:3]) == (
        "huggingface",
        "smollm",
        "<|im_start|>",
        [3, 3, 1],
    )


def test_bytes_get_a_merge_that_applies_to_no_text():
    found = tokenizer_fields(load_tokenizer("bytes"), 257)
    assert (found.merges, found.tokens[97], found.tokens[32]) == ([MERGE_OF_NO_TEXT], "a", "Ġ")


def test_own_pattern_is_refused_with_the_fix():
    vocabulary = tokenizer("glassgpt")  # llama.cpp#23252: it would load, and give other ids
    with pytest.raises(InterchangeError, match=r"none gives the ids of bpe-300: with .*--pattern llama"):
        tokenizer_fields(vocabulary, 300)


def test_pre_tokenizer_is_chosen_by_the_ids(monkeypatch):
    vocabulary = tokenizer("llama")
    wrong = tuple(each for each in gguf_tokenizer.PRE_TOKENIZERS if each.name != "llama-bpe")
    monkeypatch.setattr(gguf_tokenizer, "PRE_TOKENIZERS", wrong)
    with pytest.raises(InterchangeError, match="in 3 ways"):
        choose_pre_tokenizer(vocabulary, bpe_content(vocabulary))


@pytest.mark.parametrize("spec", ["unigram:300", "sentencepiece:300"])
def test_other_kinds_of_tokenizers_are_refused_by_name(spec):
    kind = spec.partition(":")[0]
    with pytest.raises(InterchangeError, match=f"a tokenizer of kind {kind}: it runs BPE over bytes only; train one"):
        tokenizer_fields(train_tokenizer(spec, TEXT), 300)


def test_patterns_of_prepare_are_known():
    names = {each.patterns for each in gguf_tokenizer.PRE_TOKENIZERS}
    unknown_to_llama_cpp = {"glassgpt", "code"}
    assert {(pattern,) for name, pattern in PATTERNS.items() if name not in unknown_to_llama_cpp} <= names


def test_command_writes_the_file_and_the_manifest(tmp_path, run_main):
    api.save_as_run(attentive_model(**SHAPE), tokenizer(), tmp_path / "run")
    code, _, err = run_main("export", tmp_path / "run", tmp_path / "out", "--format", "gguf", "--weights", "q8_0")
    assert code == 0, err
    assert f"llama-cli -m {tmp_path / 'out' / 'model.gguf'}" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.gguf", MANIFEST}
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["format"], manifest["weights"]) == ("gguf", "q8_0")
    assert manifest["versions"]["gguf"]


def test_tokenizer_that_is_refused_leaves_nothing(tmp_path, run_main):
    api.save_as_run(attentive_model(**SHAPE), tokenizer("glassgpt"), tmp_path / "run")
    code, _, err = run_main("export", tmp_path / "run", tmp_path / "out", "--format", "gguf")
    assert code == 1
    assert "--pattern llama" in err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
