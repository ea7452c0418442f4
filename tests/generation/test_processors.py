"""Each processor and all of them together against transformers, and texts against its `generate`."""

import dataclasses
import functools
import math

import pytest
import torch
import transformers
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import GPT2LMHeadModel

from glassgpt.data import load_tokenizer, train_tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.engine.generate import generate, stream
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors import top_p
from glassgpt.generation.processors.base import TokenHistory
from glassgpt.generation.processors.pipeline import apply_processors, build_processors
from glassgpt.generation.processors.repetition_penalty import apply_repetition_penalty
from glassgpt.generation.processors.temperature import temperature_at
from glassgpt.generation.processors.top_k import apply_top_k
from glassgpt.generation.processors.top_p import apply_top_p
from glassgpt.interchange.huggingface import export_model
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from small_models import attentive_model

BYTES = load_tokenizer("bytes")
V = BYTES.vocab_size
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([0.1, 1.0, 5.0, 30.0])
few_tokens = st.lists(st.integers(97, 100), min_size=4, max_size=40)
"""Only four letters, so that much repeats."""
PLAIN = {"temperature": 1.0, "top_p": 1.0}


def random_logits(seed, scale=1.0, rows=3, vocab=V):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def processed(logits, histories, **settings):
    return apply_processors(logits, build_processors(GenerationOptions(**{**PLAIN, **settings}), BYTES), histories)


def histories_of(*texts, prompt=2):
    return [TokenHistory(text[:prompt], text[prompt:]) for text in texts]


def near_a_limit(logits, p, order=None):
    """Return whether a sum of probabilities equals p within rounding, so that either result is right."""
    probabilities = logits.double().softmax(-1)
    ordered = probabilities.sort(descending=True).values if order is None else probabilities.gather(1, order)
    return (ordered.cumsum(-1) - p).abs().min() < 1e-5


@given(seed=seeds, scale=scales, k=st.integers(1, V + 5))
@settings(max_examples=60, deadline=None)
def test_top_k_equals_transformers(seed, scale, k):
    logits = random_logits(seed, scale)
    assert torch.equal(processed(logits, [], top_k=k), transformers.TopKLogitsWarper(k)(None, logits))


def test_top_k_keeps_ties():
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]])
    assert apply_top_k(logits, 2).isfinite().tolist() == [[False, True, True, True, False]]


@given(seed=seeds, scale=scales, p=st.floats(0.01, 0.999), few=st.sampled_from([1, 7, V]))
@settings(max_examples=120, deadline=None)
def test_top_p_equals_transformers(seed, scale, p, few):
    logits = random_logits(seed, scale)
    assume(not near_a_limit(logits, p))
    with pytest.MonkeyPatch.context() as patch:  # both with the shortcut and with the whole vocabulary sorted
        patch.setattr(top_p, "SORTED_FIRST", few)
        assert torch.equal(processed(logits, [], top_p=p), transformers.TopPLogitsWarper(p)(None, logits))


def test_top_p_keeps_the_crossing_token_and_at_least_one():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    assert apply_top_p(logits, 0.6).isfinite().tolist() == [[True, True, False]]
    assert apply_top_p(logits, 1e-9).isfinite().tolist() == [[True, False, False]]


@pytest.mark.parametrize("few", [1, 3, 8])
def test_top_p_takes_the_lowest_ids_on_a_tie(monkeypatch, few):
    monkeypatch.setattr(top_p, "SORTED_FIRST", few)
    kept = apply_top_p(torch.zeros(1, 8), 0.3).isfinite()
    assert kept.tolist() == [[True] * 3 + [False] * 5]


@given(seed=seeds, scale=scales, p=st.floats(0.001, 1.0))
@settings(max_examples=60, deadline=None)
def test_min_p_equals_transformers(seed, scale, p):
    logits = random_logits(seed, scale)
    shares = logits.double().softmax(-1)
    assume(((shares / shares.amax(-1, keepdim=True)) / p - 1).abs().min() > 1e-5 or p == 1.0)
    assert torch.equal(processed(logits, [], min_p=p), transformers.MinPLogitsWarper(p)(None, logits))


