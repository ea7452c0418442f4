"""`/v1/completions` with a suffix: the text of a gap, the same as `glassgpt.api.complete` writes."""

import pytest
from serving_helpers import run_with

import glassgpt
from glassgpt.code.completion import gap_prompt
from glassgpt.code.gap import Gap, until_less_indented
from glassgpt.code.healing import heal
from glassgpt.data.code.sentinels import SENTINELS
from glassgpt.serving.infill import has_ended
from glassgpt.serving.jobs import Burst
from small_models import attentive_model

PREFIX, SUFFIX = "def add_xy(x, y):\n    total = ", "\n    return total\n"


def test_a_suffix_asks_for_the_text_of_a_gap(loaded):
    body = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 6, "temperature": 0.0}

    async def work(client):
        reply = await client.post("/v1/completions", body)
        plain = await client.post("/v1/completions", {**body, "suffix": None})
        streamed = await client.post("/v1/completions", {**body, "stream": True})
        return reply, plain, streamed

    reply, plain, streamed = run_with(loaded.model, work, tokenizer=loaded.tokenizer)
    assert reply.status == 200, reply.json
    prompt = gap_prompt(loaded.tokenizer, heal(Gap(PREFIX, SUFFIX))[0], loaded.model.config.context_length - 5)
    assert reply.json["usage"]["prompt_tokens"] == len(prompt)
    assert plain.json["usage"]["prompt_tokens"] == len(loaded.tokenizer.encode(PREFIX))
    text = reply.json["choices"][0]["text"]
    (candidate,) = glassgpt.api.complete(loaded, PREFIX, SUFFIX, extent="document", max_tokens=6, temperature=0.0)
    assert text == candidate.text
    assert "".join(each["choices"][0]["text"] for each in streamed.events if each["choices"]) == text


def test_special_tokens_end_the_text_of_a_gap_and_an_empty_suffix_is_none(loaded):
    likely = {str(loaded.tokenizer.special_tokens[SENTINELS[0]]): 100}
    prompt = PREFIX.rstrip()  # with a blank at its end, the text would have to begin with it
    body = {"prompt": prompt, "max_tokens": 6, "temperature": 0.0, "logit_bias": likely}

    async def work(client):
        ended = await client.post("/v1/completions", {**body, "suffix": SUFFIX})
        plain = await client.post("/v1/completions", {**body, "suffix": ""})
        return ended, plain

    ended, plain = run_with(loaded.model, work, tokenizer=loaded.tokenizer)
    assert (ended.json["choices"][0]["text"], ended.json["choices"][0]["finish_reason"]) == ("", "stop")
    assert plain.json["usage"]["prompt_tokens"] == len(loaded.tokenizer.encode(prompt))


@pytest.mark.parametrize("form", [{"regex": "[a-z]+"}, {"choice": ["x", "y"]}])
def test_the_text_of_a_gap_can_have_a_form(loaded, form):
    """The prompt ends with white space, which the text must not begin with."""
    pytest.importorskip("llguidance")
    body = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 6, "temperature": 0.0} | form
    reply = run_with(loaded.model, lambda client: client.post("/v1/completions", body), tokenizer=loaded.tokenizer)
    assert reply.status == 200, reply.json
    text = reply.json["choices"][0]["text"]
    assert text.isalpha()
    options = {"regex": form.get("regex"), "choices": form.get("choice", ())}
    completed = glassgpt.api.complete(
        loaded, PREFIX, SUFFIX, extent="document", max_tokens=6, temperature=0.0, **options
    )
    assert [each.text for each in completed] == [text]


