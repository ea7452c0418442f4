"""Constrained output: a tiny random model generates it, Python's re and json validate it."""

import json
import math
import re
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt.data import load_tokenizer, train_tokenizer
from glassgpt.errors import GenerationError, MissingExtraError
from glassgpt.generation.constrained import choices_constraint, json_schema_constraint, regex_constraint
from glassgpt.generation.engine.generate import generate
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import TokenHistory
from glassgpt.generation.processors.pipeline import build_processors
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

TEXT = [
    "the quick brown fox jumps over 1234 lazy dogs",
    '{"name": "한국어", "age": 12}',
    "yes no maybe, 2026-11-25",
] * 3


@pytest.fixture(scope="module", params=["bytes", "gpt2", "bpe:400", "unigram:400", "sentencepiece:400"])
def writer(request):
    name = request.param
    tokenizer = train_tokenizer(name, TEXT) if ":" in name else load_tokenizer(name)
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=tokenizer.vocab_size, context_length=160, n_layer=1, n_head=2, n_embd=8)
    model = build_model(config).eval()
    return model, tokenizer


def written(writer, samples=3, seed=1, **settings):
    model, tokenizer = writer
    options = GenerationOptions(max_tokens=120, seed=seed, num_samples=samples, **{"top_p": 1.0, **settings})
    return generate(model, tokenizer, "the quick ", options)


@pytest.mark.parametrize(
    "pattern",
    [
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}",
        r"(yes|no), (the|a) [a-z]{1,8}\.",
        r"[가-힣]{2}é?\n",
        r"a/b|\\{1,3}|<\|endoftext\|>",
    ],
)
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_output_matches_the_regex(writer, pattern, temperature):
    for one in written(writer, regex=pattern, temperature=temperature):
        assert one.finish_reason == "end_of_text"
        assert re.fullmatch(pattern, one.text), one.text


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_output_follows_the_json_schema(writer, temperature):
    for one in written(writer, json_schema=json.dumps(PERSON), temperature=temperature):
        assert one.finish_reason == "end_of_text"
        person = json.loads(one.text)
        assert list(person) == ["name", "age", "kind", "tags"]
        assert len(person["name"]) <= 6
        assert 0 <= person["age"] <= 150
        assert person["kind"] in ("cat", "dog")
        assert 1 <= len(person["tags"]) <= 3
        assert all(type(tag) is bool for tag in person["tags"])


ODD_CHOICES = ("yes", "yes.", "no way", 'a"b\\', "한국어\n", "<|endoftext|>", "(.*)")


def test_output_is_one_of_the_choices(writer):
    drawn = {one.text for one in written(writer, samples=24, choices=ODD_CHOICES, temperature=2.0)}
    assert drawn <= set(ODD_CHOICES)
    assert len(drawn) > 2


def test_greedy_decoding_takes_the_most_probable_choice():
    """Choices of one token each: the oracle is the model's own logits."""
    tokenizer = load_tokenizer("bytes")
    torch.manual_seed(3)
    model = build_model(ModelConfig(vocab_size=257, context_length=16, n_layer=1, n_head=2, n_embd=8)).eval()
    for prompt in ("x", "yz", "123"):
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer.encode(prompt)]))[0, -1]
        best = max("aeiou", key=lambda letter: float(logits[ord(letter)]))
        options = GenerationOptions(temperature=0, choices=tuple("aeiou"))
        assert generate(model, tokenizer, prompt, options)[0].text == best


