"""`/v1/completions` with a suffix: the text of a gap, the same as `glassgpt.api.complete` writes."""

import pytest
from serving_helpers import run_with

import glassgpt
from glassgpt.code.completion import gap_prompt
from glassgpt.code.gap import Gap
from glassgpt.data.code.sentinels import SENTINELS
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
    prompt = gap_prompt(loaded.tokenizer, Gap(PREFIX, SUFFIX), loaded.model.config.context_length - 5)
    assert reply.json["usage"]["prompt_tokens"] == len(prompt)
    assert plain.json["usage"]["prompt_tokens"] == len(loaded.tokenizer.encode(PREFIX))
    text = reply.json["choices"][0]["text"]
    (candidate,) = glassgpt.api.complete(loaded, PREFIX, SUFFIX, extent="document", max_tokens=6, temperature=0.0)
    assert text == candidate.text
    assert "".join(each["choices"][0]["text"] for each in streamed.events if each["choices"]) == text


def test_special_tokens_end_the_text_of_a_gap_and_an_empty_suffix_is_none(loaded):
    likely = {str(loaded.tokenizer.special_tokens[SENTINELS[0]]): 100}
    body = {"prompt": PREFIX, "max_tokens": 6, "temperature": 0.0, "logit_bias": likely}

    async def work(client):
        ended = await client.post("/v1/completions", {**body, "suffix": SUFFIX})
        plain = await client.post("/v1/completions", {**body, "suffix": ""})
        return ended, plain

    ended, plain = run_with(loaded.model, work, tokenizer=loaded.tokenizer)
    assert (ended.json["choices"][0]["text"], ended.json["choices"][0]["finish_reason"]) == ("", "stop")
    assert plain.json["usage"]["prompt_tokens"] == len(loaded.tokenizer.encode(PREFIX))


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
