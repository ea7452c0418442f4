"""Checks of what the methods of a loaded model are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, cast

from glassgpt.errors import GenerationError, UsageError
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


def as_list(given: object, name: str = "prompts", single: str = "generate(…)") -> list[Any]:
    """Return what is given as several things: a list, a tuple, or anything else that yields them.

    Args:
        given: the argument.
        name: of it.
        single: method for one alone; empty if there is none.

    Raises:
        GenerationError: it is a single text, a table, or nothing that yields anything.
    """
    if isinstance(given, str | bytes | bytearray | Mapping) or not isinstance(given, Iterable):
        if single:
            raise GenerationError(f"{name} is {given!r:.100}; it must be a list; for a single one use {single}")
        raise GenerationError(f"{name} is {given!r:.100}; it must be a list")
    return list(cast("Iterable[Any]", given))


def require_texts(given: Iterable[object], name: str) -> None:
    """Check that all of several things are texts.

    Raises:
        GenerationError: one is not.
    """
    for number, each in enumerate(given):
        if not isinstance(each, str):
            raise GenerationError(f"{name}[{number}] is {each!r:.100}; it must be a string")


def require_text(given: object, name: str) -> None:
    """Check that an argument is a text, or None.

    Raises:
        GenerationError: it is neither.
    """
    if given is not None and not isinstance(given, str):
        raise GenerationError(f"{name} is {given!r:.100}; it must be a string, or None")


def require_count(given: object, name: str, minimum: int = 0) -> None:
    """Check that an argument is an integer of at least `minimum`.

    Raises:
        UsageError: it is not.
    """
    if isinstance(given, bool) or not isinstance(given, Integral) or given < minimum:
        raise UsageError(f"{name} is {given!r:.100}; it must be an integer of at least {minimum}")


def as_path(given: object, name: str) -> Path:
    """Return the path of a file or folder.

    Raises:
        UsageError: it is no path.
    """
    if not isinstance(given, str | Path) or "\0" in str(given):
        raise UsageError(f"{name} is {given!r:.100}; it must be a path")
    return Path(given)
