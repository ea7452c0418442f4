"""Every decoding strategy behind one call: sampling, speculative decoding, beam search, contrastive search."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.engine.engine import DEFAULT_SLOTS
from glassgpt.generation.engine.generate import iter_finished, iter_samples, stream
from glassgpt.generation.engine.output import Completion, Sample, TokenChunk
from glassgpt.generation.engine.prompt import OnFailure, Prompt, encode_prompts
from glassgpt.generation.engine.speculative import SpeculativeDecoding
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.search.beam import beam_search
from glassgpt.generation.search.context import SearchContext, prompts_per_batch
from glassgpt.generation.search.contrastive import contrastive_search
from glassgpt.generation.strategy_options import BeamOptions, ContrastiveOptions, SpeculativeOptions, StrategyOptions
from glassgpt.model.transformer import LanguageModel

DecodingStrategy = BeamOptions | ContrastiveOptions | SpeculativeDecoding
"""A strategy to choose tokens: `StrategyOptions` with the draft model loaded. None stands for sampling token by token."""
Prompts = Sequence[Prompt]


def generate_samples(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Prompts,
    options: GenerationOptions,
    strategy: DecodingStrategy | None = None,
    on_failure: OnFailure | None = None,
) -> Iterator[list[Sample]]:
    """Yield the samples of each prompt, in the order of the prompts, as soon as they are complete.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        prompts: texts to continue; None begins a document.
        options: generation options that the strategy supports.
        strategy: None samples token by token.
        on_failure: called with each prompt that fails, which yields an empty list, while the others continue; None
            raises the error.

    Raises:
        GenerationError: an option or the strategy is invalid, or a prompt without `on_failure`; raised before anything
            is generated.
    """
    require_strategy(strategy)
    if strategy is None or isinstance(strategy, SpeculativeDecoding):
        return iter_samples(model, tokenizer, prompts, options, strategy, on_failure)
    strategy.check()
    SearchContext(model, tokenizer, options, strategy.name)  # checks the options, which do not depend on the prompt
    valid = encode_prompts(model, tokenizer, prompts, options, on_failure).keys()
    if isinstance(strategy, BeamOptions):
        width = strategy.beams

        def search(batch: Prompts) -> Sequence[Sequence[Sample]]:
            return beam_search(model, tokenizer, batch, options, strategy)
    else:
        width = strategy.k

        def search(batch: Prompts) -> Sequence[Sequence[Sample]]:
            return [[sample] for sample in contrastive_search(model, tokenizer, batch, options, strategy)]

    return _search(prompts, valid, prompts_per_batch(width), search, on_failure)


def iter_completions(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Prompts,
    options: GenerationOptions,
    strategy: DecodingStrategy | None = None,
) -> Iterator[Completion]:
    """Yield each prompt with its samples as soon as they are complete, which may be in another order than the prompts'.

    See `generate_samples` for the arguments.

    Raises:
        GenerationError: a prompt, an option or the strategy is invalid; raised before anything is generated.
    """
    if isinstance(strategy, BeamOptions | ContrastiveOptions):
        found = enumerate(generate_samples(model, tokenizer, prompts, options, strategy))
    else:
        require_strategy(strategy)
        found = iter_finished(model, tokenizer, prompts, options, strategy)
    return (Completion(index, _text_of(prompts[index]), samples) for index, samples in found)


def _text_of(prompt: Prompt) -> str | None:
    """Return a prompt as a text; None for one that was given as ids."""
    return prompt if isinstance(prompt, str) else None


def _search(
    prompts: Prompts,
    valid: Collection[int],
    batch_size: int,
    search: Callable[[Prompts], Sequence[Sequence[Sample]]],
    on_failure: OnFailure | None,
) -> Iterator[list[Sample]]:
    """Search for a few prompts at a time, so that the first texts do not wait for all others."""

    def found(indices: Sequence[int]) -> dict[int, list[Sample]]:
        try:
            results = search([prompts[index] for index in indices])
        except GenerationError as error:
            if on_failure is None:
                raise
            if len(indices) > 1:  # one of them failed: search for each alone
                return {index: samples for each in indices for index, samples in found([each]).items()}
            on_failure(indices[0], error)
            return {}
        return {index: list(samples) for index, samples in zip(indices, results, strict=True)}

    for start in range(0, len(prompts), batch_size):
        batch = range(start, min(start + batch_size, len(prompts)))
        samples = found([index for index in batch if index in valid])
        yield from (samples.get(index, []) for index in batch)


def stream_samples(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: Prompt,
    options: GenerationOptions,
    strategy: DecodingStrategy | None = None,
) -> Iterator[TokenChunk]:
    """Yield the tokens and text of all samples of one prompt as they are generated.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        prompt: text or token ids to continue; None begins a document.
        options: generation options.
        strategy: None or speculative decoding; a search knows its text only at the end.

    Raises:
        GenerationError: the prompt, an option or the strategy is invalid.
    """
    require_strategy(strategy)
    if isinstance(strategy, BeamOptions | ContrastiveOptions):
        raise GenerationError(
            f"{strategy.name} cannot stream, because it decides on the whole text; use generate or samples"
        )
    return stream(model, tokenizer, prompt, options, strategy)


def require_strategy(strategy: object) -> None:
    """Check that an argument is a decoding strategy or None.

    Raises:
        GenerationError: it is not.
    """
    if strategy is not None and not isinstance(strategy, DecodingStrategy):
        raise GenerationError(
            f"strategy is {strategy!r}; it must be BeamOptions(…), ContrastiveOptions(…), the result of "
            "speculative_decoding(…), or None"
        )


def strategy_defaults(strategy: DecodingStrategy | StrategyOptions | None) -> dict[str, Any]:
    """Return the generation options whose defaults differ with a strategy: searches use temperature 0."""
    return dict(strategy.defaults) if isinstance(strategy, BeamOptions | ContrastiveOptions) else {}


def decode_batch_size(texts: int, strategy: StrategyOptions | None) -> int:
    """Return the number of tokens per forward pass to prepare the weights for.

    Args:
        texts: prompts times samples.
        strategy: None samples token by token.
    """
    if isinstance(strategy, SpeculativeOptions):
        return min(texts, DEFAULT_SLOTS) * (1 + strategy.draft_tokens)
    width = strategy.beams if isinstance(strategy, BeamOptions) else strategy.k if strategy is not None else 1
    return min(texts, prompts_per_batch(width)) * width
