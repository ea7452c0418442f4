"""Generate text from prompts: run an engine until every text is complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GlassGPTError, RequestError
from glassgpt.generation.engine.decoder_selection import select_decoder
from glassgpt.generation.engine.engine import DEFAULT_SLOTS, Engine
from glassgpt.generation.engine.interfaces import DecoderFactory
from glassgpt.generation.engine.output import Sample, SampleCollector, TokenChunk
from glassgpt.generation.engine.prompt import OnFailure, Prompt, encode_prompts, token_limit
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: Prompt,
    options: GenerationOptions,
    decoder: DecoderFactory | None = None,
) -> Iterator[TokenChunk]:
    """Yield the tokens and text of all samples of one prompt as they are generated.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        prompt: text or token ids to continue, or None to begin a document.
        options: generation options; without a seed, a random one is used.
        decoder: builds the decoder, such as a `SpeculativeDecoding`; None selects the fastest for the device.

    Raises:
        GenerationError: the prompt or an option is invalid.
    """
    return stream_many(model, tokenizer, [prompt], options, decoder)


def stream_many(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    options: GenerationOptions,
    decoder: DecoderFactory | None = None,
    on_failure: OnFailure | None = None,
) -> Iterator[TokenChunk]:
    """Like `stream`, for several prompts; a chunk's `request` is the prompt's index.

    Args:
        model: see `stream`, as are `tokenizer`, `options` and `decoder`.
        tokenizer: the model's.
        prompts: texts to continue.
        options: generation options.
        decoder: builds the decoder.
        on_failure: called with each prompt that fails, while the others continue; None raises the error.

    Raises:
        GenerationError: an option is invalid, or a prompt without `on_failure`.
    """
    options.check()
    encoded = encode_prompts(model, tokenizer, prompts, options, on_failure)
    lengths = map(len, encoded.values())
    capacity = max((length + token_limit(model, length, options) - 1 for length in lengths), default=1)
    slots = max(1, min(len(encoded) * options.num_samples, DEFAULT_SLOTS))
    engine = Engine(model, tokenizer, slots=slots, capacity=capacity, decoder=decoder or select_decoder)
    return _run(engine, {engine.submit(tokens, options): index for index, tokens in encoded.items()}, on_failure)


def _run(engine: Engine, prompt_of: Mapping[int, int], on_failure: OnFailure | None) -> Iterator[TokenChunk]:
    """Yield all chunks, with the index of the prompt instead of the request's id."""
    while not engine.is_idle:
        try:
            for chunk in engine.step():
                chunk.request = prompt_of[chunk.request]
                yield chunk
        except RequestError as error:
            if on_failure is None:
                raise
            on_failure(prompt_of[error.request], error)


def generate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: Prompt,
    options: GenerationOptions,
    decoder: DecoderFactory | None = None,
) -> list[Sample]:
    """Return all samples of one prompt; see `stream`."""
    return generate_many(model, tokenizer, [prompt], options, decoder)[0]


def generate_many(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    options: GenerationOptions,
    decoder: DecoderFactory | None = None,
) -> list[list[Sample]]:
    """Return all samples of each prompt, generated together; each text is the same as if it were alone.

    Raises:
        GenerationError: a prompt or an option is invalid.
    """
    return list(iter_samples(model, tokenizer, prompts, options, decoder))


def iter_samples(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    options: GenerationOptions,
    decoder: DecoderFactory | None = None,
    on_failure: OnFailure | None = None,
) -> Iterator[list[Sample]]:
    """Yield all samples of each prompt, in the order of the prompts, as soon as they are complete.

    A prompt that fails yields an empty list, after a call of `on_failure`; see `stream_many`.
    """
    samples = [[Sample(index) for index in range(options.num_samples)] for _ in prompts]
    n_missing = [options.num_samples for _ in prompts]

    def drop(index: int, error: GlassGPTError) -> None:
        samples[index], n_missing[index] = [], 0
        if on_failure is not None:
            on_failure(index, error)

    n_yielded = 0
    for chunk in stream_many(model, tokenizer, prompts, options, decoder, drop if on_failure else None):
        samples[chunk.request][chunk.index].add(chunk)
        n_missing[chunk.request] -= chunk.finish_reason is not None
        while n_yielded < len(prompts) and n_missing[n_yielded] == 0:
            yield samples[n_yielded]
            n_yielded += 1
    yield from samples[n_yielded:]  # those that failed last


def iter_finished(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    options: GenerationOptions,
    decoder: DecoderFactory | None = None,
) -> Iterator[tuple[int, list[Sample]]]:
    """Yield the index of each prompt with all its samples, in the order in which they are completed.

    Raises:
        GenerationError: a prompt or an option is invalid; raised before anything is generated.
    """
    chunks = stream_many(model, tokenizer, prompts, options, decoder)
    collector = SampleCollector(len(prompts), options.num_samples)
    return (found for chunk in chunks if (found := collector.add(chunk)) is not None)
