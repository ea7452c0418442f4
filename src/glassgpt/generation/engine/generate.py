"""Generate text from prompts: run an engine until every text is complete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.generation.engine.decoder_selection import select_decoder
from glassgpt.generation.engine.engine import DEFAULT_SLOTS, Engine
from glassgpt.generation.engine.interfaces import DecoderFactory
from glassgpt.generation.engine.output import Sample, TokenChunk
from glassgpt.generation.engine.prompt import encode_prompt, token_limit
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str | None,
    options: GenerationOptions,
    decoder: DecoderFactory | None = None,
) -> Iterator[TokenChunk]:
    """Yield the tokens and text of all samples of one prompt as they are generated.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        prompt: text to continue, or None to begin a document.
        options: generation options; without a seed, a random one is used.
        decoder: builds the decoder, such as a `SpeculativeDecoding`; None selects the fastest for the device.

    Raises:
        GenerationError: the prompt or an option is invalid.
    """
    return stream_many(model, tokenizer, [prompt], options, decoder)


def stream_many(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | None],
    options: GenerationOptions,
    decoder: DecoderFactory | None = None,
) -> Iterator[TokenChunk]:
    """Like `stream`, for several prompts; a chunk's `request` is the prompt's index.

    Raises:
        GenerationError: a prompt or an option is invalid.
    """
    options.check()
    encoded = [encode_prompt(model, tokenizer, prompt, options) for prompt in prompts]
    capacity = max((len(prompt) + token_limit(model, len(prompt), options) - 1 for prompt in encoded), default=1)
    slots = max(1, min(len(prompts) * options.num_samples, DEFAULT_SLOTS))
    engine = Engine(model, tokenizer, slots=slots, capacity=capacity, decoder=decoder or select_decoder)
    for prompt in encoded:
        engine.submit(prompt, options)
    return _run(engine)


def _run(engine: Engine) -> Iterator[TokenChunk]:
    while not engine.is_idle:
        yield from engine.step()


def generate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str | None,
    options: GenerationOptions,
    decoder: DecoderFactory | None = None,
) -> list[Sample]:
    """Return all samples of one prompt; see `stream`."""
    return generate_many(model, tokenizer, [prompt], options, decoder)[0]


def generate_many(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | None],
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
    prompts: Sequence[str | None],
    options: GenerationOptions,
    decoder: DecoderFactory | None = None,
) -> Iterator[list[Sample]]:
    """Yield all samples of each prompt, in the order of the prompts, as soon as they are complete."""
    samples = [[Sample(index) for index in range(options.num_samples)] for _ in prompts]
    n_missing = [options.num_samples for _ in prompts]
    n_yielded = 0
    for chunk in stream_many(model, tokenizer, prompts, options, decoder):
        samples[chunk.request][chunk.index].add(chunk)
        n_missing[chunk.request] -= chunk.finish_reason is not None
        while n_yielded < len(prompts) and n_missing[n_yielded] == 0:
            yield samples[n_yielded]
            n_yielded += 1
