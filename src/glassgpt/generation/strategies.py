"""All ways to write behind one call: token by token, several tokens a pass, or by a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.engine.engine import DEFAULT_SLOTS
from glassgpt.generation.engine.generate import iter_samples
from glassgpt.generation.engine.output import Sample
from glassgpt.generation.engine.prompt import encode_prompt
from glassgpt.generation.engine.speculative import SpeculativeDecoding
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.search.beam import beam_search
from glassgpt.generation.search.context import prompts_per_batch
from glassgpt.generation.search.contrastive import contrastive_search
from glassgpt.generation.strategy_options import BeamOptions, ContrastiveOptions, SpeculativeOptions, StrategyOptions
from glassgpt.model.transformer import LanguageModel

DecodingStrategy = BeamOptions | ContrastiveOptions | SpeculativeDecoding
"""What `write` takes; `StrategyOptions`, with the draft model loaded."""
Prompts = Sequence[str | None]


def write(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Prompts,
    options: GenerationOptions,
    method: DecodingStrategy | None = None,
) -> Iterator[list[Sample]]:
    """The texts of each prompt, in the prompts' order, as soon as they are complete.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        prompts: texts to continue; None begins a document.
        options: the settings; a search takes none of sampling.
        method: how; None draws token by token.

    Raises:
        GenerationError: a prompt or a setting cannot be used, or it is no method.
    """
    _require_method(method)
    if isinstance(method, BeamOptions | ContrastiveOptions):
        method.check()
        for prompt in prompts:
            # What cannot be used is refused before anything is written.
            encode_prompt(model, tokenizer, prompt, options)
    if isinstance(method, BeamOptions):
        return _in_turn(prompts, method.beams, lambda some: beam_search(model, tokenizer, some, options, method))
    if isinstance(method, ContrastiveOptions):
        return _in_turn(prompts, method.k, lambda some: _contrasted(model, tokenizer, some, options, method))
    return iter_samples(model, tokenizer, prompts, options, method)


def _require_method(method: object) -> None:
    if method is not None and not isinstance(method, DecodingStrategy):
        raise GenerationError(
            f"method is {method!r}; allowed are BeamOptions(…), ContrastiveOptions(…), what the model's speculation(…) "
            "makes, or None"
        )


def _contrasted(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Prompts,
    options: GenerationOptions,
    method: ContrastiveOptions,
) -> list[list[Sample]]:
    return [[one] for one in contrastive_search(model, tokenizer, prompts, options, method)]


def _in_turn(
    prompts: Prompts, rows: int, search: Callable[[Prompts], Sequence[Sequence[Sample]]]
) -> Iterator[list[Sample]]:
    """Some prompts at a time, so that their texts need not wait for all others."""
    count = prompts_per_batch(rows)
    for start in range(0, len(prompts), count):
        for samples in search(prompts[start : start + count]):
            yield list(samples)


def strategy_defaults(method: DecodingStrategy | None) -> dict[str, Any]:
    """Options of a generation that are otherwise where a method is used: a search draws nothing."""
    return {"temperature": 0} if isinstance(method, BeamOptions | ContrastiveOptions) else {}


def decode_batch_size(texts: int, method: StrategyOptions | None) -> int:
    """How many tokens are read by one pass of the model: for that many it is to be fast.

    Args:
        texts: prompts times samples.
        method: how they are written.
    """
    if isinstance(method, SpeculativeOptions):
        return min(texts, DEFAULT_SLOTS) * (1 + method.draft_tokens)
    rows = method.beams if isinstance(method, BeamOptions) else method.k if method is not None else 1
    return min(texts, prompts_per_batch(rows)) * rows
