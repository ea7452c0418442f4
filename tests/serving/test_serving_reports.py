"""Reports from other servers' trackers (R1 to R15 of the notes), each as a test; neighbors' streams must not change."""

import asyncio
import json
import threading
import time

import pytest
from serving_helpers import BYTES, run_with, serving

from glassgpt.generation.engine.generate import generate
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel
from glassgpt.serving.limits import ServerLimits
from small_models import attentive_model

SETTINGS = {"prompt": "once", "max_tokens": 24, "temperature": 0.9, "seed": 11, "logprobs": 0}
ENDLESS = {"prompt": "a", "max_tokens": 100_000, "overflow": "re-prefill", "ignore_eos": True}
"""A request that runs until it is cancelled."""


@pytest.fixture(scope="module")
def model():
    return attentive_model()


async def neighbor(client, **changes):
    """Return text and log-probabilities of a stream that the other requests must not change."""
    reply = await client.post("/v1/completions", {**SETTINGS, "stream": True, **changes})
    assert reply.status == 200
    choices = [choice for event in reply.events for choice in event["choices"]]
    return "".join(choice["text"] for choice in choices), [
        value for choice in choices for value in choice["logprobs"]["token_logprobs"]
    ]


async def beside_neighbor(client, *requests):
    """Send requests while a neighbor is streaming; check the neighbor and return the replies."""
    alone = await neighbor(client)
    among, *replies = await asyncio.gather(neighbor(client), *requests)
    assert among == alone
    return replies


def rejected(model, *bodies, path="/v1/completions", **options):
    """Check that each body is answered with 400 while a neighbor is streaming; return the messages."""

    async def work(client):
        replies = await beside_neighbor(client, *(client.post(path, body) for body in bodies))
        assert [reply.status for reply in replies] == [400] * len(bodies)
        assert (await client.get("/health")).status == 200
        return [reply.json["error"]["message"] for reply in replies]

    return run_with(model, work, **options)


def test_r1_invalid_ids_are_refused(model):
    messages = rejected(
        model,
        {"prompt": [-1]},
        {"prompt": [[65], [10**6]]},
        {"prompt": "a", "stop_token_ids": [257], "min_tokens": 3},
        {"prompt": "a", "logit_bias": {"257": 1}},
        {"prompt": [True]},
        {"prompt": [2**70]},
    )
    assert "token id -1" in messages[0]
    assert "257" in messages[2]


def test_r2_numbers_that_are_not_finite_are_refused(model):
    rejected(
        model,
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": 1e400}',
        b'{"prompt": "a", "temperature": Infinity}',
        {"prompt": "a", "presence_penalty": 1e308},
        {"prompt": "a", "logit_bias": {"65": 1e308}},
        {"prompt": "a", "repetition_penalty": 1e-300},
    )


def test_r3_malformed_grammar_after_a_valid_one(model):
    pytest.importorskip("llguidance")

    async def work(client):
        good = {"prompt": "a", "max_tokens": 8, "regex": "[ab]{4}", "seed": 1}
        bad = {"prompt": "a", "regex": "((("}
        first, second, third = await beside_neighbor(
            client, client.post("/v1/completions", good), client.post("/v1/completions", bad),
            client.post("/v1/completions", {"prompt": "a", "json_schema": "{"}),
        )  # fmt: skip
        assert (first.status, second.status, third.status) == (200, 400, 400)
        assert second.json["error"]["param"] == "regex"
        again = await client.post("/v1/completions", good)
        assert again.json["choices"] == first.json["choices"]
        assert len(first.json["choices"][0]["text"]) == 4

    run_with(model, work)


