"""Generation for coroutines by a loaded model: what all of them ask for is generated in one batch."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from typing import Any, Unpack

from glassgpt.api.checked_options import as_list, single_sample, without_logprobs
from glassgpt.api.multimodal import MediaInput, PromptInput, encoded_prompts, is_empty, prompt_with_media, text_of
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.arguments import GenerationArguments
from glassgpt.generation.async_engine import AsyncEngine
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.output import Completion, SampleCollector, TokenChunk
from glassgpt.generation.engine.prompt import encode_prompt
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel
from glassgpt.multimodal.prompting import MediaPrompt


class AsyncGeneration:
    """The methods of `LoadedModel` for coroutines, which share an engine in a background thread.

    Attributes:
        model: see `LoadedModel`, as is `tokenizer`.
        decoding_model: the model prepared for fast generation.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    decoding_model: Any

    @functools.cached_property
    def async_engine(self) -> AsyncEngine:
        """The engine that all coroutines share; created at first use."""
        return AsyncEngine(lambda: Engine(self.decoding_model, self.tokenizer))

    async def agenerate(
        self,
        prompt: PromptInput = None,
        *,
        images: Sequence[MediaInput] = (),
        audio: Sequence[MediaInput] = (),
        **options: Unpack[GenerationArguments],
    ) -> str:
        """Return the continuation of a prompt, like `generate`, without blocking the event loop.

        Args:
            prompt: text to continue; None begins a document.
            images: see `generate`, as is `audio`; they are decoded in a thread.
            audio: sounds.
            options: generation options.

        Raises:
            GenerationError: the prompt or an option is invalid.
        """
        checked_options(single_sample(options))
        given = await self._decoded(prompt, images, audio)
        return (await self.agenerate_many([given], **options))[0]

    async def agenerate_many(self, prompts: Sequence[PromptInput], **options: Unpack[GenerationArguments]) -> list[str]:
        """Return the continuation of each prompt; see `aiterate_many`."""
        completions = [completion async for completion in self.aiterate_many(prompts, **single_sample(options))]
        return [completion.text for completion in sorted(completions, key=lambda completion: completion.index)]

    def aiterate_many(
        self, prompts: Sequence[PromptInput], **options: Unpack[GenerationArguments]
    ) -> AsyncGenerator[Completion, None]:
        """Yield the continuation of each prompt as soon as it is complete, for `async for`; see `iterate_many`.

        The prompts join the batch that the engine is working on, so that coroutines do not wait for each other. A coroutine
        that is cancelled or stops iterating frees its places in the batch.

        Raises:
            GenerationError: a prompt or an option is invalid; raised before anything is generated.
        """
        prompts = as_list(prompts)
        chunks, parsed = self._request(prompts, options)

        async def completions() -> AsyncGenerator[Completion, None]:
            collector = SampleCollector(len(prompts), parsed.num_samples)
            async with aclosing(chunks):
                async for chunk in chunks:
                    if (found := collector.add(chunk)) is not None:
                        yield Completion(found[0], text_of(prompts[found[0]]), found[1])

        return completions()

    def astream(
        self,
        prompt: PromptInput = None,
        *,
        images: Sequence[MediaInput] = (),
        audio: Sequence[MediaInput] = (),
        **options: Unpack[GenerationArguments],
    ) -> AsyncGenerator[str, None]:
        """Yield the continuation piece by piece, for `async for`; see `stream` and `aiterate_many`."""
        options = single_sample(options)
        checked_options(options)
        has_no_media = is_empty(images) and is_empty(audio)
        now = self._request([prompt], options)[0] if has_no_media else None  # so that mistakes are raised at once

        async def pieces() -> AsyncGenerator[str, None]:
            chunks = now or self._request([await self._decoded(prompt, images, audio)], options)[0]
            async with aclosing(chunks):
                async for chunk in chunks:
                    if chunk.text:
                        yield chunk.text

        return pieces()

    async def _decoded(
        self, prompt: PromptInput, images: Sequence[MediaInput], audio: Sequence[MediaInput]
    ) -> PromptInput:
        """Return a prompt with its media, which a thread decodes."""
        if is_empty(images) and is_empty(audio):
            return prompt
        return await asyncio.to_thread(prompt_with_media, self.model, prompt, images, audio)

    def _request(
        self, prompts: Sequence[PromptInput], options: Mapping[str, Any]
    ) -> tuple[AsyncGenerator[TokenChunk, None], GenerationOptions]:
        """Return the chunks of a request to the shared engine, and its options, all of them checked.

        Prompts with media are encoded by the thread of the engine, when it takes the request.
        """
        parsed = checked_options(options)
        has_media = any(isinstance(prompt, MediaPrompt) for prompt in prompts)
        encoded: AbstractContextManager[list[list[int]]] = (
            self._encoded_media(prompts, parsed)
            if has_media
            else nullcontext([encode_prompt(self.model, self.tokenizer, text_of(one), parsed) for one in prompts])
        )
        return self.async_engine.stream(encoded, parsed, len(prompts)), parsed

    @contextmanager
    def _encoded_media(self, prompts: Sequence[PromptInput], options: GenerationOptions) -> Generator[list[list[int]]]:
        """Yield the ids of prompts with media, which are valid within the `with` block."""
        with encoded_prompts(self.model, self.decoding_model, self.tokenizer, prompts, options) as encoded:
            yield [encode_prompt(self.model, self.tokenizer, one, options) for one in encoded]


def checked_options(options: Mapping[str, Any]) -> GenerationOptions:
    """Return the options of a request to the shared engine.

    Raises:
        GenerationError: one is invalid, or of another way of generating.
    """
    if "strategy" in options:
        raise GenerationError(
            "strategy cannot be given here: coroutines share an engine that samples; "
            "use await asyncio.to_thread(m.generate, prompt, strategy=…)"
        )
    parsed = without_logprobs(options)
    parsed.check()
    return parsed