@given(seed=seeds, scale=st.sampled_from([0.1, 1.0, 5.0]), mass=st.floats(0.01, 0.99), k=st.integers(2, V))
@settings(max_examples=80, deadline=None)
def test_typical_p_equals_transformers(seed, scale, mass, k):
    logits = apply_top_k(random_logits(seed, scale), k)
    log_p = logits.double().log_softmax(-1)
    distance = (-log_p + (log_p.exp() * log_p).nansum(-1, keepdim=True)).abs()
    assume(not near_a_limit(logits, mass, distance.argsort(-1)))
    assert torch.equal(processed(logits, [], typical_p=mass), transformers.TypicalLogitsWarper(mass)(None, logits))


@given(seed=seeds, penalty=st.floats(0.2, 5.0), text=few_tokens)
@settings(max_examples=60, deadline=None)
def test_repetition_penalty_equals_transformers(seed, penalty, text):
    logits, texts = random_logits(seed, rows=2), [text, text[::-1]]
    theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(texts), logits.clone())
    torch.testing.assert_close(processed(logits, histories_of(*texts), repetition_penalty=penalty), theirs)


def test_repetition_penalty_uses_each_sequences_history():
    logits = torch.tensor([[2.0, -2.0, 1.0], [2.0, -2.0, 1.0]])
    histories = [TokenHistory([0], [0, 0]), TokenHistory([1, 2], [])]
    expected = [[1.0, -2.0, 1.0], [2.0, -4.0, 0.5]]
    assert apply_repetition_penalty(logits, 2.0, histories).tolist() == expected


def test_presence_and_frequency_penalty_example():
    """OpenAI's formula: logit - count * frequency - (count > 0) * presence, over the output alone."""
    histories = [TokenHistory([3, 3], [0, 0, 0, 2]), TokenHistory([0], [])]
    logits = torch.zeros(2, V)
    both = processed(logits, histories, presence_penalty=0.5, frequency_penalty=0.25)
    assert both[0, :4].tolist() == [-1.25, 0, -0.75, 0]
    assert both[1].tolist() == [0] * V
    assert processed(logits, histories, presence_penalty=-2.0)[0, :4].tolist() == [2.0, 0, 2.0, 0]


@given(seed=seeds, n=st.integers(1, 6), text=few_tokens)
@settings(max_examples=100, deadline=None)
def test_no_repeat_ngram_equals_transformers(seed, n, text):
    logits, texts = random_logits(seed, rows=2), [text, text[::-1]]
    theirs = transformers.NoRepeatNGramLogitsProcessor(n)(torch.tensor(texts), logits)
    assert torch.equal(processed(logits, histories_of(*texts), no_repeat_ngram=n), theirs)


@given(
    seed=seeds,
    text=few_tokens,
    bias=st.dictionaries(st.text("abcd", min_size=1, max_size=4), st.floats(-9, 9) | st.just(-math.inf), min_size=1),
)
@example(seed=0, text=[97] * 4, bias={"a" * 6: 1.0})
@settings(max_examples=100, deadline=None)
def test_logit_bias_equals_transformers(seed, text, bias):
    logits, texts = random_logits(seed, rows=2), [text, text[::-1]]
    by_ids = {tuple(BYTES.encode(key)): value for key, value in bias.items()}
    theirs = transformers.SequenceBiasLogitsProcessor(by_ids)(torch.tensor(texts), logits)
    torch.testing.assert_close(processed(logits, histories_of(*texts), logit_bias=bias), theirs)


def test_biases_by_id_and_by_text_add_up():
    histories = [TokenHistory([1], [])]
    biased = processed(torch.zeros(1, V), histories, logit_bias={97: 2.0, "a": 1.0, 256: -math.inf})
    assert biased[0, [96, 97, 256]].tolist() == [0.0, 3.0, -math.inf]


