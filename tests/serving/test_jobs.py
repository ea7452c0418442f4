"""Results on their way from the engine's thread to a request: nothing is lost, what belongs together stays together."""

import asyncio
import functools
import gc
import itertools
import signal
import sys
import threading
import time
import weakref
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch

from glassgpt.data import load_tokenizer
from glassgpt.generation.engine.engine import MAX_PREFILL_TOKENS
from glassgpt.generation.gpu.prompt_graphs import LANE_TOKENS, LANES, PromptGraphs
from glassgpt.generation.gpu.shapes import BATCH_SIZES
from glassgpt.openmp import in_short_thread
from glassgpt.serving import engine_thread, jobs, run
from glassgpt.serving.engine_thread import EngineThread
from glassgpt.serving.jobs import Burst, Inbox, Job, Outbox
from glassgpt.serving.metrics import Metrics
from glassgpt.serving.warm_up import warm_up_requests
from small_models import attentive_model


def in_event_loop(test):
    return functools.wraps(test)(lambda: asyncio.run(test()))


def job(inbox, **options):
    one_sample = SimpleNamespace(options=SimpleNamespace(num_samples=1), prompt=(1,))
    return Job(inbox, request=one_sample, **options)


@in_event_loop
async def test_an_inbox_gives_everything_that_has_arrived():
    inbox = Inbox()
    first, second = job(inbox), job(inbox)
    waiting = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    inbox.put(first, Burst(0, "a"))
    inbox.put(second, Burst(0, "b"))
    assert [(each, burst.text) for each, burst in await waiting] == [(first, "a"), (second, "b")]


@in_event_loop
async def test_a_cancelled_wait_takes_nothing():
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    inbox.put(job(inbox), Burst(0, "a"))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert [burst.text for _, burst in await inbox.take()] == ["a"]


@in_event_loop
async def test_an_outbox_merges_the_bursts_of_a_sample_until_the_event_loop_has_time():
    inbox, outbox = Inbox(), Outbox(asyncio.get_running_loop())
    streaming = job(inbox, streaming=True)
    outbox.add([(streaming, Burst(0, "a", [1]))])
    outbox.flush()
    outbox.add([(streaming, Burst(0, "b", [2, 3]))])
    outbox.flush()
    (_, burst), *others = await inbox.take()
    assert (burst.text, burst.tokens, others) == ("ab", [1, 2, 3], [])


@in_event_loop
async def test_a_job_without_streaming_gets_complete_samples_only():
    inbox, outbox = Inbox(), Outbox(asyncio.get_running_loop())
    quiet = job(inbox)
    outbox.add([(quiet, Burst(0, "a", [1]))])
    outbox.flush()
    await asyncio.sleep(0.03)
    quiet.samples_left = 0
    outbox.add([(quiet, Burst(0, "b", [2], finish_reason="length"))])
    outbox.flush()
    assert [(burst.text, burst.finish_reason) for _, burst in await inbox.take()] == [("ab", "length")]


@in_event_loop
async def test_the_first_tokens_of_a_stream_do_not_send_those_that_wait_for_their_turn():
    inbox, outbox = Inbox(), Outbox(asyncio.get_running_loop())
    old, new = job(inbox, streaming=True), job(inbox, streaming=True)
    outbox.add([(old, Burst(0, "a", [1]))])
    outbox.flush()
    old.started = 1.0
    assert [(each, burst.text) for each, burst in await inbox.take()] == [(old, "a")]
    outbox.add([(old, Burst(0, "b", [2])), (new, Burst(0, "x", [3]))])
    outbox.flush()
    assert [(each, burst.text) for each, burst in await inbox.take()] == [(new, "x")]
    async with asyncio.timeout(1):  # though nobody flushes again
        assert [(each, burst.text) for each, burst in await inbox.take()] == [(old, "b")]