def test_r4_deep_json_is_refused_and_the_loop_stays_responsive(model):
    deep = b'{"type": "object", "properties": {"a": ' * 5000 + b"{}" + b"}}" * 5000
    bodies = [
        b'{"prompt": "a", "json_schema": ' + deep + b"}",
        b'{"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_schema", "json_schema": '
        b'{"schema": ' + deep + b"}}}",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"prompt": ' + b"[" * 100_000,
    ]

    async def work(client):
        lag = asyncio.create_task(longest_lag())
        await asyncio.sleep(0)
        replies = [await client.post("/v1/completions", body) for body in bodies]
        assert [reply.status for reply in replies] == [400] * 4
        assert await lag < 0.2

    rejected(model, *bodies)
    run_with(model, work)


async def longest_lag(seconds=0.3):
    """Return the longest time for which the event loop did not run."""
    longest, end = 0.0, time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        await asyncio.sleep(0.001)
        longest = max(longest, time.monotonic() - now)
    return longest


def test_r5_lone_surrogates_are_refused(model):
    rejected(model, b'{"prompt": "\\ud800"}', b'{"prompt": "a", "stop": ["\\ud800"]}', b'{"prompt": "\xed\xa0\x80"}')


@pytest.mark.parametrize("stream", [False, True])
def test_r6_dropped_request_frees_its_slot(model, stream):
    async def work(client):
        version = client.context.models["tiny"].current
        alone = await neighbor(client)
        left = client.post("/v1/completions", {**ENDLESS, "n": 3, "stream": stream}, leave_after=0.1)
        among, _ = await asyncio.gather(neighbor(client), left)
        assert among == alone
        began = time.monotonic()
        while version.n_sequences or not version.thread._engine.is_idle:
            await asyncio.sleep(0.005)
            assert time.monotonic() - began < 1

    run_with(model, work)


@pytest.mark.slow
def test_r7_aborts_leave_nothing_behind(model):  # takes seconds: a thousand requests, as in the report
    async def work(client):
        version = client.context.models["tiny"].current
        thread = version.thread
        for _ in range(10):
            await asyncio.gather(
                *(
                    client.post("/v1/completions", {**ENDLESS, "stream": at % 2 == 0}, leave_after=at * 0.0004)
                    for at in range(100)
                )
            )
        assert (await neighbor(client))[0]
        await asyncio.sleep(0.05)
        assert not version.jobs
        assert not thread._receivers
        assert not thread._tasks
        assert not thread._outbox._bursts
        assert not thread._engine._outputs
        assert client.context.executor._work_queue.empty()

    run_with(model, work)


def test_r8_dead_engine_is_reported(model, caplog):
    async def work(client):
        served = client.context.models["tiny"]

        def broken(chunk):
            raise SystemExit("dead")

        waiting = asyncio.create_task(client.post("/v1/completions", ENDLESS))
        await asyncio.sleep(0.05)
        served.current.thread._engine.step = lambda: broken(None)
        reply = await asyncio.wait_for(waiting, 5)
        assert reply.status == 503
        assert (await client.get("/health")).status == 503
        assert (await client.post("/v1/completions", SETTINGS)).status == 503

    run_with(model, work)


def test_r8_stuck_engine_is_reported(model):
    async def work(client):
        served = client.context.models["tiny"]
        engine = served.current.thread._engine
        step = engine.step
        waiting = asyncio.create_task(client.post("/v1/completions", ENDLESS))
        await asyncio.sleep(0.02)

        def slow():
            time.sleep(0.6)
            return step()

        engine.step = slow
        await asyncio.sleep(0.35)
        assert (await client.get("/health")).status == 503
        served.check()
        reply = await asyncio.wait_for(waiting, 2)
        assert reply.status == 503
        engine.step = step

    run_with(model, work, limits=ServerLimits(stuck_seconds=0.2))


def test_r9_probes_during_a_long_prefill(monkeypatch):
    model = attentive_model(context_length=2048)

    async def work(client):
        features, probed, waited = LanguageModel.features, threading.Event(), []

        def slow(self, *arguments):
            waited.append(probed.wait(60))
            return features(self, *arguments)

        version = client.context.models["tiny"].current
        monkeypatch.setattr(LanguageModel, "features", slow)  # the engine has a copy of the model
        request = asyncio.create_task(client.post("/v1/completions", {"prompt": [65] * 2000, "max_tokens": 1}))
        generated = version.thread._engine
        probes = 0
        while not request.done():
            assert (await client.get("/health")).status == 200
            assert (await client.get("/ready")).status == 200
            probes += 1
            if probes == 3:
                probed.set()
            await asyncio.sleep(0.02)
        assert (await request).status == 200
        assert probes >= 3
        assert waited
        assert all(waited)
        assert generated is version.thread._engine

    run_with(model, work)


