"""Checks of generated text."""

import json
import math

import pytest
import torch
from diagnosis_helpers import codes
from hypothesis import given
from hypothesis import strategies as st

from glassgpt import api
from glassgpt.config import load_config
from glassgpt.diagnosis.checks import text as text_checks
from glassgpt.diagnosis.ngram_baseline import NGramBaseline
from glassgpt.generation.engine.output import Sample
from glassgpt.generation.options import GenerationOptions


@pytest.mark.parametrize(
    ("tokens", "loop"),
    [
        ([1, 2, 3] * 6, [1, 2, 3]),
        ([9, 8, 7, *[5] * 16], [5]),
        ([9, 8, 7, *[5] * 15], []),
        ([1, 2, 3, 4, 5] * 3, []),
        (list(range(50)), []),
        ([*[1, 2] * 20, 3], []),
        ([], []),
    ],
)
def test_loop_is_the_shortest_passage_repeated_to_the_end(tokens, loop):
    assert text_checks.find_loop(tokens) == loop


@given(st.lists(st.integers(0, 1), max_size=80))
def test_found_loop_repeats(tokens):
    loop = text_checks.find_loop(tokens)
    times = max(4, math.ceil(16 / len(loop))) if loop else 0
    assert tokens[len(tokens) - times * len(loop) :] == loop * times


def text_finding_codes(run, run_main, *options) -> list[str]:
    code, out, _ = run_main("doctor", run, "--text", "--json", *options)
    assert code == 0
    codes = [f["code"] for check in json.loads(out)["checks"] for f in check["findings"]]
    return [code for code in codes if "-SPD-" not in code]  # test machines are shared


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), []),
        pytest.param(("--settings", "creative"), [], marks=pytest.mark.slow),
        pytest.param(("--temperature", 3, "--top-p", 1), ["GG-TXT-003"], marks=pytest.mark.slow),
        pytest.param(("--stop", "e"), ["GG-TXT-004"], marks=pytest.mark.slow),
        (("--repetition-penalty", 4), ["GG-TXT-003"]),
    ],
)
def test_setting_that_spoils_the_text_of_a_good_model_is_named(nano_run, run_main, options, expected):
    assert text_finding_codes(nano_run, run_main, *options) == expected


@pytest.mark.slow
def test_undertrained_model_is_not_blamed_on_a_setting(grammar_data, tmp_path, run_main):
    overrides = {"data": str(grammar_data), "train.max_steps": 3, "schedule.warmup_steps": 0}
    api.train(load_config("nano", overrides), tmp_path / "run")
    assert "GG-TXT-002" in text_finding_codes(tmp_path / "run", run_main)


@pytest.mark.parametrize(("loss", "expected"), [(2.0, []), (2.1, ["GG-TXT-002"])])
def test_model_that_does_not_beat_bigrams_is_reported(loss, expected):
    assert codes(text_checks.check_training(loss, NGramBaseline(5.5, 2.9, 2.1))) == expected


def test_mean_surprisal_is_the_cross_entropy(nano_run):
    """Compared with a direct computation."""
    loaded = api.load(nano_run)
    prompt, text = "today the", " cat is eating bread"
    sample = Sample(0, text, loaded.tokenizer.encode(text))
    tokens = torch.tensor(loaded.tokenizer.encode(prompt + text))
    loss = torch.nn.functional.cross_entropy(loaded.model(tokens[None, :-1])[0], tokens[1:], reduction="none")
    found = text_checks.mean_surprisal(loaded.model, loaded.tokenizer, [prompt], [sample])
    assert found == pytest.approx(loss[-len(text) :].mean().item(), rel=1e-5)


def texts_with(loops=0.0, early=0.0, reason="length") -> text_checks.GeneratedTexts:
    return text_checks.GeneratedTexts([Sample(0, "", [], reason)], loops, early, 1.0, "“x”")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (GenerationOptions(temperature=0.1), "--temperature"),
        (GenerationOptions(top_p=0.1), "--top-p"),
        (GenerationOptions(top_k=1), "--top-k"),
        (GenerationOptions(top_k=3), "--top-k"),
        (GenerationOptions(min_p=0.6), "--min-p"),
        (GenerationOptions(), "--temperature"),
    ],
)
def test_setting_that_causes_loops_is_named(options, named):
    check = text_checks.check_loops(texts_with(0.9), texts_with(1.0), texts_with(0.0), options, 1.0, is_trained=True)
    assert codes(check) == ["GG-TXT-001"]
    assert check.findings[0].evidence["setting"] == named
    GenerationOptions(**{named[2:].replace("-", "_"): check.findings[0].evidence["wanted"]}).check()


def test_model_that_always_loops_is_reported():
    arguments = (texts_with(0.9), texts_with(1.0), texts_with(0.9), GenerationOptions(), 1.0)
    assert codes(text_checks.check_loops(*arguments, is_trained=True)) == ["GG-TXT-006"]
    assert codes(text_checks.check_loops(*arguments, is_trained=False)) == []


def test_model_that_ends_its_texts_early_is_reported():
    one = texts_with(early=0.9, reason="end_of_text")
    assert codes(text_checks.check_early_ends(one, one, one, GenerationOptions())) == ["GG-TXT-005"]
    stopped = texts_with(early=0.9, reason="stop")
    check = text_checks.check_early_ends(stopped, texts_with(), texts_with(), GenerationOptions(stop_tokens=(3,)))
    assert codes(check) == ["GG-TXT-004"]
    assert codes(text_checks.check_early_ends(texts_with(), one, one, GenerationOptions())) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (GenerationOptions(temperature=1.5), "--temperature"),
        (GenerationOptions(repetition_penalty=2.0), "--repetition-penalty"),
        (GenerationOptions(frequency_penalty=3.0), "--frequency-penalty"),
        (GenerationOptions(presence_penalty=3.0), "--presence-penalty"),
        (GenerationOptions(), "--top-p"),
    ],
)
def test_setting_that_causes_improbable_text_is_named(options, named):
    check = text_checks.check_improbable_text(texts_with(), options, -1.0, is_trained=True)
    assert codes(check) == ["GG-TXT-003"]
    assert check.findings[0].evidence["setting"] == named