def test_first_and_last_tokens_do_not_wait_for_the_turn_of_others(monkeypatch):
    monkeypatch.setattr(jobs, "DELIVERY_SECONDS", 100.0)

    async def work():
        inbox, outbox = Inbox(), Outbox(asyncio.get_running_loop())
        old, new, quiet = job(inbox, streaming=True), job(inbox, streaming=True), job(inbox)
        old.started = 1.0
        outbox._last_delivery = time.monotonic()

        async def step(*bursts):
            outbox.add(bursts)
            outbox.flush()
            await asyncio.sleep(0.001)

        quiet.samples_left = 0
        async with asyncio.timeout(10):
            await step((old, Burst(0, "a", [1])))  # starts the timer
            await step((new, Burst(0, "x", [2])))
            assert [(each, burst.text) for each, burst in await inbox.take()] == [(new, "x")]
            await step((old, Burst(0, "b", [1])), (quiet, Burst(0, "q", [3], finish_reason="stop")))
            assert [(each, burst.text) for each, burst in await inbox.take()] == [(quiet, "q")]
            await step((old, Burst(0, "c", [1], finish_reason="length")))
            assert [(each, burst.text) for each, burst in await inbox.take()] == [(old, "abc")]

    asyncio.run(work())


@pytest.mark.parametrize(("submitted", "commands"), [(1, 1), (3, 1), (4, 1), (6, 2)])
def test_jobs_of_two_rounds_of_the_event_loop_reach_the_engine_together(submitted, commands):
    async def work():
        thread = EngineThread(attentive_model(), load_tokenizer("bytes"), asyncio.get_running_loop(), slots=4)
        posted = []
        thread._post = posted.append
        many = [job(Inbox()) for _ in range(submitted)]
        thread.submit(many[0])
        await asyncio.sleep(0)
        for each in many[1:]:
            thread.submit(each)
        assert len(posted) == (submitted >= 4)  # those that fill the slots do not wait
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(posted) == commands
        accepted = []
        thread._accept = accepted.append
        for command in posted:
            command()
        assert accepted == many

    asyncio.run(work())


@pytest.mark.parametrize(
    ("texts", "milliseconds"), [(1, 10), (3, 10), (8, 24), (16, 48), (17, 50), (50, 50), (64, 64), (256, 256)]
)
def test_time_between_turns_grows_with_the_texts_that_wait(texts, milliseconds, monkeypatch):
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: 100.0))
    outbox = Outbox(None)
    outbox._last_delivery = 100.0
    outbox.add((job(Inbox(), streaming=True), Burst(0, "a", [1])) for _ in range(texts))
    assert 1e3 * outbox._seconds_to_turn() == pytest.approx(milliseconds)


def test_an_engine_is_built_in_a_thread_that_ends(monkeypatch):
    """GNU OpenMP spins less while other threads than the engine's have threads of their own."""
    built = []
    monkeypatch.setattr(engine_thread, "exact_engine", lambda *_, **__: built.append(threading.current_thread()))
    EngineThread(attentive_model(), load_tokenizer("bytes"), None, slots=4)
    (thread,) = built
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_models_are_loaded_in_threads_that_end(monkeypatch):
    served = []

    async def keep(sources, weights, *_):
        served.extend(weights)

    monkeypatch.setattr(run, "_serve", keep)
    interval = sys.getswitchinterval()
    try:
        source = run.ModelSource("tiny", threading.current_thread, None)
        run.serve([source, source], run.ServerSettings(port=0), print)
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
    assert len(set(served)) == 2
    assert not any(thread.is_alive() for thread in served)


def test_work_in_a_short_thread_gives_its_result_or_its_error():
    assert in_short_thread(lambda: 3) == 3
    with pytest.raises(KeyError, match="missing"):
        in_short_thread(lambda: {}["missing"])


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals go to the main thread")
def test_ctrl_c_ends_the_work_in_a_short_thread():
    threads = []

    def work():
        threads.append(threading.current_thread())
        time.sleep(0.05)  # until it is waited for
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            time.sleep(0.001)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            in_short_thread(work)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert not threads[0].is_alive()
    assert time.monotonic() - began < 10


