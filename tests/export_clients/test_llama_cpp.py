"""GGUF files in llama.cpp itself, which the package cyllama contains; `make test-export` installs it."""

import pytest

pytest.importorskip("cyllama", reason="runs in make test-export")

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt import api
from glassgpt.data import load_tokenizer, train_tokenizer
from glassgpt.data.grammar import grammar_text
from glassgpt.errors import InterchangeError
from glassgpt.interchange.check_prompts import HELD_OUT
from glassgpt.interchange.gguf_file import write_gguf
from glassgpt.interchange.llama_cpp import LlamaCpp
from glassgpt.interchange.tokenizer_checks import probing_texts
from small_models import attentive_model

CORPUS = [
    grammar_text(100, seed=1),
    "한국어 문장 1234 5678 2024 12,345.67 it's don't WE'LL 안녕하세요 def f(x):\n    return x\n\n" * 30,
    " ".join(str(number**2) for number in range(2000)),
]
pytestmark = pytest.mark.slow  # as those of the other engines: make test-export runs them all
NAMES = ["gpt2", "bytes", "bpe:600 gpt2", "bpe:600 llama", "bpe:600 qwen2"]
EDGE_CASES = [
    "12345", "1,234.5", "７８９", "٣٤٥", "한국어", "안녕하세요", "\u1112\u1161\u11ab", "\U0001f469\u200d\U0001f467", "\U0001f1f0\U0001f1f7",
    "❤\ufe0f", "'s", "'LL", "'Ve", "’s", "<|endoftext|", "<|im_end|>", " ", "  ", "\n", "\n\n", "\r\n", "\t", "\x85", "\u3000", "\u00a0", "é",
    "e\u0301", "\u200d", "\ufeff", "the", " the", ".", "...", ":\n", "ÿÿ", "日本語", "def f(x):\n    ", "0x1F", "²", "½",
]  # fmt: skip
texts = st.lists(
    st.sampled_from(EDGE_CASES) | st.text(st.sampled_from("가힣ㄱ각0189 '\n\t.,a한😀👍🏽ÀΩ"), max_size=6), max_size=16
).map("".join)


@pytest.fixture(scope="module", params=NAMES)
def loaded(request, tmp_path_factory):
    """Our model and tokenizer, and their GGUF file in llama.cpp."""
    name, _, pattern = request.param.partition(" ")
    tokenizer = train_tokenizer(name, CORPUS, pattern) if ":" in name else load_tokenizer(name)
    model = attentive_model(vocab_size=tokenizer.vocab_size, n_embd=64, n_head=4, context_length=128)
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(model, tokenizer, path, "f32")
    return model, tokenizer, LlamaCpp(path, 128)


def test_ids_are_ours(loaded):
    _, tokenizer, engine = loaded
    for text in [*HELD_OUT, *CORPUS, *probing_texts(tokenizer)]:
        assert engine.tokenize(text) == tokenizer.encode(text), repr(text)


@given(text=texts)
@settings(max_examples=100, deadline=None)
def test_ids_of_any_prompt_are_ours(loaded, text):
    _, tokenizer, engine = loaded
    assert engine.tokenize(text) == tokenizer.encode(text)


def test_function_is_ours(loaded):
    model, tokenizer, engine = loaded
    for text in HELD_OUT[:3]:
        tokens = tokenizer.encode(text)[:100]
        with torch.inference_mode():
            expected = model(torch.tensor([tokens]))[0].numpy()
        found = engine.logits(tokens)
        assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()
        np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))
        new = engine.greedy(tokens, 28)  # with its cache, token by token; ours may differ where two are equally likely
        again = engine.logits([*tokens, *new])[len(tokens) - 1 : -1]
        assert (again.max(-1) - again[range(28), new]).max() < 1e-2


@pytest.mark.parametrize(
    "shape", [{}, {"bias": True}, {"tied_head": False}, {"n_kv_head": 0, "rope_theta": 500.0}, {"head_dim": 24}]
)
def test_llama_is_ours(shape, tmp_path):
    usual = {"arch": "llama", "vocab_size": 270, "n_embd": 64, "n_head": 4, "n_kv_head": 2, "bias": False}
    model = attentive_model(**usual | {"norm_eps": 1e-3} | shape)
    write_gguf(model, load_tokenizer("bytes"), tmp_path / "model.gguf", "f32")
    tokens = torch.randint(257, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.inference_mode():
        expected = model(torch.tensor([tokens]))[0].numpy()
    found = LlamaCpp(tmp_path / "model.gguf", 48).logits(tokens)
    assert np.abs(found - expected).max() < 5e-4
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))


def test_trained_model_agrees_within_its_tolerance(nano_run, tmp_path):
    found = api.export(nano_run, tmp_path / "f32", format="gguf", check=True)
    assert max(each.max_error for each in found) <= 5e-3
    assert all(each.argmax_share == 1 and each.same_greedy == each.n_greedy for each in found)


@pytest.mark.parametrize(("weights", "most"), [("f16", 0.05), ("q8_0", 1.5), ("q4_0", 8), ("q4_1", 8)])
def test_smaller_types_are_close(weights, most, nano_run, tmp_path):
    found = api.export(nano_run, tmp_path / "out", format="gguf", weights=weights, check=True)
    assert 0 < max(each.max_error for each in found) < most
    if not weights.startswith("q4"):
        assert np.mean([each.argmax_share for each in found]) > 0.95


def test_damaged_file_is_an_error(nano_run, tmp_path):
    api.export(nano_run, tmp_path / "out", format="gguf")
    path = tmp_path / "out" / "model.gguf"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InterchangeError, match="llama.cpp cannot load"):
        LlamaCpp(path, 64)
