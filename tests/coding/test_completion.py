"""`glassgpt complete`: the prompt keeps what is near the gap, candidates are ranked, tests run on a copy."""

import dataclasses
import json
import os
import shlex
import sys

import pytest
import torch

import glassgpt
from glassgpt.code.completion import Candidate, fill_gap, gap_prompt, scored
from glassgpt.code.gap import Gap, within
from glassgpt.code.isolation import Limits
from glassgpt.code.project_test import check_test, run_tests
from glassgpt.code.ranking import AFTER_CHARACTERS, head_of, token_logprobs
from glassgpt.data.code.sentinels import SENTINELS, Sentinels
from glassgpt.data.tokenizers import load_tokenizer
from glassgpt.errors import GenerationError, UsageError
from glassgpt.generation.options import GenerationOptions

FILE = "def add_xy(x, y):\n    total = \n    return total\n"


@pytest.fixture
def ids(loaded):
    return Sentinels.of(loaded.tokenizer)


def test_a_prompt_is_that_of_training(loaded, ids):
    tokenizer = loaded.tokenizer
    gap = Gap.at(FILE, "2")
    prefix, suffix = tokenizer.encode(gap.prefix), tokenizer.encode(gap.suffix)
    assert gap_prompt(tokenizer, gap, 200) == [ids.end, ids.prefix, *prefix, ids.suffix, *suffix, ids.middle]


@pytest.mark.parametrize("most", [5, 12, 20, 40])
def test_a_long_text_is_cut_at_its_far_ends(loaded, ids, most):
    tokenizer = loaded.tokenizer
    gap = Gap(FILE * 20, FILE * 20)
    prompt = gap_prompt(tokenizer, gap, most)
    assert len(prompt) <= most
    assert prompt[0] == ids.prefix, "a text without its beginning does not begin with end-of-text"
    suffix_at = prompt.index(ids.suffix)
    assert tokenizer.encode(gap.prefix)[-(suffix_at - 1) :] == prompt[1:suffix_at]
    assert tokenizer.encode(gap.suffix)[: len(prompt) - suffix_at - 2] == prompt[suffix_at + 1 : -1]
    short = gap_prompt(tokenizer, Gap("x", FILE * 20), most)
    assert len(short) <= most
    with pytest.raises(GenerationError, match="fewer new tokens"):
        gap_prompt(tokenizer, gap, 4)


def test_nothing_after_the_gap_is_continued_from_left_to_right(loaded, ids):
    gap = Gap(FILE)
    assert gap_prompt(loaded.tokenizer, gap, 200) == [ids.end, *loaded.tokenizer.encode(FILE)]


def test_a_model_without_the_special_tokens_continues_the_prefix():
    tokenizer = load_tokenizer("bytes")
    assert gap_prompt(tokenizer, Gap("ab", "cd"), 10) == [tokenizer.end_of_text, *tokenizer.encode("ab")]
    assert gap_prompt(tokenizer, Gap("a" * 50, "cd"), 10) == tokenizer.encode("a" * 9)


def logprobs_one_by_one(model, tokens):
    """Return the log-probability of each token after the first, (T - 1,)."""
    with torch.no_grad():
        logprobs = model(torch.tensor([tokens[:-1]])).log_softmax(-1)[0]
    return torch.stack([logprobs[at, token] for at, token in enumerate(tokens[1:])])


def test_logprobs_of_several_texts_are_those_of_each_alone(code_model):
    prompt = gap_prompt(code_model.tokenizer, Gap.at(FILE, "2"), 60)
    texts = [code_model.tokenizer.encode(text) for text in ("x + y", "", "xy", "0" * 500)]
    space = code_model.model.config.context_length + 1 - len(prompt)
    for found, text in zip(token_logprobs(code_model.model, prompt, texts), texts, strict=True):
        expected = logprobs_one_by_one(code_model.model, [*prompt, *text[:space]])[len(prompt) - 1 :]
        assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_score_is_the_mean_of_both_estimates(code_model):
    tokenizer, model = code_model.tokenizer, code_model.model
    gap, text = Gap("def f(x):\n    y =", "\n    return y\n"), " x"
    prompt = gap_prompt(tokenizer, gap, 100)
    ((mean, score),) = scored(code_model, gap, prompt, "", [text])
    tokens = tokenizer.encode(text)
    own = logprobs_one_by_one(model, [*prompt, *tokens, tokenizer.end_of_text])[len(prompt) - 1 :]
    before = [tokenizer.end_of_text, *tokenizer.encode(gap.prefix)]
    joint = logprobs_one_by_one(model, [*before, *tokenizer.encode(text + gap.suffix)])[len(before) - 1 :]
    assert mean == pytest.approx(float(own[:-1].mean()), abs=1e-4)
    assert score == pytest.approx(float(own.sum() + joint.sum()) / 2, abs=1e-3)
    # A prompt that lost its white space: it belongs to the text, and is not read twice.
    spaced = Gap("def f(x):\n    y = ", gap.suffix)
    assert scored(code_model, spaced, prompt, " ", ["x"]) == [pytest.approx((mean, score), abs=1e-3)]
    ((mean, score),) = scored(code_model, Gap(gap.prefix), before, "", [text])
    assert score == mean, "nothing follows that could be read"


