"""Prompts and forms of `generate`: bad prompts by line, special tokens, and output that is cut before it is complete."""

import json

import pytest

from glassgpt.cli.generation_flags import read_prompts
from glassgpt.data import load_tokenizer
from glassgpt.errors import GenerationError, UsageError
from glassgpt.generation.engine.generate import iter_samples
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.strategies import generate_samples
from glassgpt.generation.strategy_options import BeamOptions, ContrastiveOptions
from small_models import CONTEXT, attentive_model

BYTES = load_tokenizer("bytes")
SHORT = ("--max-tokens", 4, "--seed", 1)


@pytest.fixture(scope="module")
def model():
    return attentive_model()


@pytest.fixture
def prompts_file(tmp_path):
    """Lines 1, 4 and 6 are good, 2 is blank, 3 too long, 5 not UTF-8."""
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"the\n\n" + b"x" * 200 + b"\r\nnow it\n\xff\xfe\ntoday \n")
    return file


def test_bad_prompts_are_reported_by_line_and_the_others_are_generated(run_main, nano_run, prompts_file):
    code, out, err = run_main("generate", nano_run, "--prompts", prompts_file, *SHORT, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [(line["line"], line["prompt_text"]) for line in lines] == [(1, "the"), (4, "now it"), (6, "today ")]
    assert "prompts.txt, line 3: the prompt has 200 tokens" in err
    assert "prompts.txt, line 5: not UTF-8" in err
    assert "2 of 5 prompts failed" in err
    code, alone, _ = run_main("generate", nano_run, "--prompt", "now it", *SHORT, "--json")
    assert code == 0
    assert json.loads(alone)["text"] == lines[1]["text"]


@pytest.mark.parametrize(
    "arguments", [(), ("--json", "--logprobs", 1), ("--explain",), ("--beams", 2), ("--contrastive-k", 2)], ids=str
)
def test_every_kind_of_output_leaves_bad_prompts_out(run_main, nano_run, prompts_file, arguments):
    sampled = SHORT if not {"--beams", "--contrastive-k"} & set(arguments) else SHORT[:2]
    code, out, err = run_main("generate", nano_run, "--prompts", prompts_file, *sampled, *arguments)
    assert code == 1
    assert "now it" in out
    assert "today " in out
    assert "line 3: the prompt has" in err


def test_prompts_given_one_by_one_are_named_by_number(run_main, nano_run):
    code, out, err = run_main("generate", nano_run, "--prompt", "now", "--prompt", "x" * 99, *SHORT)
    assert code == 1
    assert "prompt 2 of 2: the prompt has 99 tokens" in err
    assert "now" in out


def test_file_without_a_readable_line_is_an_error(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("한국어".encode("cp949") + b"\n")
    with pytest.raises(UsageError, match="line 1: not UTF-8"):
        read_prompts((), file)
    assert read_prompts(("a",), file).texts == ["a"]


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\n\xb5\xc1\n readable \n\xff\n"


def test_binary_prompts_file_is_one_error(run_main, nano_run, tmp_path):
    file = tmp_path / "picture.png"
    file.write_bytes(PNG)
    code, out, err = run_main("generate", nano_run, "--prompts", file, "--prompt", "a", *SHORT)
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"error: {file} is binary, not text; give a text file in UTF-8 with one prompt per line"
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-be"])
def test_encoding_of_a_prompts_file_that_is_not_utf_8_is_named(tmp_path, encoding):
    file = tmp_path / "prompts.txt"
    file.write_bytes("It was a dark and stormy night.\nOnce upon a time\n".encode(encoding))
    with pytest.raises(UsageError, match=rf"looks like {encoding.upper()}.*; convert it to UTF-8"):
        read_prompts((), file)


def test_unreadable_lines_after_the_first_two_are_counted(run_main, nano_run, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("안녕하세요\n".encode("cp949") * 40)
    code, _, err = run_main("generate", nano_run, "--prompts", file, *SHORT)
    assert code == 2
    assert [line.partition(" (")[0] for line in err.splitlines()] == [
        f"error: {file}, line 1: not UTF-8",
        f"{file}, line 2: not UTF-8",
        f"{file}: 38 more lines are not UTF-8",
    ]
    code, out, err = run_main("generate", nano_run, "--prompts", file, "--prompt", "now", *SHORT)
    assert code == 1
    assert "now" in out
    assert len([line for line in err.splitlines() if "not UTF-8" in line]) == 3
    assert "40 of 41 prompts failed" in err


@pytest.mark.parametrize(
    ("count", "last"), [(2, "line 2: not UTF-8"), (3, "line 3: not UTF-8"), (4, ": 2 more lines are")]
)
def test_a_single_unreadable_line_is_named_instead_of_counted(tmp_path, count, last):
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"\xff\n" * count)
    with pytest.raises(UsageError) as caught:
        read_prompts((), file)
    lines = str(caught.value).splitlines()
    assert len(lines) == min(count, 3)
    assert last in lines[-1]


@pytest.mark.parametrize(
    "strategy", [None, BeamOptions(2), ContrastiveOptions()], ids=["sampling", "beams", "contrastive"]
)
def test_prompt_that_allows_no_token_does_not_stop_the_others(model, strategy):
    """It fails in the middle of its text, because a processor forbids everything."""

    def forbid_after_x(logits, histories):
        blocked = [bytes(history.prompt) == b"x" and len(history.output) == 2 for history in histories]
        for row, is_blocked in enumerate(blocked):
            logits[row] += float("-inf") if is_blocked else 0.0
        return logits

    options = GenerationOptions(max_tokens=5, temperature=0, processors=(forbid_after_x,))
    failed = []
    prompts = ["a", "x", "b", "y" * (CONTEXT + 1), "c"]
    found = list(
        generate_samples(
            model, BYTES, prompts, options, strategy, lambda index, error: failed.append((index, str(error)))
        )
    )
    assert sorted(index for index, _ in failed) == [1, 3]
    assert [len(samples) for samples in found] == [1, 0, 1, 0, 1]
    for index in (0, 2, 4):
        (alone,) = generate_samples(model, BYTES, [prompts[index]], options, strategy)
        assert alone[0].tokens == found[index][0].tokens
    with pytest.raises(GenerationError):
        list(generate_samples(model, BYTES, prompts[:3], options, strategy))


def test_wrong_option_is_one_error_not_one_per_prompt(model):
    failed = []
    with pytest.raises(GenerationError, match="beam search does not support"):
        generate_samples(
            model, BYTES, ["a", "b"], GenerationOptions(top_k=3), BeamOptions(2), lambda *told: failed.append(told)
        )
    assert failed == []


def test_last_prompt_may_fail(model):
    failed = []
    prompts = ["a", "y" * (CONTEXT + 1)]
    found = iter_samples(
        model, BYTES, prompts, GenerationOptions(max_tokens=2), None, lambda *told: failed.append(told)
    )
    assert [len(samples) for samples in found] == [1, 0]
    assert [index for index, _ in failed] == [1]


def test_special_token_in_a_prompt_is_text_unless_asked(run_main, nano_run):
    asked = ("generate", nano_run, *SHORT, "--json", "--prompt", "<|endoftext|>")
    code, as_text, err = run_main(*asked)
    assert code == 0
    assert (
        "<|endoftext|> in a prompt is ordinary text; to read it as the special token, add --parse-special-tokens" in err
    )
    code, as_token, err = run_main(*asked, "--parse-special-tokens")
    assert code == 0
    assert "ordinary text" not in err
    _, without, _ = run_main(*asked[:-2])
    assert json.loads(as_token)["tokens"] == json.loads(without)["tokens"]
    assert json.loads(as_text)["tokens"] != json.loads(without)["tokens"]
    _, _, err = run_main("generate", nano_run, *SHORT, "--prompt", "endoftext")
    assert "ordinary text" not in err
    _, _, err = run_main("inspect", nano_run, "--text", "--prompt", "a<|endoftext|>")
    assert "note: <|endoftext|> in the text to inspect is ordinary text" in err
    code, out, err = run_main("tokenize", "a<|endoftext|>", "-t", "bytes", "--parse-special-tokens")
    assert (code, err) == (0, "")
    assert "2 tokens" in out


@pytest.mark.parametrize(
    "text", ["", "a", "<|endoftext|>", "a<|endoftext|><|endoftext|>b", "<|endoftext", "가<|endoftext|>"]
)
def test_encoding_with_special_tokens(text):
    parts = text.split("<|endoftext|>")
    expected = BYTES.encode(parts[0])
    for part in parts[1:]:
        expected += [BYTES.end_of_text, *BYTES.encode(part)]
    assert BYTES.encode_with_special_tokens(text) == expected


@pytest.mark.parametrize("strategy", [(), ("--beams", 2)], ids=["sampling", "beams"])
@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize(
    ("form", "is_complete"),
    [
        (("--regex", "[0-9]{9}"), False),
        (("--regex", "[0-9]{4}"), True),
        (("--regex", "[0-9]+"), True),
        (("--choice", "a long choice"), False),
        (
            ("--json-schema", '{"type": "object", "properties": {"abc": {"type": "integer"}}, "required": ["abc"]}'),
            False,
        ),
    ],
    ids=str,
)
def test_form_that_is_cut_is_a_failure(run_main, nano_run, form, is_complete, as_json, strategy):
    """At four tokens; one that is complete there is none, although the text ends by its length."""
    pytest.importorskip("llguidance")
    sampled = SHORT[:2] if strategy else SHORT
    code, out, err = run_main("generate", nano_run, "--prompt", "now ", *sampled, *form, *as_json, *strategy)
    assert out.strip()
    assert (code, "does not match the form asked for" in err) == ((0, False) if is_complete else (1, True))


def test_text_that_a_stop_string_ends_need_not_match_its_form(run_main, nano_run):
    pytest.importorskip("llguidance")
    asked = ("--regex", "[0-9]{3}x[0-9]{9}", "--stop", "x", "--max-tokens", 8, "--seed", 1)
    code, _, err = run_main("generate", nano_run, "--prompt", "now ", *asked)
    assert code == 0, err
