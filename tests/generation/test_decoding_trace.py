"""Decoding traces, log-probabilities and --explain: they equal the distributions that tokens were sampled from."""

import json
import math

import pytest
import torch

from glassgpt.api import LoadedModel
from glassgpt.cli.generation import print_generation
from glassgpt.data import load_tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation import decoding_trace as traces
from glassgpt.generation.decoding_trace import MIN_LOGPROB, trace_decoding
from glassgpt.generation.engine.generate import generate
from glassgpt.generation.engine.prompt import encode_prompt
from glassgpt.generation.engine.sampling import gumbel_noise, sample
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import TokenHistory
from glassgpt.generation.processors.pipeline import apply_processors, build_processors
from glassgpt.generation.prompt_list import PromptList
from glassgpt.generation.show import format_probability, format_token
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

BYTES = load_tokenizer("bytes")
V, CONTEXT = 257, 48
RICH = {
    "temperature": 0.9,
    "top_k": 40,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.3,
    "no_repeat_ngram": 3,
    "ban": ("a",),
    "temperature_schedule": ((10, 1.5),),
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = build_model(ModelConfig(vocab_size=V, context_length=CONTEXT, n_layer=2, n_head=3, n_embd=24)).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made


def traced(model, prompt="ROMEO:", top=5, index=0, **settings):
    options = GenerationOptions(**{"max_tokens": 20, "seed": 5, **settings})
    tokens = encode_prompt(model, BYTES, prompt, options)
    one = generate(model, BYTES, prompt, options)[index]
    return tokens, one, options, trace_decoding(model, BYTES, tokens, one, options, top=top)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, RICH, {"regex": "[a-z]{3}( [a-z]+)*"}], ids=str)
@pytest.mark.parametrize("index", [0, 2])
def test_trace_equals_step_by_step_decoding(model, settings, index, monkeypatch):
    monkeypatch.setattr(traces, "POSITIONS_PER_BATCH", 7)
    prompt, one, options, told = traced(model, num_samples=3, index=index, **settings)
    processors = build_processors(options, BYTES)
    output = [*one.tokens, *([256] if one.finish_reason == "end_of_text" else [])]
    assert [step.chosen.token for step in told.steps] == output
    for at, step in enumerate(told.steps):
        with torch.no_grad():
            raw = model(torch.tensor([[*prompt, *output[:at]]]))[:, -1]
        logits = apply_processors(raw, processors, [TokenHistory(prompt, output[:at])])
        for one_of_them in step.candidates:
            expected = (raw.log_softmax(-1)[0, one_of_them.token], logits.log_softmax(-1)[0, one_of_them.token])
            for got, wanted in zip((one_of_them.raw, one_of_them.processed), expected, strict=True):
                assert got == pytest.approx(max(MIN_LOGPROB, float(wanted)), abs=1e-4)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, RICH], ids=str)
def test_sampling_from_the_traced_distribution_repeats_the_text(model, settings):
    prompt, _, options, told = traced(model, top=V, **settings)
    for at, step in enumerate(told.steps):
        logits = torch.full((1, V), -math.inf)
        for one in step.candidates:
            logits[0, one.token] = one.processed if one.processed > MIN_LOGPROB else -math.inf
        noise = None
        if not options.is_greedy:
            noise = gumbel_noise(options.seed, [0], [len(prompt) + at], torch.arange(V))
        assert int(sample(logits, noise)) == step.chosen.token


def test_every_stage_is_a_distribution(model):
    _, _, _, told = traced(model, top=V, **RICH)
    assert told.stages[0] == "model"
    assert told.stages[-3:] == ("temperature", "top_k", "top_p")
    for step in told.steps:
        shares = torch.tensor([one.logprobs for one in step.candidates]).double().exp()  # (V, stages)
        torch.testing.assert_close(shares.sum(0), torch.ones(len(told.stages)).double(), rtol=1e-5, atol=1e-5)
        assert (shares[:, -1] > 0).sum() <= 40


def test_candidates_are_the_most_probable_tokens_and_the_chosen_one(model):
    _, _, _, few = traced(model, top=3, temperature=1.5, top_p=1.0)
    _, _, _, whole = traced(model, top=V, temperature=1.5, top_p=1.0)
    for step, all_of_them in zip(few.steps, whole.steps, strict=True):
        assert step.chosen in step.candidates
        ranked = sorted(all_of_them.candidates, key=lambda one: -one.raw)
        assert {one.token for one in step.candidates} == {one.token for one in ranked[:3]} | {step.chosen.token}
    assert any(len(step.candidates) == 4 for step in few.steps)


