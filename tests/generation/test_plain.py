"""The plain decode loop and the engine generate the same text."""

import pytest

from glassgpt.data import load_tokenizer
from glassgpt.generation.engine.decoding import StepwiseDecoder
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.generate import generate
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.plain import generate_text, generate_tokens
from glassgpt.model.window_cache import WindowCache
from small_models import CONTEXT, attentive_model

BYTES = load_tokenizer("bytes")
PROMPTS = ["a", "ROMEO: what", "한국어", "some longer words to read"]
OPTIONS = [
    {"temperature": 0},
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 0.8, "top_k": 7, "top_p": 0.9, "repetition_penalty": 1.3},
    {"temperature": 1.2, "stop": ("e", "th"), "min_tokens": 5},
    {"temperature": 1.2, "stop_tokens": (10, 98), "min_p": 0.01},
    {"max_tokens": 500, "min_tokens": 500},
]


@pytest.fixture(scope="module")
def model():
    return attentive_model()


@pytest.mark.parametrize("settings", OPTIONS, ids=str)
def test_engine_generates_the_text_of_the_plain_loop(model, settings):
    options = GenerationOptions(**{"max_tokens": 30, "seed": 3, **settings})
    for prompt in PROMPTS:
        (sample,) = generate(model, BYTES, prompt, options)
        assert generate_text(model, BYTES, prompt, options) == sample.text


def test_plain_loop_gives_each_sample_its_own_noise(model):
    options = GenerationOptions(max_tokens=20, seed=3, num_samples=3)
    prompt = BYTES.encode("ab")
    texts = [list(generate_tokens(model, BYTES, prompt, options, index)) for index in range(3)]
    assert texts == [sample.tokens for sample in generate(model, BYTES, "ab", options)]
    assert len({tuple(text) for text in texts}) == 3


def test_plain_loop_ends_with_the_context(model):
    options = GenerationOptions(max_tokens=500, min_tokens=500, seed=3)
    assert len(list(generate_tokens(model, BYTES, BYTES.encode("ab"), options))) == CONTEXT - 1


@pytest.mark.parametrize("shape", [{"window": 6}, {"window": 5, "sinks": 2, "window_pattern": "S"}], ids=str)
def test_cache_of_windows_generates_the_tokens_of_the_full_cache(shape, monkeypatch):
    """Texts far beyond the window, prompts of different length in one batch, one twice, slots used again."""
    monkeypatch.setattr("glassgpt.generation.engine.decoding.PREFILL_CHUNK", 7)  # several passes per prompt
    model = attentive_model(arch="modern", bias=False, n_layer=4, context_length=64, **shape)
    assert isinstance(StepwiseDecoder(model, 257, 3, 64)._cache, WindowCache)
    options = GenerationOptions(max_tokens=40, min_tokens=40, temperature=1.0, top_p=1.0, seed=3)
    prompts = [list(range(60, 60 + length)) for length in (5, 31, 31, 1, 24, 12)]
    engine = Engine(model, BYTES, slots=3)
    requests = {engine.submit(prompt, options): prompt for prompt in prompts}
    tokens = {number: [] for number in requests}
    while not engine.is_idle:
        for chunk in engine.step():
            tokens[chunk.request].append(chunk.token)
    for number, prompt in requests.items():
        assert tokens[number] == list(generate_tokens(model, BYTES, prompt, options))