@pytest.mark.parametrize("change", [{"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"echo": True}, {"max_tokens": 63}])
def test_what_a_suffix_cannot_be_combined_with(loaded, change):
    body = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 6} | change
    reply = run_with(loaded.model, lambda client: client.post("/v1/completions", body), tokenizer=loaded.tokenizer)
    assert reply.status == 400
    assert reply.json["error"]["param"] == ("suffix" if "max_tokens" not in change else None)


def test_a_model_without_the_special_tokens_refuses_a_suffix():
    body = {"prompt": "a", "suffix": "b", "max_tokens": 2}
    reply = run_with(attentive_model(), lambda client: client.post("/v1/completions", body))
    assert reply.status == 400
    assert "not trained to fill in the middle" in reply.json["error"]["message"]


VIM = {
    "id_slot": 0, "input_prefix": "def add_xy(x, y):\n", "input_suffix": "\n    return total\n", "input_extra": [],
    "prompt": "    total = ", "n_predict": 128, "stop": [], "n_indent": 4, "top_k": 40, "top_p": 0.90,
    "samplers": ["top_k", "top_p", "infill"], "stream": False, "cache_prompt": True, "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": [
        "content", "timings/prompt_n", "timings/prompt_ms", "timings/prompt_per_token_ms", "timings/prompt_per_second",
        "timings/predicted_n", "timings/predicted_ms", "timings/predicted_per_token_ms", "timings/predicted_per_second",
        "truncated", "tokens_cached",
    ],
}  # fmt: skip
"""A request of llama.vim (autoload/llama.vim, `llama#fim`)."""
VSCODE = {
    "id_slot": 0, "input_prefix": "def add_xy(x, y):\n", "input_suffix": "\n    return total\n",
    "input_extra": [{"text": "import os\n", "time": 1, "filename": "a.py"}], "prompt": "    total = ", "n_predict": 128,
    "n_cmpl": 3, "top_k": 40, "top_p": 0.99, "stream": False, "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True, "n_indent": 4, "t_max_prompt_ms": 500, "t_max_predict_ms": 500,
}  # fmt: skip
"""A request of llama.vscode (src/llama-server.ts, `createRequestPayload`)."""


def infill(loaded, *bodies):
    async def work(client):
        return [await client.post("/infill", body) for body in bodies]

    return run_with(loaded.model, work, tokenizer=loaded.tokenizer)


def test_infill_answers_llama_vim(loaded):
    (reply,) = infill(loaded, {**VIM, "temperature": 0.0, "seed": 1})
    assert reply.status == 200, reply.json
    assert set(reply.json) == set(VIM["response_fields"])
    half = loaded.model.config.context_length // 2
    options = {"max_tokens": half, "temperature": 0.0}
    (candidate,) = glassgpt.api.complete(loaded, PREFIX, SUFFIX, extent="document", **options)
    assert reply.json["content"] == until_less_indented(candidate.text, 4)
    gap = heal(Gap(PREFIX, SUFFIX))[0]
    prompt = gap_prompt(loaded.tokenizer, gap, loaded.model.config.context_length + 1 - half)
    assert reply.json["timings/prompt_n"] == len(prompt)
    assert 0 < reply.json["timings/predicted_n"] <= half


def test_infill_answers_llama_vscode_with_several_completions(loaded):
    several, one, warming = infill(loaded, VSCODE, {**VSCODE, "n_cmpl": 1}, {**VSCODE, "n_predict": 0, "samplers": []})
    assert [each["index"] for each in several.json] == [0, 1, 2]
    assert all(isinstance(each["content"], str) and each["timings"]["predicted_n"] for each in several.json)
    assert one.json["stop_type"] in ("eos", "word", "limit")
    assert warming.json["content"] == ""


def test_infill_continues_the_end_of_a_file_and_ends_at_a_stop_text(loaded):
    at_end = {**VIM, "input_suffix": "\n\n", "temperature": 0.0, "response_fields": []}
    (reply,) = infill(loaded, at_end)
    assert reply.json["tokens_evaluated"] == len(loaded.tokenizer.encode(PREFIX.rstrip())) + 1
    text = reply.json["content"]
    assert len(text) > 1
    (stopped,) = infill(loaded, {**at_end, "stop": [text[1]]})
    assert stopped.json["content"] == text[: text.index(text[1])]


@pytest.mark.parametrize(
    ("burst", "n_indent", "is_late", "expected"),
    [
        (Burst(0, "x = 1"), 4, True, False),
        (Burst(0, "x = 1\n    y"), 4, False, False),
        (Burst(0, "x = 1\n    y"), 4, True, True),
        (Burst(0, "x = 1\n\ny"), 4, False, True),
        (Burst(0, "x = 1\n\ny"), 0, False, False),
        (Burst(0, "x", finish_reason="length"), 4, False, True),
    ],
)
def test_a_completion_ends_by_itself_with_its_block_or_after_a_line_when_time_is_over(
    burst, n_indent, is_late, expected
):
    assert has_ended(burst, n_indent, is_late=is_late) is expected


def test_a_text_ends_before_a_line_that_is_less_indented():
    assert until_less_indented("x = 1\n    y = 2\n\n  \nz", 4) == "x = 1\n    y = 2"
    assert until_less_indented("x = 1\n\ty\n", 1) == "x = 1\n\ty\n"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n_predict": -1}, "n_predict"),
        ({"stream": True}, "stream"),
        ({"n_cmpl": 1000}, "n_cmpl"),
        ({"prompt": 3}, "prompt"),
    ],
)
def test_infill_refuses_what_it_cannot_do(loaded, change, param):
    (reply,) = infill(loaded, VIM | change)
    assert (reply.status, reply.json["error"]["param"]) == (400, param)


def test_a_model_without_the_special_tokens_has_no_infill():
    reply = run_with(attentive_model(), lambda client: client.post("/infill", VIM))
    assert reply.status == 400


def test_the_template_of_continue_is_read_with_its_special_tokens(loaded):
    template = "<|fim_prefix|>{{{prefix}}}<|fim_suffix|>{{{suffix}}}<|fim_middle|>"  # promptTemplates.autocomplete
    body = {
        "model": None, "max_tokens": 6, "temperature": 0.0, "stream": True, "parse_special_tokens": True,
        "stop": ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>", "<|endoftext|>", "/src/", "#- coding: utf-8"],
        "prompt": template.replace("{{{prefix}}}", PREFIX).replace("{{{suffix}}}", SUFFIX),
    }  # fmt: skip

    async def work(client):
        return await client.post("/v1/completions", {**body, "stream_options": {"include_usage": True}})

    reply = run_with(loaded.model, work, tokenizer=loaded.tokenizer)
    prompt = gap_prompt(loaded.tokenizer, Gap(PREFIX, SUFFIX), loaded.model.config.context_length - 5)
    assert reply.events[-1]["usage"]["prompt_tokens"] == len(prompt) - 1  # without end-of-text at the beginning