def test_end_of_text_has_a_step_of_its_own(model):
    _, one, _, told = traced(model, choices=("ab",))
    assert (one.text, one.finish_reason) == ("ab", "end_of_text")
    assert [step.chosen.token for step in told.steps] == [97, 98, 256]
    assert told.steps[-1].chosen.processed == 0.0
    assert {one.processed for one in told.steps[-1].candidates[1:]} == {MIN_LOGPROB}


def test_a_text_longer_than_the_context_cannot_be_traced(model):
    options = GenerationOptions()
    one = generate(model, BYTES, "x", GenerationOptions(max_tokens=5))[0]
    with pytest.raises(GenerationError, match="54 tokens, more than the model's context of 48"):
        trace_decoding(model, BYTES, [1] * 50, one, options, top=1)


@pytest.mark.parametrize("length", [3, 20, 47, 48])
def test_re_prefilled_text_is_traced_with_the_context_it_was_generated_from(model, length):
    prompt, one, _, told = traced(model, "x" * length, temperature=1.3, max_tokens=110, overflow="re-prefill")
    output = [*one.tokens, *([256] if one.finish_reason == "end_of_text" else [])]
    assert len(output) == len(told.steps)
    assert len(output) > 60
    seen = list(prompt)
    for token, step in zip(output, told.steps, strict=True):
        if len(seen) > CONTEXT:
            seen = seen[-(CONTEXT // 2) :]
        with torch.no_grad():
            raw = model(torch.tensor([seen]))[0, -1].log_softmax(-1)
        assert step.chosen.token == token
        assert step.chosen.raw == pytest.approx(float(raw[token]), abs=1e-4)
        seen.append(token)


def test_json_contains_log_probabilities(model, capsys):
    print_generation(
        LoadedModel(model, BYTES, 0),
        PromptList(["x"]),
        GenerationOptions(max_tokens=6, seed=1, top_k=3, logprobs=4, num_samples=2),
        None,
        as_json=True,
        explain=False,
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert [one["token"] for one in line["logprobs"]] == line["tokens"]
        for one in line["logprobs"]:
            assert set(one) == {"token", "piece", "bytes", "raw", "processed", "top"}
            assert one["bytes"] == [one["token"]]
            assert 4 <= len(one["top"]) <= 5
            assert any(other["processed"] == MIN_LOGPROB for other in one["top"])


def test_explain_prints_a_table_per_token(model, capsys):
    print_generation(
        LoadedModel(model, BYTES, 0),
        PromptList(["x"]),
        GenerationOptions(max_tokens=3, seed=1, ban=("e",)),
        None,
        as_json=False,
        explain=True,
    )
    out = capsys.readouterr().out
    assert out.count("▶") == 3
    assert all(f"{number}. “" in out for number in (1, 2, 3))
    assert "model" in out
    assert "top_p" in out
    assert " %" in out


def test_explained_samples_have_headings(model, capsys):
    options = GenerationOptions(max_tokens=2, seed=1, num_samples=2)
    print_generation(LoadedModel(model, BYTES, 0), PromptList(["x", "y"]), options, None, as_json=False, explain=True)
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("──")] == [
        f"── prompt {prompt} of 2, sample {sample} of 2 (length) ──" for prompt in (1, 2) for sample in (1, 2)
    ]


def test_explain_with_json_prints_all_stages(model, capsys):
    options = GenerationOptions(max_tokens=3, seed=1, logit_bias={101: -math.inf}, temperature=0)
    print_generation(LoadedModel(model, BYTES, 0), PromptList(["x"]), options, None, as_json=True, explain=True)
    line = json.loads(capsys.readouterr().out)
    assert line["stages"] == ["model", "logit_bias"]
    assert [step["token"] for step in line["steps"]] == line["tokens"]
    assert all(len(one["logprobs"]) == 2 for step in line["steps"] for one in step["candidates"])


def test_explain_limits_the_number_of_tokens(model):
    with pytest.raises(GenerationError, match="max_tokens is 201; with --explain it must be at most 200"):
        print_generation(
            LoadedModel(model, BYTES, 0),
            PromptList(["x"]),
            GenerationOptions(max_tokens=201),
            None,
            as_json=False,
            explain=True,
        )


@pytest.mark.parametrize(
    ("token", "shown"),
    [(ord("a"), "“a”"), (ord("\n"), "“⏎”"), (0, "“<U+0000>”"), (0xED, "“<ED>”"), (256, "<|endoftext|>")],
)
def test_tokens_are_formatted_visibly(token, shown):
    assert format_token(BYTES, token) == shown


@pytest.mark.parametrize(
    ("logprob", "shown"), [(0.0, "100.0 %"), (math.log(0.1234), "12.3 %"), (math.log(4e-4), "< 0.1 %"), (-9999.0, "–")]
)
def test_probabilities_are_formatted_as_percentages(logprob, shown):
    assert format_probability(logprob) == shown