@given(seed=seeds, text=few_tokens, words=st.lists(st.text("abcd", min_size=1, max_size=3), min_size=1))
@settings(max_examples=60, deadline=None)
def test_ban_equals_transformers(seed, text, words):
    logits, texts = random_logits(seed, rows=2), [text, [*text[:-1], ord(" ")]]
    bad = [BYTES.encode(spelling) for word in dict.fromkeys(words) for spelling in (word, f" {word}")]
    theirs = transformers.NoBadWordsLogitsProcessor(bad, 256)(torch.tensor(texts), logits)
    assert torch.equal(processed(logits, histories_of(*texts), ban=tuple(words)), theirs)


@functools.cache
def small_bpe():
    return train_tokenizer("bpe:330", ["the cat sat. the cats ran. cat! a concatenation 😀😁 고양이 고양이가 " * 9])


def n_occurrences(text, banned):
    return sum(text.startswith(banned, at) for at in range(len(text)))


ban_alphabet = st.sampled_from(["c", "a", "t", " ", "cat", " cats", "😀", "고", "양이"])
ban_texts = st.lists(
    st.lists(ban_alphabet, min_size=1, max_size=3).map("".join).filter(str.strip), min_size=1, max_size=3
)


@given(
    history=st.lists(st.one_of(ban_alphabet, st.integers(0, 296)), max_size=8),
    n_prompt=st.integers(0, 20),
    banned=ban_texts,
)
@settings(max_examples=150, deadline=None)
def test_ban_forbids_exactly_the_tokens_that_complete_a_banned_text(history, n_prompt, banned):
    """Against counting occurrences in the bytes of the text with each token of the vocabulary."""
    tokenizer = small_bpe()
    tokens = [token for one in history for token in ([one] if isinstance(one, int) else tokenizer.encode(one))]
    logits = torch.zeros(1, tokenizer.vocab_size)
    options = GenerationOptions(**{**PLAIN, "ban": tuple(banned)})
    told = TokenHistory(tokens[:n_prompt], tokens[n_prompt:])
    (processor,) = build_processors(options, tokenizer)
    forbidden = (processor.apply(logits, [told])[0] == -math.inf).nonzero()[:, 0].tolist()
    document = tokens
    while tokenizer.end_of_text in document:
        document = document[document.index(tokenizer.end_of_text) + 1 :]
    before = b"".join(map(tokenizer.token_bytes, document))
    expected = [
        token
        for token in range(tokenizer.vocab_size)
        if token != tokenizer.end_of_text
        and any(
            n_occurrences(before + tokenizer.token_bytes(token), one.encode()) > n_occurrences(before, one.encode())
            for one in banned
        )
    ]
    assert forbidden == expected


@pytest.mark.parametrize("text", ["😀", "cat", "고"])
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_banned_text_never_occurs(text, kind):
    """A model that prefers the banned text in every spelling never writes it, alone or in a batch."""
    tokenizer = small_bpe() if kind == "bpe" else BYTES
    model = attentive_model(vocab_size=tokenizer.vocab_size)
    parts = {tokenizer.encode(text[:at])[-1] for at in range(1, len(text) + 1)} | set(tokenizer.encode(text))
    pieces = {t for t in range(tokenizer.vocab_size) if tokenizer.token_bytes(t) in text.encode()} | parts
    options = GenerationOptions(
        temperature=5.0, max_tokens=40, seed=3, logit_bias=dict.fromkeys(pieces, 300.0), num_samples=4
    )
    free = generate(model, tokenizer, "a", options)
    assert any(text in one.text for one in free)
    banned = dataclasses.replace(options, ban=(text,))
    kept = generate(model, tokenizer, "a", banned)
    assert not any(text in one.text for one in kept)
    (alone,) = generate(model, tokenizer, "a", dataclasses.replace(banned, num_samples=1))
    assert alone.tokens == kept[0].tokens


