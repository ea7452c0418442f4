"""Completions as they finish, and coroutines that share an engine: same texts, one batch, cancelled slots, own errors."""

import asyncio
import threading
import time
from contextlib import aclosing, nullcontext

import pytest

import glassgpt
from glassgpt.api import LoadedModel
from glassgpt.data.tokenizers.byte import ByteTokenizer
from glassgpt.errors import GenerationError, GenerationFailedError, RequestError
from glassgpt.generation.async_engine import AsyncEngine, _Listener
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.prompt import encode_prompt
from glassgpt.generation.options import GenerationOptions
from small_models import attentive_model

PROMPTS = ["the king", "a", "it was the", None]


@pytest.fixture(scope="module")
def m():
    return LoadedModel(attentive_model(), ByteTokenizer(), 0, precision="float32")


@pytest.fixture
def shared(m):
    """The model with an engine of its own of two slots, and the number of sequences in each step."""
    active = []

    def build():
        engine = Engine(m.decoding_model, m.tokenizer, slots=2)
        decode = engine._scheduler._decoder.decode

        def counted(sequences):
            active.append(len(sequences))
            return decode(sequences)

        engine._scheduler._decoder.decode = counted
        return engine

    loaded = LoadedModel(m.model, m.tokenizer, 0, precision="float32")
    loaded.__dict__["async_engine"] = AsyncEngine(build)
    loaded.__dict__["active"] = active
    return loaded


def ended(loaded):
    """Return whether the engine's thread has ended with nothing left in the engine."""
    engine = loaded.async_engine
    for _ in range(500):
        if engine._thread is None:
            return engine._engine is None or engine._engine.is_idle
        time.sleep(0.01)
    return False


def test_completions_come_as_they_finish(m):
    early = m.samples(PROMPTS[2], max_tokens=20, seed=3)[0].tokens[4]
    options = {"max_tokens": 20, "seed": 3, "stop_tokens": [early]}
    lengths = [(each.index, len(each.samples[0].tokens)) for each in m.iterate_many(PROMPTS, **options)]
    assert sorted(index for index, _ in lengths) == [0, 1, 2, 3]
    assert lengths == sorted(lengths, key=lambda each: each[1])  # with equal lengths in the order of the prompts
    assert lengths[0][1] <= 5 < lengths[-1][1]
    assert lengths[0][0] != 0


def test_completions_hold_the_prompt_and_the_texts_of_generate_many(m):
    found = sorted(m.iterate_many(PROMPTS, max_tokens=9, seed=1), key=lambda each: each.index)
    assert [each.prompt for each in found] == PROMPTS
    assert [each.text for each in found] == m.generate_many(PROMPTS, max_tokens=9, seed=1)
    several = next(m.iterate_many(["a"], num_samples=3, max_tokens=4, seed=1))
    assert [sample.text for sample in several.samples] == [
        each.text for each in m.samples("a", num_samples=3, max_tokens=4, seed=1)
    ]


def test_first_completion_does_not_wait_for_the_others(m):
    options = {"max_tokens": 12, "seed": 2, "stop": ["e"]}
    completions = m.iterate_many(PROMPTS, **options)
    first = next(completions)
    assert first.text == m.generate(first.prompt, **options)
    completions.close()


def test_searches_are_completed_prompt_by_prompt(m):
    found = list(m.iterate_many(["a", "b"], strategy=glassgpt.BeamOptions(beams=2), max_tokens=4))
    assert [each.text for each in found] == m.generate_many(
        ["a", "b"], strategy=glassgpt.BeamOptions(beams=2), max_tokens=4
    )


@pytest.mark.parametrize("method", ["iterate_many", "aiterate_many"])
def test_wrong_calls_are_refused_at_once(m, method):
    call = getattr(m, method)
    for arguments, options, message in (
        ("abc", {}, "it must be a list"), (["a", ""], {}, "the prompt is empty"),
        (["a"], {"temperature": -1}, "temperature is -1"), (["a"], {"temprature": 1}, "did you mean temperature"),
        (["a" * 99], {}, "the prompt has 99 tokens"), (["a"], {"logprobs": 2}, "use explain"),
    ):  # fmt: skip
        with pytest.raises(GenerationError, match=message):
            call(arguments, **options)


def test_async_texts_are_those_of_generate(shared, m):
    async def main():
        one = await shared.agenerate("the king", max_tokens=9, seed=1)
        many = await shared.agenerate_many(PROMPTS, max_tokens=9, seed=1)
        pieces = [piece async for piece in shared.astream("the king", max_tokens=9, seed=1)]
        found = {each.index: each async for each in shared.aiterate_many(PROMPTS, max_tokens=9, seed=1, num_samples=2)}
        return one, many, pieces, found, await shared.agenerate_many([])

    one, many, pieces, found, nothing = asyncio.run(main())
    assert one == m.generate("the king", max_tokens=9, seed=1)
    assert many == m.generate_many(PROMPTS, max_tokens=9, seed=1)
    assert ("".join(pieces), len(pieces) > 1) == (one, True)
    assert [found[i].prompt for i in range(4)] == PROMPTS
    expected = m.samples_many(PROMPTS, max_tokens=9, seed=1, num_samples=2)
    assert [[sample.text for sample in found[i].samples] for i in range(4)] == [
        [s.text for s in samples] for samples in expected
    ]
    assert nothing == []
    assert ended(shared)


def test_coroutines_share_one_batch(shared, m):
    async def main():
        return await asyncio.gather(*(shared.agenerate(p, max_tokens=12, seed=i) for i, p in enumerate(PROMPTS)))

    texts = asyncio.run(main())
    assert texts == [m.generate(prompt, max_tokens=12, seed=i) for i, prompt in enumerate(PROMPTS)]
    assert max(shared.active) == 2  # of two slots
    assert len(shared.active) < sum(shared.active)  # fewer steps than tokens