def test_a_model_without_the_special_tokens_reads_what_follows_the_gap(code_model):
    plain = dataclasses.replace(code_model, tokenizer=load_tokenizer("bytes"))
    gap = Gap("ab", "cd")
    prompt = gap_prompt(plain.tokenizer, gap, 10)
    ((mean, score),) = scored(plain, gap, prompt, "", ["x"])
    expected = logprobs_one_by_one(plain.model, [*prompt, *b"xcd"])[len(prompt) - 1 :]
    assert score == pytest.approx(float(expected.sum()), abs=1e-4)
    assert mean == pytest.approx(float(expected[0]), abs=1e-4)


def test_what_follows_is_read_in_whole_lines():
    assert head_of("a\nb\n") == "a\nb\n"
    assert head_of("\n" + "x = 1\n" * 100) == "\n" + "x = 1\n" * 49
    assert head_of("y" * 400) == "y" * AFTER_CHARACTERS
    assert head_of("\n" + "y" * 400) == "\n" + "y" * (AFTER_CHARACTERS - 1)


def test_candidates_are_different_ranked_and_cut(code_model):
    gap = Gap.at(FILE, "2")
    options = GenerationOptions(max_tokens=12, temperature=1.0, num_samples=8, seed=1)
    candidates = fill_gap(code_model, gap, options, name="a.py")
    assert len({each.text for each in candidates}) == len(candidates) > 1
    assert [each.rank for each in candidates] == sorted(each.rank for each in candidates)
    assert all(within(gap, each.text, "block") == each.text for each in candidates)
    assert not any(name in each.text for each in candidates for name in SENTINELS)
    assert candidates == fill_gap(code_model, gap, options, name="a.py"), "the same seed gives the same candidates"


def test_rank():
    likely, unlikely = Candidate("a", -2.0, True, "stop", -5.0), Candidate("b", -1.0, True, "stop", -9.0)
    wrong, empty = Candidate("c", -0.1, False, "stop", -1.0), Candidate("", float("-inf"), True, "stop", -1.0)
    order = sorted([wrong, empty, unlikely, likely], key=lambda each: each.rank)
    assert order == [likely, unlikely, empty, wrong]


def test_the_test_runs_on_a_copy(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("VALUE = 0\n")
    # Mode "x" fails if the file exists, from the test of another candidate.
    (tmp_path / "check.py").write_text("import mine, sys\nopen('left.txt', 'x').close()\nsys.exit(mine.VALUE != 2)\n")
    command = check_test(f"{shlex.quote(sys.executable)} check.py", file, tmp_path)
    outcomes = run_tests(command, file, ["VALUE = 1\n", "VALUE = 2\n"], tmp_path, Limits())
    assert [outcome.passed for outcome in outcomes] == [False, True]
    assert file.read_text() == "VALUE = 0\n"
    assert not (tmp_path / "left.txt").exists()


def test_tests_that_cannot_be_run(tmp_path, monkeypatch):
    inside, outside = tmp_path / "project" / "a.py", tmp_path / "b.py"
    inside.parent.mkdir()
    for path in (inside, outside):
        path.write_text("x = 1\n")
    with pytest.raises(UsageError, match="is not in it"):
        check_test("pytest", outside, inside.parent)
    with pytest.raises(UsageError, match="no shell could read"):
        check_test("pytest 'a", inside, inside.parent)
    with pytest.raises(UsageError, match="is empty"):
        check_test(" ", inside, inside.parent)
    os.mkfifo(inside.with_name("pipe"))
    with pytest.raises(UsageError, match="cannot copy .*pipe"):
        run_tests(["true"], inside, ["x = 2\n"], inside.parent, Limits())
    monkeypatch.setattr("glassgpt.code.project_test.MAX_PROJECT_BYTES", 3)
    with pytest.raises(UsageError, match="a smaller folder"):
        check_test("pytest", inside, inside.parent)


def test_complete_prints_candidates(code_run, run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    common = ("complete", "mine.py", "--at", "2", "--model", code_run, "--max-tokens", "8", "--samples", "3")
    code, out, err = run_main(*common)
    assert code == 0, err
    assert "1. mean log-probability" in out
    assert "def add_xy(x, y):" in out
    assert (tmp_path / "mine.py").read_text() == FILE
    code, out, err = run_main(*common, "--json", "--test", f"{shlex.quote(sys.executable)} -c 'import mine'")
    assert code == 0, err
    found = json.loads(out)["candidates"]
    assert [each["test_passed"] for each in found] == sorted((each["test_passed"] for each in found), reverse=True)
    assert all(each["test_passed"] is each["parses"] for each in found if each["text"])


def test_python(loaded):
    candidates = glassgpt.api.complete(loaded, "def add_ab(a, b):\n    total = ", "\n", max_tokens=6, temperature=0.0)
    assert len(candidates) == 1
