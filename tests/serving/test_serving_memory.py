"""A shortage of memory through the server: fewer texts at a time, the same texts, and the server continues."""

import asyncio
import re

import pytest
import torch
from serving_helpers import run_with

from small_models import attentive_model

PROMPTS = ("once", "the king", "a", "to be")


@pytest.fixture(scope="module")
def model():
    return attentive_model()


def body(at, **changes):
    return {"prompt": PROMPTS[at], "max_tokens": 16, "temperature": 0.9, "seed": at, **changes}


def texts(replies):
    assert [reply.status for reply in replies] == [200] * len(replies)
    events = [reply.events if b"data: " in reply.body else [reply.json] for reply in replies]
    return ["".join(choice["text"] for event in each for choice in event["choices"]) for each in events]


def run_short_of_memory(thread, most):
    """Make decoding steps with more than `most` sequences run out of memory; return the function that ends this."""
    decoder = thread._engine._scheduler._decoder
    decode = decoder.decode

    def limited(sequences):
        if len(sequences) > most:
            raise torch.OutOfMemoryError("simulated")
        return decode(sequences)

    decoder.decode = limited
    return lambda: setattr(decoder, "decode", decode)


def test_texts_stay_the_same_when_memory_runs_out(model, caplog):
    async def work(client):
        alone = texts([await client.post("/v1/completions", body(at)) for at in range(4)])
        run_short_of_memory(client.context.models["tiny"].current.thread, 2)
        requests = (client.post("/v1/completions", body(at, stream=at % 2 == 0)) for at in range(4))
        assert texts(await asyncio.gather(*requests)) == alone
        assert (await client.get("/health")).status == 200

    run_with(model, work)
    assert re.search(r"out of memory with [34] sequences at a time; continuing with [12] \(same texts\)", caplog.text)


def test_without_memory_for_one_text_requests_fail_and_later_ones_do_not(model, caplog):
    async def work(client):
        alone = texts([await client.post("/v1/completions", body(1))])
        restore = run_short_of_memory(client.context.models["tiny"].current.thread, 0)
        failed = await asyncio.gather(client.post("/v1/completions", body(0)), client.post("/v1/completions", body(1)))
        assert [reply.status for reply in failed] == [500, 500]
        assert "out of memory with a single sequence" in failed[0].json["error"]["message"]
        restore()
        assert texts([await client.post("/v1/completions", body(1))]) == alone
        assert (await client.get("/health")).status == 200

    run_with(model, work)