def test_event_loop_keeps_running(shared):
    async def main():
        ticks = 0
        task = asyncio.create_task(shared.agenerate("a", max_tokens=40, seed=1))
        while not task.done():
            await asyncio.sleep(0)
            ticks += 1
        return ticks

    assert asyncio.run(main()) > 40


@pytest.mark.parametrize("how", ["cancel", "break", "timeout"])
def test_whoever_stops_frees_the_slots(shared, m, how):
    """Two endless requests take both slots; a third one gets in as soon as they are cancelled."""
    endless = {
        "max_tokens": 10**6,
        "overflow": "re-prefill",
        "seed": 1,
        "logit_bias": {m.tokenizer.end_of_text: float("-inf")},
    }

    async def endlessly():
        async with aclosing(shared.astream("a", **endless)) as pieces:
            async for _ in pieces:
                if how == "break":
                    break

    async def main():
        if how == "timeout":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(shared.agenerate_many(["a", "b"], **endless), 0.2)
        else:
            tasks = [asyncio.create_task(endlessly()) for _ in range(2)]
            await asyncio.sleep(0.1)
            if how == "cancel":
                for task in tasks:
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return await asyncio.wait_for(shared.agenerate("the king", max_tokens=9, seed=1), 30)

    assert asyncio.run(main()) == m.generate("the king", max_tokens=9, seed=1)
    assert ended(shared)


def test_closed_event_loop_counts_as_cancelled(shared):
    async def start():
        pieces = shared.astream("a", max_tokens=10**6, overflow="re-prefill", seed=1)
        await anext(pieces)
        return pieces

    loop = asyncio.new_event_loop()
    abandoned = loop.run_until_complete(start())
    loop.close()
    assert ended(shared)
    del abandoned


def test_error_of_one_coroutine_leaves_the_others_alone(shared, m):
    """Every token forbidden after the second one: an error in the middle of a step."""

    def nothing_left(logits, histories):
        return logits if len(histories[0].output) < 2 else logits - float("inf")

    async def main():
        good = asyncio.create_task(shared.agenerate("the king", max_tokens=12, seed=1))
        with pytest.raises(RequestError):
            await shared.agenerate("a", max_tokens=5, seed=1, processors=[nothing_left])
        return await good

    assert asyncio.run(main()) == m.generate("the king", max_tokens=12, seed=1)
    assert ended(shared)


def test_broken_engine_ends_all_and_is_replaced(shared, m, monkeypatch):
    def breaks(self):
        raise RuntimeError("the device is lost")

    async def main():
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "step", breaks)
            results = await asyncio.gather(*(shared.agenerate(p, seed=1) for p in "ab"), return_exceptions=True)
        return results, await shared.agenerate("the king", max_tokens=9, seed=1)

    results, text = asyncio.run(main())
    assert [str(each) for each in results] == ["the device is lost"] * 2
    assert text == m.generate("the king", max_tokens=9, seed=1)


def test_coroutine_of_a_broken_engine_cancels_nothing_in_the_next_one(m):
    """It may cancel its requests late, and two engines give the same ids."""
    engine = AsyncEngine(lambda: Engine(m.decoding_model, m.tokenizer, slots=2))
    prompts, options = [encode_prompt(m.model, m.tokenizer, "a", GenerationOptions())], GenerationOptions(max_tokens=3)

    async def main():
        first, second = (_Listener(nullcontext(prompts), options, 1) for _ in range(2))
        engine._accept(first)
        engine._fail_all(RuntimeError("the device is lost"))
        engine._accept(second)
        assert first.requests == second.requests
        engine._remove(first)
        assert [each.listener for each in engine._receivers.values()] == [second]
        engine._remove(second)
        assert engine._engine.is_idle

    asyncio.run(main())


def test_engine_that_cannot_be_built_is_an_error_in_the_coroutine(m):
    def fails():
        raise GenerationError("out of memory with a single sequence")

    engine = AsyncEngine(fails)

    async def main():
        options = GenerationOptions()
        ids = [encode_prompt(m.model, m.tokenizer, "a", options)]
        return [chunk async for chunk in engine.stream(nullcontext(ids), options, 1)]

    with pytest.raises(GenerationError, match="out of memory"):
        asyncio.run(main())


def test_end_of_the_thread_is_an_error_in_every_coroutine(shared, monkeypatch):
    def breaks(self):
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(AsyncEngine, "_take_commands", breaks)

    async def main():
        waiting = (asyncio.wait_for(shared.agenerate(prompt, seed=1), 30) for prompt in "ab")
        return [*await asyncio.gather(*waiting, return_exceptions=True), shared.agenerate("c", seed=1)]

    *results, later = asyncio.run(main())
    with pytest.raises(GenerationError, match="the engine's thread ended: .*the device is lost"):
        asyncio.run(later)
    assert [type(each) for each in results] == [GenerationFailedError] * 2


def test_two_event_loops_share_the_engine(shared, m):
    texts = {}

    def run(prompt):
        texts[prompt] = asyncio.run(shared.agenerate(prompt, max_tokens=12, seed=1))

    threads = [threading.Thread(target=run, args=(prompt,)) for prompt in ("a", "it was")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {prompt: m.generate(prompt, max_tokens=12, seed=1) for prompt in ("a", "it was")}


def test_strategies_say_what_to_do_instead(m):
    with pytest.raises(GenerationError, match=r"await asyncio.to_thread\(m.generate, prompt, strategy=…\)"):
        m.aiterate_many(["a"], strategy=glassgpt.BeamOptions())