def test_ban_is_as_written():
    """With a space, it concerns the beginning of words; case matters; an occurrence may begin in the prompt."""

    def forbidden(text, before):
        (processor,) = build_processors(GenerationOptions(**{**PLAIN, "ban": (text,)}), BYTES)
        logits = processor.apply(torch.zeros(1, V), [TokenHistory(BYTES.encode(before), [])])
        return bytes((logits[0] == -math.inf).nonzero()[:, 0].tolist())

    assert forbidden(" he", "t h") == b"e"
    assert forbidden(" he", "th") == b""
    assert forbidden("he", "th") == b"e"
    assert forbidden("He", "th") == b""
    assert forbidden("e", "") == b"e"
    assert forbidden("aXa", "aXaX") == b"a"


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_min_tokens_equals_transformers(n):
    logits = random_logits(n, rows=1)
    theirs = transformers.MinNewTokensLengthLogitsProcessor(2, 2, [256, 5])(torch.ones(1, 2 + n), logits)
    assert torch.equal(processed(logits, [TokenHistory([1, 1], [1] * n)], min_tokens=2, stop_tokens=(5,)), theirs)


def test_temperature_follows_its_schedule():
    settings = {"temperature": 1.0, "temperature_schedule": ((4, 2.0), (6, 0.5))}
    histories = [TokenHistory([], [0] * n) for n in (0, 1, 4, 5, 6, 100)]
    got = processed(torch.ones(6, V), histories, **settings)[:, 0]
    torch.testing.assert_close(got, 1 / torch.tensor([1.0, 1.25, 2.0, 1.25, 0.5, 0.5]))
    at_once = temperature_at(0, 1.0, ((0, 0.3), (10, 0.6)))
    assert at_once == 0.3


@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-38, 1e-37, 1e-31])
@pytest.mark.parametrize("schedule", [(), ((4, 1.0),)])
def test_tiny_temperature_takes_the_most_probable_token(temperature, schedule):
    logits = torch.linspace(-80, 90, V).repeat(2, 1)
    logits[:, 3] = -math.inf
    histories = [TokenHistory([], [])] * 2
    got = processed(logits, histories, temperature=temperature, temperature_schedule=schedule)
    assert got.softmax(dim=-1)[:, -1].tolist() == [1, 1]


EVERYTHING = {
    "logit_bias": {"a": 1.0, "bc": -2.0},
    "repetition_penalty": 1.3,
    "no_repeat_ngram": 3,
    "ban": ("dd",),
    "min_tokens": 40,
}


def theirs_of_everything(prompt_tokens):
    return transformers.LogitsProcessorList(
        [
            transformers.SequenceBiasLogitsProcessor({(97,): 1.0, (98, 99): -2.0}),
            transformers.RepetitionPenaltyLogitsProcessor(1.3),
            transformers.NoRepeatNGramLogitsProcessor(3),
            transformers.NoBadWordsLogitsProcessor([[100, 100], [32, 100, 100]], 256),
            transformers.MinNewTokensLengthLogitsProcessor(prompt_tokens, 40, 256),
        ]
    )


@given(
    seed=seeds,
    text=few_tokens,
    t=st.floats(0.1, 3.0),
    k=st.integers(1, V),
    p=st.floats(0.05, 0.99),
    min_p=st.floats(0.001, 0.5),
    mass=st.floats(0.05, 0.99),
)
@settings(max_examples=100, deadline=None)
def test_all_processors_together_equal_transformers(seed, text, t, k, p, min_p, mass):
    logits = random_logits(seed, 3.0, rows=1)
    sampling = {"temperature": t, "top_k": k, "top_p": p, "min_p": min_p, "typical_p": mass}
    theirs = theirs_of_everything(2)(torch.tensor([text]), logits.clone()) / t
    theirs = transformers.TopKLogitsWarper(k)(None, theirs)
    assume(not near_a_limit(theirs, p))
    theirs = transformers.MinPLogitsWarper(min_p)(None, transformers.TopPLogitsWarper(p)(None, theirs))
    log_p = theirs.double().log_softmax(-1)
    distance = (-log_p + (log_p.exp() * log_p).nansum(-1, keepdim=True)).abs()
    assume(not near_a_limit(theirs, mass, distance.argsort(-1)))
    theirs = transformers.TypicalLogitsWarper(mass)(None, theirs)
    mine = processed(logits, histories_of(text), **EVERYTHING, **sampling)
    torch.testing.assert_close(mine.softmax(-1), theirs.softmax(-1), rtol=1e-4, atol=1e-6)


