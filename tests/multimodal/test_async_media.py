"""Coroutines with pictures and sounds: the texts of `generate`, in one batch, and rows of the embedding that are given back."""

import asyncio
import time
from contextlib import aclosing

import pytest
from multimodal_helpers import GEOMETRY, picture, sound
from named_media import NAMES

from glassgpt import api
from glassgpt.api import LoadedModel
from glassgpt.api.multimodal import prompt_with_media
from glassgpt.data.tokenizers.byte import ByteTokenizer
from glassgpt.errors import GenerationError
from small_models import attentive_model

GREEDY = {"temperature": 0.0, "max_tokens": 20}


@pytest.fixture(scope="module")
def named(named_run):
    return api.load(named_run, device="cpu")


def added_rows(loaded):
    """Return the rows of the embedding that are in use once the engine's thread has ended."""
    for _ in range(500):
        if loaded.async_engine._thread is None:
            break
        time.sleep(0.01)
    return loaded.decoding_model.token_embedding.n_added


def test_texts_are_those_of_generate(named):
    images, audio = [picture(1).data], [(sound(0, 720).data, GEOMETRY.rate)]
    prompts = [prompt_with_media(named.model, None, [picture(kind).data], []) for kind in (0, 1)]

    async def streamed():
        async with aclosing(named.astream(audio=audio, **GREEDY)) as pieces:
            return "".join([piece async for piece in pieces])

    async def main():
        return await asyncio.gather(
            named.agenerate(images=images, **GREEDY),
            named.agenerate("a blue", images=images, **GREEDY),
            named.agenerate("a red", **GREEDY),
            named.agenerate_many([*prompts, "a red"], **GREEDY),
            streamed(),
        )

    seen, continued, text, many, heard = asyncio.run(main())
    assert (seen, heard) == (NAMES[1], NAMES[0])
    assert continued == named.generate("a blue", images=images, **GREEDY)
    assert text == named.generate("a red", **GREEDY)
    assert many == [*NAMES, text]
    assert added_rows(named) == 0


def test_completions_name_the_text_of_their_prompt(named):
    prompt = prompt_with_media(named.model, "a blue", [picture(1).data], [])

    async def main():
        return [each async for each in named.aiterate_many([prompt, None], **GREEDY)]

    assert {each.index: each.prompt for each in asyncio.run(main())} == {0: "a blue", 1: None}


def test_rows_are_given_back_by_whoever_stops(named):
    endless = {
        "max_tokens": 10**6,
        "overflow": "re-prefill",
        "logit_bias": {named.tokenizer.end_of_text: float("-inf")},
    }

    async def main():
        async with aclosing(named.astream(images=[picture(0).data], **endless)) as pieces:
            await anext(pieces)
        task = asyncio.create_task(named.agenerate(images=[picture(1).data], **endless))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert added_rows(named) == 0


def test_mistakes_are_errors_of_one_coroutine(named):
    async def main():
        good = asyncio.create_task(named.agenerate(images=[picture(1).data], **GREEDY))
        wrong = [
            named.agenerate(images=["missing.png"], **GREEDY),
            named.agenerate("<|image|> <|image|>", images=[picture(0).data], **GREEDY),
            named.agenerate("a" * 99, images=[picture(0).data], **GREEDY),
        ]
        return await good, await asyncio.gather(*wrong, return_exceptions=True)

    text, errors = asyncio.run(main())
    assert text == NAMES[1]
    for error, message in zip(
        errors, ("missing.png", "has <|image|> 2 times", "more than the model's context"), strict=True
    ):
        assert isinstance(error, GenerationError)
        assert message in str(error)
    assert added_rows(named) == 0
    with pytest.raises(GenerationError, match="temperature is -1"):
        named.astream(images=[picture(0).data], temperature=-1)


def test_a_model_of_text_refuses_pictures():
    loaded = LoadedModel(attentive_model(), ByteTokenizer(), 0, precision="float32")
    with pytest.raises(GenerationError, match="trained on text alone"):
        asyncio.run(loaded.agenerate(images=[picture(0).data]))
