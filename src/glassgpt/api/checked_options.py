"""Checks of what the methods of a loaded model are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glassgpt.errors import GenerationError
from glassgpt.generation.arguments import GenerationArguments
from glassgpt.generation.options import GenerationOptions, options_from_kwargs


def single_sample(options: GenerationArguments, others: str = "samples(…) or stream_chunks(…)") -> GenerationArguments:
    """Return options as given.

    Args:
        options: by name.
        others: methods that return several samples.

    Raises:
        GenerationError: they ask for several samples.
    """
    if (count := options.get("num_samples", 1)) != 1:
        raise GenerationError(f"num_samples is {count}, but this method returns one sample; use {others}")
    return options


def without_logprobs(options: Mapping[str, Any]) -> GenerationOptions:
    """Return options that are given by name.

    Raises:
        GenerationError: a name is unknown, or they ask for log-probabilities.
    """
    parsed = options_from_kwargs(options)
    if parsed.logprobs:
        raise GenerationError(
            f"logprobs is {parsed.logprobs}, but this method returns none; use explain(…, top={parsed.logprobs})"
        )
    return parsed


def require_list(prompts: object, name: str = "prompts", other: str = "generate(…)") -> None:
    """Check that prompts are several.

    Args:
        prompts: as given.
        name: of the argument.
        other: method for a single one.

    Raises:
        GenerationError: they are a single string.
    """
    if isinstance(prompts, str):
        raise GenerationError(
            f"{name} is the string {prompts!r}; it must be a list of strings; for a single one use {other}"
        )