def test_only_active_processors_are_built_in_order():
    def mine(logits, histories):
        return logits

    everything = GenerationOptions(
        **EVERYTHING,
        temperature=0.5,
        top_k=3,
        top_p=0.9,
        min_p=0.1,
        typical_p=0.9,
        presence_penalty=1,
        frequency_penalty=1,
        processors=(mine,),
    )
    names = [
        "logit_bias",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "no_repeat_ngram",
        "ban",
        "min_tokens",
        "mine",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
    ]
    assert [one.name for one in build_processors(everything, BYTES)] == names
    assert build_processors(GenerationOptions(**PLAIN), BYTES) == []
    assert build_processors(GenerationOptions(temperature=0, top_k=1, top_p=0.01, min_p=0.5), BYTES) == []
    plain = build_processors(GenerationOptions(temperature=0.5, top_k=1, logit_bias={3: 1.0}), BYTES)
    assert [one.reads_history for one in plain] == [False] * 4


def test_processors_that_read_no_history_need_none():
    options = GenerationOptions(temperature=0.7, top_k=9, min_p=0.1, typical_p=0.9, logit_bias={3: 1.0}, ban=("a",))
    for one in build_processors(options, BYTES):
        if not one.reads_history:
            assert one.apply(random_logits(0), []).shape == (3, V)


def test_processors_do_not_modify_their_input():
    logits = random_logits(3)
    before = logits.clone()
    processed(logits, histories_of([1, 2, 1, 2]) * 3, **EVERYTHING, temperature=0.5, top_k=5, typical_p=0.5, min_p=0.1)
    assert torch.equal(logits, before)


def test_forbidding_every_token_is_an_error():
    everything_but_a = {token: -math.inf for token in range(V) if token != 97}
    with pytest.raises(GenerationError, match=r"after 1 new tokens every token is forbidden.*logit_bias, no_repeat"):
        processed(torch.zeros(1, V), [TokenHistory([], [97])], logit_bias=everything_but_a, no_repeat_ngram=1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A tiny random model, ours and as transformers loads it."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(vocab_size=V, context_length=64, n_layer=2, n_head=3, n_embd=24)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    folder = tmp_path_factory.mktemp("hf")
    export_model(model, BYTES, folder)
    return model, GPT2LMHeadModel.from_pretrained(folder).eval()


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"no_repeat_ngram": 2}, {"no_repeat_ngram_size": 2}),
        ({"min_tokens": 25}, {"min_new_tokens": 25}),
        (
            {"logit_bias": {"e": 3.0, 32: -2.0, "th": 4.0}},
            {"sequence_bias": {(101,): 3.0, (32,): -2.0, (116, 104): 4.0}},
        ),
        (
            {"repetition_penalty": 1.2, "no_repeat_ngram": 3, "min_tokens": 9, "logit_bias": {"e": 3.0}},
            {
                "repetition_penalty": 1.2,
                "no_repeat_ngram_size": 3,
                "min_new_tokens": 9,
                "sequence_bias": {(101,): 3.0},
            },
        ),
    ],
    ids=str,
)
def test_greedy_text_equals_transformers(pair, mine, theirs):
    model, reference = pair
    for prompt in ("ROMEO:", "the the the", "한국"):
        tokens = torch.tensor([BYTES.encode(prompt)])
        out = reference.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=30,
                                 eos_token_id=256, pad_token_id=256, **theirs)  # fmt: skip
        expected = [token for token in out[0, tokens.size(1) :].tolist() if token != 256]
        got = generate(model, BYTES, prompt, GenerationOptions(temperature=0, max_tokens=30, **mine))
        assert got[0].tokens == expected