def test_r10_every_prompt_gets_its_own_text(model):
    prompts = [f"prompt {number}" for number in range(15)] + ["prompt 3"]

    async def work(client):
        body = {"prompt": prompts, "max_tokens": 8, "temperature": 0.7, "top_p": 0.9, "seed": 5}
        return (await client.post("/v1/completions", body)).json["choices"]

    choices = run_with(model, work)
    options = GenerationOptions(max_tokens=8, temperature=0.7, top_p=0.9, seed=5)
    assert [choice["index"] for choice in choices] == list(range(16))
    assert [choice["text"] for choice in choices] == [generate(model, BYTES, each, options)[0].text for each in prompts]


@pytest.mark.slow
def test_r11_seeded_requests_beside_unseeded_ones(model):
    async def work(client):
        alone = await neighbor(client)
        unseeded = [client.post("/v1/completions", {"prompt": "x" * (1 + at), "max_tokens": 20}) for at in range(22)]
        mixed = await asyncio.gather(*(neighbor(client) for _ in range(22)), *unseeded)
        assert mixed[:22] == [alone] * 22
        seeds = {reply.json["choices"][0]["seed"] for reply in mixed[22:]}
        assert len(seeds) == 22

    run_with(model, work, slots=8)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["한국어", "👩‍🚀🇰🇷"])
def test_r12_deltas_of_incomplete_characters_sum_to_the_text(model, text):
    tokens = text.encode()

    async def work(client):
        for length in range(1, len(tokens) + 1):
            forced = {
                "messages": [{"role": "user", "content": "x"}], "max_tokens": length, "temperature": 0,
                "logprobs": True, "choice": [text],
            }  # fmt: skip
            whole = (await client.post("/v1/chat/completions", forced)).json["choices"][0]
            parts = (await client.post("/v1/chat/completions", {**forced, "stream": True})).events
            deltas = [part["choices"][0]["delta"].get("content", "") for part in parts if part["choices"]]
            assert "".join(deltas) == whole["message"]["content"] == tokens[:length].decode(errors="replace")
            assert [entry["bytes"] for entry in whole["logprobs"]["content"]] == [[byte] for byte in tokens[:length]]

    pytest.importorskip("llguidance")
    run_with(model, work)


@pytest.mark.parametrize("stop", [["ab"], ["a", "ab\n"], "b\n"])
def test_r13_stop_strings_do_not_leak(model, stop):
    pytest.importorskip("llguidance")
    text = "xyab\nz"
    cut = min(text.index(each) for each in ([stop] if isinstance(stop, str) else stop))

    async def work(client):
        body = {"prompt": "q", "choice": [text], "stop": stop, "logprobs": 0, "max_tokens": 20}
        whole = (await client.post("/v1/completions", body)).json["choices"][0]
        parts = (await client.post("/v1/completions", {**body, "stream": True})).events
        for choices in ([whole], [part["choices"][0] for part in parts]):
            assert "".join(choice["text"] for choice in choices) == text[:cut]
            tokens = [token for choice in choices for token in choice["logprobs"]["tokens"]]
            assert "".join(tokens) == text[:cut]
            assert choices[-1]["finish_reason"] == "stop"

    run_with(model, work)