@given(choices=st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=5, unique=True), pick=st.data())
@settings(max_examples=100, deadline=None)
def test_every_choice_can_be_generated_and_ends_when_complete(choices, pick):
    tokenizer = load_tokenizer("bytes")
    chosen = pick.draw(st.sampled_from(choices))
    tokens = tokenizer.encode(chosen)
    rows = [TokenHistory([], tokens[:i]) for i in range(len(tokens) + 1)]
    allowed = choices_constraint(choices, tokenizer)(torch.zeros(len(rows), 257), rows).isfinite()
    assert all(allowed[i, token] for i, token in enumerate(tokens))
    for i in range(len(rows)):
        beginnings = {choice.encode()[:i] for choice in choices}
        assert tokens[:i] == [] or bytes(tokens[:i]) in beginnings
        assert bool(allowed[i, 256]) == (bytes(tokens[:i]) in {choice.encode() for choice in choices})
        after = {raw[i] for choice in choices if (raw := choice.encode())[:i] == bytes(tokens[:i]) and len(raw) > i}
        assert set(allowed[i, :256].nonzero()[:, 0].tolist()) == after


def test_constraint_state_depends_on_the_output_only():
    """Incremental masks equal those computed from scratch when sequences are added, removed, forked and rolled back."""
    tokenizer, pattern = load_tokenizer("bytes"), "(ab|ac)*d"
    one = regex_constraint(pattern, tokenizer)
    for outputs in (["", ""], ["a", "a"], ["ab", "ac"], ["aba", "ab", "acacacd"], ["a"], ["abab"]):
        rows = [TokenHistory([1, 2], tokenizer.encode(output)) for output in outputs]
        fresh = regex_constraint(pattern, tokenizer)(torch.zeros(len(rows), 257), rows)
        assert torch.equal(one(torch.zeros(len(rows), 257), rows), fresh)


def test_output_that_violates_the_constraint_is_an_error():
    tokenizer = load_tokenizer("bytes")
    with pytest.raises(GenerationError, match="the output cannot be constrained"):
        regex_constraint("ab", tokenizer)(torch.zeros(1, 257), [TokenHistory([], [ord("z")])])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"regex": "[0-9"}, "regex is invalid: unclosed character class"),
        ({"regex": "a(?=b)"}, "regex is invalid: look-around"),
        ({"json_schema": "{"}, "json_schema is not JSON"),
        ({"json_schema": '{"type": "objekt"}'}, "json_schema is invalid: Invalid type: objekt"),
        ({"json_schema": '{"not": {}}'}, "not"),
        ({"json_schema": "[1]"}, "must be a JSON object"),
        ({"regex": "abc", "min_tokens": 9}, "after 3 new tokens every token is forbidden"),
    ],
)
def test_invalid_constraint_is_a_one_line_error(setting, message):
    tokenizer = load_tokenizer("bytes")
    model = build_model(ModelConfig(vocab_size=257, context_length=32, n_layer=1, n_head=1, n_embd=8)).eval()
    with pytest.raises(GenerationError, match=message) as caught:
        generate(model, tokenizer, "x", GenerationOptions(**setting))
    assert "\n" not in str(caught.value)


def test_error_after_partial_output_starts_on_a_new_line(nano_run, run_main):
    code, out, err = run_main("generate", nano_run, "--prompt", "x", "--choice", "abc", "--min-tokens", 9)
    assert code == 1
    assert out == "xabc\n"
    assert err.splitlines()[-1].startswith("error: after 3 new tokens every token is forbidden")


def test_missing_library_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'glassgpt\[structured\]'"):
        build_processors(GenerationOptions(regex="a"), load_tokenizer("bytes"))


def test_constraint_follows_penalties_and_precedes_temperature():
    settings = {"logit_bias": {97: 1.0}, "min_tokens": 1, "temperature": 0.5, "top_p": 1.0}
    names = [
        one.name for one in build_processors(GenerationOptions(choices=("a",), **settings), load_tokenizer("bytes"))
    ]
    assert names == ["logit_bias", "min_tokens", "choices", "temperature"]


def test_forbidden_tokens_stay_forbidden():
    tokenizer = load_tokenizer("bytes")
    logits = torch.zeros(1, 257)
    logits[0, ord("a")] = -math.inf
    out = json_schema_constraint('{"enum": ["a", "b"]}', tokenizer)(logits, [TokenHistory([], [ord('"')])])
    assert out.isfinite()[0].nonzero()[:, 0].tolist() == [ord("b")]