def test_greedy_text_with_banned_words_equals_transformers(pair):
    """Among letters, so that there are words to ban: pairs of letters that occur when nothing is banned."""
    model, reference = pair
    letters = dict.fromkeys(range(97, 123), 50.0)
    options = GenerationOptions(temperature=0, max_tokens=30, logit_bias=letters)
    free = generate(model, BYTES, "ROMEO:", options)[0].text
    words = (free[3:5], free[8:10])
    bad = [BYTES.encode(spelling) for word in words for spelling in (word, f" {word}")]
    tokens = torch.tensor([BYTES.encode("ROMEO:")])
    out = reference.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=30,
                             eos_token_id=256, pad_token_id=256, bad_words_ids=bad,
                             sequence_bias={(token,): value for token, value in letters.items()})  # fmt: skip
    got = generate(model, BYTES, "ROMEO:", dataclasses.replace(options, ban=words))[0]
    assert got.tokens == out[0, tokens.size(1) :].tolist()
    assert not any(word in got.text for word in words)


def test_custom_processor_is_applied(pair):
    model, _ = pair

    def only_letters(logits, histories):
        assert all(list(history.prompt) == BYTES.encode("x") for history in histories)
        keep = torch.zeros(V, dtype=torch.bool)
        keep[97:123] = True
        return logits.masked_fill(~keep, -math.inf)

    for one in generate(model, BYTES, "x", GenerationOptions(processors=(only_letters,), num_samples=3, seed=1)):
        assert one.text.isalpha()
        assert one.text.islower()


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            lambda logits, _: None,
            "processor <lambda> returned None; it must return logits, \\(1, 257\\) of torch.float32",
        ),
        (lambda logits, _: logits[0], r"returned a tensor \(257,\) of torch.float32"),
        (lambda logits, _: logits[:, :5], r"returned a tensor \(1, 5\)"),
        (lambda logits, _: logits.long(), "of torch.int64; it must"),
        (lambda logits, _: logits * math.nan, "returned NaN logits"),
    ],
)
@pytest.mark.parametrize("temperature", [0, 1])
def test_custom_processor_result_is_validated(pair, own, message, temperature):
    options = GenerationOptions(max_tokens=3, temperature=temperature, seed=1, processors=(own,))
    with pytest.raises(GenerationError, match=message):
        generate(pair[0], BYTES, "a", options)


def test_custom_processor_may_modify_its_logits(pair):
    texts = [
        generate(pair[0], BYTES, "ab", GenerationOptions(max_tokens=9, seed=1, logprobs=1, processors=(own,)))[0]
        for own in (lambda logits, _: logits.mul_(0.3), lambda logits, _: logits * 0.3)
    ]
    assert texts[0] == texts[1]


def test_stop_tokens_end_the_text_before_themselves(pair):
    model, _ = pair
    free = generate(model, BYTES, "ROMEO:", GenerationOptions(temperature=0, max_tokens=20))[0].tokens
    at = free.index(free[6])
    options = GenerationOptions(temperature=0, max_tokens=20, stop_tokens=(free[6],))
    one = generate(model, BYTES, "ROMEO:", options)[0]
    assert (one.tokens, one.finish_reason) == (free[: at + 1], "stop")
    assert one.text == BYTES.decode(free[:at])


def test_no_stop_before_min_tokens(pair):
    model, _ = pair
    every_byte = tuple(chr(i) for i in range(128))
    options = GenerationOptions(max_tokens=40, min_tokens=12, stop=every_byte, seed=3)
    one = generate(model, BYTES, "ROMEO:", options)[0]
    assert one.finish_reason == "stop"
    assert len(one.tokens) > 12