def test_an_error_in_a_short_thread_keeps_nothing_in_memory():
    """Nor may it keep the weights of a second version that there was no memory for."""

    class Large:
        pass

    held = []

    def work():
        large = Large()
        held.append(weakref.ref(large))
        raise MemoryError

    gc.disable()  # no cycle may refer to it
    try:
        with suppress(MemoryError):
            in_short_thread(work)
        assert held[0]() is None
    finally:
        gc.enable()


def _model(device, context=128):
    parameter = SimpleNamespace(device=torch.device(device))
    return SimpleNamespace(
        parameters=lambda: iter([parameter]), config=SimpleNamespace(context_length=context, vocab_size=100)
    )


def test_the_warm_up_covers_the_batch_sizes_and_prompt_lengths_of_all_graphs_on_a_gpu():
    requests = list(warm_up_requests(_model("cuda"), 64))
    sampled = [(o.top_k > 0, o.top_p < 1, len(prompts)) for prompts, o, _ in requests if o.max_tokens > 1]
    assert set(sampled) == set(itertools.product((False, True), (False, True), BATCH_SIZES))
    penalized = {(o.top_k > 0, o.top_p < 1) for _, o, _ in requests if o.repetition_penalty != 1}
    assert len(penalized) == 4
    assert {len(prompts) for prompts, _, logprobs in requests if logprobs} == set(BATCH_SIZES)
    lengths = {len(prompt) for prompts, *_ in requests for prompt in prompts}
    assert lengths == {1, 8, 16, 24, 32, 48, 64, 96, 128}
    lengths = {len(prompt) for prompts, *_ in warm_up_requests(_model("cuda", 100), 64) for prompt in prompts}
    assert lengths == {1, 8, 16, 24, 32, 48, 64, 96, 100}  # the model's context, too


def test_the_warm_up_prefills_in_all_lanes():
    graphs = PromptGraphs(_model("cuda", 8192))
    for prompts, options, _ in warm_up_requests(_model("cuda", 8192), 999):
        if options.max_tokens > 1 or len(prompts[0]) == 1:
            continue
        count, length = graphs.shape_of(len(prompts[0]) - 1)
        assert length == len(prompts[0])
        assert len(prompts) == count * (LANES if count * length <= LANE_TOKENS else 1)
        assert len(set(map(tuple, prompts))) == len(prompts)  # equal prompts would be prefilled once
        assert len(prompts) * length <= MAX_PREFILL_TOKENS  # in one prefill
    assert max(len(prompts) for prompts, *_ in warm_up_requests(_model("cuda", 8192), 64)) == 64


def test_the_warm_up_on_a_cpu_covers_one_sequence_and_all_slots():
    sizes = {(len(prompts), *map(len, set(map(tuple, prompts)))) for prompts, *_ in warm_up_requests(_model("cpu"), 8)}
    assert sizes == {(1, 1), (8, 1)}


@pytest.mark.parametrize(("streaming", "least", "most"), [(True, 50, 200), (False, 0.499, 0.501)])
def test_the_time_to_the_first_token_is_the_engines_without_streaming(streaming, least, most):
    metrics = Metrics(list)
    one = job(Inbox(), streaming=streaming)
    one.submitted -= 100  # the text took this long, its first token half a second
    one.started = one.submitted + 0.5
    metrics.of_model("tiny").record(one, Burst(0, "abc", [1, 2, 3], finish_reason="length"))
    lines = dict(line.rsplit(" ", 1) for line in metrics.render().decode().splitlines() if not line.startswith("#"))
    assert least <= float(lines['glassgpt:time_to_first_token_seconds_sum{model_name="tiny"}']) <= most
    assert float(lines['glassgpt:request_queue_time_seconds_sum{model_name="tiny"}']) == pytest.approx(0.5)
