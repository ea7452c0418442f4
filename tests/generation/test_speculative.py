"""Speculative decoding against plain decoding (the same text with any draft) and against the model's distribution."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt.data import load_tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.engine.drafting import lookup_draft
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.generate import generate, generate_many, stream
from glassgpt.generation.engine.prompt import encode_prompt
from glassgpt.generation.engine.speculative import SpeculativeDecoder, SpeculativeDecoding
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import TokenHistory
from glassgpt.generation.processors.pipeline import apply_processors, build_processors
from small_models import CONTEXT, LLAMA, attentive_model, disturbed, share_that_depends_on_far_tokens

BYTES = load_tokenizer("bytes")
PROMPTS = ["a", "ROMEO: what", "xyxyxyxyxy", None, "some longer words to read", "abc abc abc abc ab"]


@pytest.fixture(scope="module")
def model():
    return attentive_model()


@pytest.fixture(scope="module")
def drafts(model):
    return {
        "itself": model,
        "similar": disturbed(model, 0.005),
        "unrelated": attentive_model(seed=9, n_layer=1, n_head=2, n_embd=8),
        "smaller context": attentive_model(seed=0, context_length=20),
        "prompt lookup": None,
    }


def test_test_model_depends_on_the_whole_text(model):
    """Otherwise a wrong cache would change no text."""
    assert share_that_depends_on_far_tokens(model) > 0.3


SETTINGS = [
    {"temperature": 0},
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 0.8, "top_k": 7, "top_p": 0.9},
    {"temperature": 0, "repetition_penalty": 1.5, "no_repeat_ngram": 3},
    {"temperature": 0.9, "repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    {"temperature": 1.2, "ban": ("e", "th"), "min_tokens": 5, "stop": ("a", "\ufffd\ufffd"), "stop_tokens": (10, 98)},
    {"temperature": 0.7, "regex": "([a-f]{1,3} ){1,9}!"},
    {"temperature": 0.3, "temperature_schedule": ((3, 2.0),), "logit_bias": {"a": 2.0, "ab": -3.0}, "min_p": 0.01},
]
SLOW_SETTINGS = [each for number, each in enumerate(SETTINGS) if number % 3]


@pytest.mark.parametrize(
    "asked", [*SETTINGS[::3], *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW_SETTINGS)], ids=str
)
def test_speculative_text_equals_plain_decoding(model, drafts, asked):
    options = GenerationOptions(max_tokens=30, seed=3, num_samples=2, **asked)
    plain = generate_many(model, BYTES, PROMPTS, options)
    for draft_name, draft in drafts.items():
        for tokens in (1, 4) if draft_name == "similar" else (4,):
            assert generate_many(model, BYTES, PROMPTS, options, SpeculativeDecoding(draft, tokens)) == plain, (
                draft_name,
                tokens,
            )


def test_sequences_with_different_acceptance(model, drafts):
    letters = tuple("abcdefghijklmnopqrstuvwxyz")
    options = GenerationOptions(max_tokens=25, seed=8, num_samples=3, stop=letters)
    plain = generate_many(model, BYTES, PROMPTS, options)
    assert len({len(sample.tokens) for samples in plain for sample in samples}) > 3
    speculative = SpeculativeDecoding(drafts["similar"])
    assert generate_many(model, BYTES, PROMPTS, options, speculative) == plain
    assert 0.1 < speculative.stats.acceptance_rate < 0.99


@pytest.mark.parametrize("draft_name", ["similar", "prompt lookup"])
def test_sequences_enter_and_leave_during_speculation(model, drafts, draft_name):
    options = GenerationOptions(max_tokens=14, seed=5, stop=("e", "a", "o"))
    engine = Engine(model, BYTES, slots=2, decoder=SpeculativeDecoding(drafts[draft_name]))
    ids = [engine.submit(encode_prompt(model, BYTES, prompt, options), options) for prompt in PROMPTS * 2]
    tokens = {request: [] for request in ids}
    while not engine.is_idle:
        for chunk in engine.step():
            tokens[chunk.request].append(chunk.token)
    for request, prompt in zip(ids, PROMPTS * 2, strict=True):
        assert tokens[request] == [chunk.token for chunk in stream(model, BYTES, prompt, options)]


@pytest.mark.parametrize("draft_name", ["itself", "similar", "smaller context", "prompt lookup"])
def test_re_prefill_continues_after_a_full_context(model, drafts, draft_name):
    options = GenerationOptions(max_tokens=90, temperature=0, overflow="re-prefill", min_tokens=90)
    prompts = ["x" * (CONTEXT - 5), "ab"]
    speculative = SpeculativeDecoding(drafts[draft_name])
    assert generate_many(model, BYTES, prompts, options, speculative) == generate_many(model, BYTES, prompts, options)


def test_speculation_uses_the_whole_context(model, drafts):
    options = GenerationOptions(max_tokens=100, temperature=0, min_tokens=100)
    for draft_name in drafts:
        one, two = generate_many(
            model, BYTES, ["x" * (CONTEXT - 7), "ab"], options, SpeculativeDecoding(drafts[draft_name])
        )
        assert [len(sample.tokens) for sample in (*one, *two)] == [8, CONTEXT - 1]


def test_model_as_its_own_draft_is_always_accepted(model):
    speculative = SpeculativeDecoding(model, 3)
    (one,) = generate(model, BYTES, "ab", GenerationOptions(max_tokens=24, seed=1, min_tokens=24), speculative)
    assert len(one.tokens) == 24
    assert speculative.stats.acceptance_rate == 1
    assert speculative.stats.passes == 6
    assert speculative.stats.tokens_per_forward == 4


@pytest.mark.parametrize("draft_name", ["smaller context", "prompt lookup"])
@pytest.mark.parametrize("overflow", ["stop", "re-prefill"])
def test_drafts_are_limited_by_the_context(model, drafts, draft_name, overflow):
    asked = GenerationOptions(max_tokens=60, seed=3, num_samples=2, overflow=overflow)
    plain = generate_many(model, BYTES, ["ROMEO: ", "ab"], asked)
    speculative = SpeculativeDecoding(drafts[draft_name], 500)
    assert generate_many(model, BYTES, ["ROMEO: ", "ab"], asked, speculative) == plain
    assert speculative.stats.proposed > 10


def test_out_of_memory_changes_no_text(model, drafts, monkeypatch):
    options = GenerationOptions(max_tokens=12, seed=3, num_samples=3)
    expected = generate_many(model, BYTES, PROMPTS, options)
    failed = []
    for method in ("decode", "_verify"):  # before the pass, and after it
        with monkeypatch.context() as patch:
            real = getattr(SpeculativeDecoder, method)

            def out_of_memory(self, *given, real=real):
                rows = given[-2] if len(given) == 3 else given[0]
                if len(rows) > 3:
                    failed.append(real)
                    raise torch.OutOfMemoryError("simulated")
                return real(self, *given)

            patch.setattr(SpeculativeDecoder, method, out_of_memory)
            assert generate_many(model, BYTES, PROMPTS, options, SpeculativeDecoding(drafts["similar"])) == expected
    assert len(set(failed)) == 2


def test_speculative_samples_follow_the_models_distribution(model, drafts):
    """Chi-square over the pairs of the first two tokens, whose probabilities are computed exactly."""
    prompt, count = "ab", 6000
    options = GenerationOptions(max_tokens=2, seed=2024, num_samples=count, top_k=3, top_p=1.0, temperature=1.0)
    speculative = SpeculativeDecoding(drafts["similar"], 2)
    encoded = encode_prompt(model, BYTES, prompt, options)
    engine = Engine(model, BYTES, slots=count, capacity=8, decoder=speculative)
    engine.submit(encoded, options)
    drawn = [[] for _ in range(count)]
    while not engine.is_idle:
        for chunk in engine.step():
            drawn[chunk.index].append(chunk.token)
    expected = {}
    processors = build_processors(options, BYTES)

    def distribution(tokens):
        with torch.no_grad():
            logits = model(torch.tensor([tokens]))[:, -1]
        p = apply_processors(logits, processors, [TokenHistory(encoded, tokens[len(encoded) :])]).softmax(-1)[0]
        return {token: float(p[token]) for token in p.nonzero()[:, 0].tolist()}

    for first, p in distribution(encoded).items():
        assert first != BYTES.end_of_text
        expected |= {(first, second): p * q for second, q in distribution([*encoded, first]).items()}
    assert sum(expected.values()) == pytest.approx(1)
    assert speculative.stats.accepted > 100
    assert speculative.stats.acceptance_rate < 0.99
    seen = {pair: drawn.count(list(pair)) for pair in expected}
    assert sum(seen.values()) == count
    chi_square = sum((seen[pair] - count * p) ** 2 / (count * p) for pair, p in expected.items())
    freedom = len(expected) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def naive_lookup(text, most):
    for n in (3, 2, 1):
        end = text[-n:]
        places = [at + n for at in range(len(text) - n) if text[at : at + n] == end] if len(text) > n else []
        whole = [at for at in places if at + most <= len(text)]
        if places:
            start = whole[-1] if whole else places[0]
            return text[start : start + most]
    return []


@given(text=st.lists(st.integers(0, 3), min_size=1, max_size=30), most=st.integers(1, 6))
@settings(max_examples=300, deadline=None)
def test_prompt_lookup_equals_a_naive_search(text, most):
    assert lookup_draft(text, most) == naive_lookup(text, most)


def test_prompt_lookup_examples():
    assert lookup_draft([1, 2, 3, 4, 5, 1, 2, 3], 2) == [4, 5]
    assert lookup_draft([7, 7], 3) == [7]
    assert lookup_draft([1, 2, 3], 3) == []
    assert lookup_draft([1], 3) == []


def test_prompt_lookup_in_a_repetitive_text_saves_passes(model):
    options = GenerationOptions(max_tokens=20, temperature=0, regex="(abcde ){6}")
    speculative = SpeculativeDecoding(tokens=5)
    generate(model, BYTES, "abcde abcde ", options, speculative)
    assert speculative.stats.tokens_per_forward > 3


@pytest.mark.parametrize("tokens", [0, -1])
def test_draft_tokens_below_1_is_an_error(tokens):
    with pytest.raises(GenerationError, match="draft_tokens is .*at least 1"):
        SpeculativeDecoding(tokens=tokens)


def test_draft_without_possible_tokens_ends(model, drafts):
    """The rule forbids every token after an x, which the draft always proposes and the model never generates."""

    def rule(logits, histories):
        forbidden = torch.tensor([[bool(h.output) and h.output[-1] == ord("x")] for h in histories])
        return logits.masked_fill(forbidden, -torch.inf)

    class AlwaysX(torch.nn.Module):
        def __init__(self, of):
            super().__init__()
            self.of, self.config = of, of.config

        def new_cache(self, slots, capacity=None):
            return self.of.new_cache(slots, capacity)

        def features(self, tokens, cache):
            return self.of.features(tokens, cache)

        def head(self, features):
            return self.of.head(features).index_fill(-1, torch.tensor([ord("x")]), 1e4)

    options = GenerationOptions(max_tokens=10, temperature=0, processors=(rule,))
    speculative = SpeculativeDecoding(AlwaysX(drafts["similar"]), 3)
    assert generate(model, BYTES, "ab", options, speculative) == generate(model, BYTES, "ab", options)
    assert speculative.stats.proposed > speculative.stats.accepted


def test_one_pass_verifies_all_drafts(model, drafts, monkeypatch):
    shapes = []
    real = type(model).features

    def counted(self, tokens, cache=None):
        if self is model:
            shapes.append(tuple(tokens.shape))
        return real(self, tokens, cache)

    monkeypatch.setattr(type(model), "features", counted)
    speculative = SpeculativeDecoding(drafts["similar"], 3)
    generate(model, BYTES, "ab", GenerationOptions(max_tokens=12, seed=1, num_samples=4, min_tokens=12), speculative)
    assert shapes[0] == (1, 1)  # the prompt without its last token
    assert set(shapes[1:-1]) <= {(rows, 4) for rows in range(1, 5)} | {(rows, t) for rows, t in shapes if rows < 4}
    assert speculative.stats.passes == sum(rows for rows, _ in shapes[1:])


MODERN = {"arch": "modern", "n_head": 3, "n_embd": 24, "window": 8, "bias": False}


@pytest.mark.parametrize("shape", [MODERN, pytest.param(LLAMA, marks=pytest.mark.slow)], ids=["modern", "llama"])
def test_speculation_with_other_architectures(shape):
    target = attentive_model(**shape)
    options = GenerationOptions(max_tokens=30, seed=3, num_samples=2)
    plain = generate_many(target, BYTES, PROMPTS, options)
    for draft, tokens in itertools.product((disturbed(target, 0.005), None), (2, 5)):
        assert generate_many(target, BYTES, PROMPTS, options, SpeculativeDecoding(draft, tokens)) == plain