def test_all_invalid_options_are_reported_at_once():
    bad = {
        "max_tokens": 0,
        "min_tokens": -1,
        "temperature": -1.0,
        "temperature_schedule": ((5, 1.0), (5, 2.0)),
        "top_k": -1,
        "top_p": 0.0,
        "min_p": 1.5,
        "typical_p": 0.0,
        "repetition_penalty": 0.0,
        "presence_penalty": math.inf,
        "frequency_penalty": math.nan,
        "no_repeat_ngram": -2,
        "logit_bias": {"a": math.inf},
        "ban": (" ",),
        "choices": ("",),
        "seed": -1,
        "num_samples": 0,
        "logprobs": 101,
        "stop": ("fine", ""),
    }
    with pytest.raises(GenerationError) as caught:
        GenerationOptions(**bad).check()
    lines = str(caught.value).splitlines()
    assert len(lines) == len(bad)
    for name in bad:
        assert any(line.startswith(f"{name} is ") and "; it must be " in line for line in lines)


@pytest.mark.parametrize(
    "name", ["temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty"]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_option_is_an_error(name, value):
    with pytest.raises(GenerationError, match=name):
        GenerationOptions(**{name: value}).check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_tokens": 11, "max_tokens": 10}, "min_tokens is 11; it must be at most max_tokens"),
        ({"temperature": 0, "temperature_schedule": ((5, 1.0),)}, "temperature must be positive"),
        ({"temperature_schedule": ((5, 0.0),)}, "positive temperatures"),
        ({"temperature_schedule": ((-1, 1.0),)}, "increasing positions"),
        ({"regex": "a", "choices": ("b",)}, "cannot be combined"),
    ],
)
def test_conflicting_options_are_an_error(settings, message):
    with pytest.raises(GenerationError, match=message):
        GenerationOptions(**settings).check()


def test_unknown_token_id_is_reported_before_anything_runs(pair):
    options = GenerationOptions(logit_bias={257: 1.0, 256: 1.0}, stop_tokens=(-1,))
    with pytest.raises(GenerationError) as caught:
        stream(pair[0], BYTES, "x", options)
    assert str(caught.value).splitlines() == [
        "logit_bias contains the token id 257; ids must be between 0 and 256, the vocabulary of bytes",
        "stop_tokens contains the token id -1; ids must be between 0 and 256, the vocabulary of bytes",
    ]


def test_processors_never_sync_with_a_gpu_or_mix_devices():
    """With tensors that pretend to be on a GPU: reading a value, or using a tensor left on the CPU, raises."""
    sampling = {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.9}
    penalties = {"presence_penalty": 0.5, "frequency_penalty": 0.25}
    each = [
        *build_processors(GenerationOptions(**EVERYTHING, **sampling, **penalties), BYTES),
        *build_processors(GenerationOptions(temperature_schedule=((9, 1.0),), top_p=1.0), BYTES),
    ]
    histories = histories_of([97, 98, 97, 98], [100] * 4, [99, 98, 99, 97])
    with FakeTensorMode():
        logits = torch.empty(3, V, device="cuda")
        for one in each:
            if one.reads_history:
                assert one.apply(logits, histories).device.type == "cuda", one.name
        with pytest.raises(DataDependentOutputException):
            bool(logits.any())
    logits = torch.empty(3, V, device="meta")  # the other pretence knows no topk where PyTorch has no CUDA
    for one in each:
        if not one.reads_history:
            assert one.apply(logits, []).device.type == "meta", one.name
    with pytest.raises(RuntimeError, match="meta"):
        bool(logits.any())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_processors_give_the_same_on_a_gpu():
    logits, histories = random_logits(1, 3.0), histories_of([97, 98, 97, 98], [100] * 4, [99, 98, 99, 97])
    sampling = {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.9}
    cpu = processed(logits, histories, **EVERYTHING, **sampling, presence_penalty=0.5, frequency_penalty=0.25)
    gpu = processed(logits.cuda(), histories, **EVERYTHING, **sampling, presence_penalty=0.5, frequency_penalty=0.25)
    torch.testing.assert_close(gpu.cpu().softmax(-1), cpu.softmax(-1))