def test_r14_usage_offsets_and_minus_infinity(model):
    async def work(client):
        body = {"prompt": "한a", "n": 2, "max_tokens": 8, "ignore_eos": True, "echo": True, "logprobs": 3}
        whole = (await client.post("/v1/completions", {**body, "seed": 4})).json
        assert whole["usage"] == {"prompt_tokens": 4, "completion_tokens": 16, "total_tokens": 20}
        streamed = await client.post(
            "/v1/completions", {**body, "seed": 4, "stream": True, "stream_options": {"include_usage": True}}
        )
        assert streamed.events[-1]["choices"] == []
        assert streamed.events[-1]["usage"] == whole["usage"]
        for choice in whole["choices"]:
            parts = [part for event in streamed.events for part in event["choices"] if part["index"] == choice["index"]]
            assert "".join(part["text"] for part in parts) == choice["text"]
            for key, expected in choice["logprobs"].items():
                assert [value for part in parts for value in part["logprobs"][key]] == expected
            offsets = choice["logprobs"]["text_offset"]
            assert offsets[:5] == [0, 0, 0, 1, 2]
            assert offsets == sorted(offsets)
            assert choice["logprobs"]["token_logprobs"][0] is None
        json.dumps(whole, allow_nan=False)

    run_with(model, work)


def test_r14_impossible_tokens_have_a_finite_logprob():
    from glassgpt.generation.engine.logprobs import TokenLogprobs
    from glassgpt.serving import formatting

    each = TokenLogprobs(65, -float("inf"), ((66, -0.5), (65, -float("inf"))))
    assert formatting.completion_logprobs(BYTES, [(0, each)])["token_logprobs"] == [-9999.0]
    assert formatting.chat_logprobs(BYTES, [(0, each)])["content"][0]["logprob"] == -9999.0


def test_r15_two_live_requests_with_one_id(model):
    async def work(client):
        headers = {"x-request-id": "same"}
        replies = await asyncio.gather(
            *(client.post("/v1/completions", SETTINGS, headers=headers) for _ in range(2)),
        )
        assert [reply.headers["x-request-id"] for reply in replies] == ["same", "same"]
        assert replies[0].json["choices"] == replies[1].json["choices"]
        assert replies[0].json["id"] != replies[1].json["id"]
        strange = await client.post("/v1/completions", SETTINGS, headers={"x-request-id": "a b"})
        assert strange.headers["x-request-id"].startswith("req_")

    run_with(model, work)


def test_queue_is_bounded(model):
    async def work(client):
        running = [asyncio.create_task(client.post("/v1/completions", ENDLESS, leave_after=0.4)) for _ in range(5)]
        await asyncio.sleep(0.1)
        refused = await client.post("/v1/completions", SETTINGS)
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json["error"]["type"] == "rate_limit_error"
        metrics = (await client.get("/metrics")).body.decode()
        assert 'glassgpt:admission_rejections_total{reason="queue_full"} 1.0' in metrics
        assert 'glassgpt:num_requests_running{model_name="tiny"} 4.0' in metrics
        await asyncio.gather(*running)
        assert (await client.post("/v1/completions", SETTINGS)).status == 200

    run_with(model, work, limits=ServerLimits(max_queue=1))


def test_deadline_ends_a_request(model):
    async def work(client):
        reply = await client.post("/v1/completions", ENDLESS)
        assert reply.status == 504
        assert reply.headers["x-should-retry"] == "false"
        streamed = await client.post("/v1/completions", {**ENDLESS, "stream": True})
        assert streamed.status == 200
        assert streamed.events[-1]["error"]["code"] == "timeout"
        assert streamed.body.endswith(b"data: [DONE]\n\n")

    run_with(model, work, limits=ServerLimits(request_seconds=0.2))


def test_requests_end_at_shutdown(model):
    async def main():
        async with serving(model) as client:
            waiting = asyncio.create_task(client.post("/v1/completions", ENDLESS))
            await asyncio.sleep(0.05)
            served = client.context.models["tiny"]
            served.drain()
            assert (await client.get("/ready")).status == 503
            assert (await client.post("/v1/completions", SETTINGS)).status == 503
            assert not waiting.done()
            served.shut_down()
            assert (await waiting).status == 503

    asyncio.run(main())
