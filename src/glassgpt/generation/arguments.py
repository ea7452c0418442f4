"""Keyword arguments of the functions that generate text, for editors and type checkers.

Written by `make arguments` from the settings of `GenerationOptions`; change those instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

from glassgpt.generation.processors.base import ProcessorFunction


class GenerationArguments(TypedDict, total=False):
    """The settings of `GenerationOptions` as keyword arguments; those that are left out have its defaults."""

    max_tokens: int
    """An integer of at least 1, by default 200. Maximum number of new tokens per sample."""

    stop: tuple[str, ...] | list[str]
    """A list of strings that are not empty, by default (). End the text before the first of these strings."""

    stop_tokens: tuple[int, ...] | list[int]
    """A list of integers, by default (). End the text before the first of these token ids."""

    min_tokens: int
    """An integer of at least 0, by default 0. Number of new tokens before which end-of-text, stop tokens and stop
    strings do not end the text."""

    temperature: float
    """A number of at least 0 (0 always takes the most probable token), by default 0.8. Divide the logits by this: below
    1 favors probable tokens, above 1 flattens the distribution."""

    temperature_schedule: tuple[tuple[int, float], ...] | list[tuple[int, float]]
    """A list of [integer, number] pairs with increasing positions and positive temperatures, by default (). Points (new
    tokens so far, temperature) between which the temperature changes linearly. It starts from `temperature` at 0 and is
    constant after the last point."""

    top_k: int
    """An integer of at least 0 (0 disables it), by default 0. Sample only among the k most probable tokens (Fan et al.
    2018). Ties with the k-th are kept."""

    top_p: float
    """A number above 0 and at most 1 (1 disables it), by default 0.95. Sample only among the fewest most probable
    tokens whose probabilities add up to p, including the one that crosses p (Holtzman et al. 2020)."""

    min_p: float
    """A number between 0 and 1 (0 disables it), by default 0.0. Drop tokens whose probability is below this fraction of
    the most probable token's (Nguyen et al. 2024)."""

    typical_p: float
    """A number above 0 and at most 1 (1 disables it), by default 1.0. Sample only among the tokens whose surprisal is
    closest to the entropy and whose probabilities add up to this (Meister et al. 2022). Ties are kept."""

    seed: int | None
    """An integer between 0 and 2**63 - 1, by default None. Seed of the sampling noise; the same seed gives the same
    text. Without one, each call uses a new seed."""

    num_samples: int
    """An integer of at least 1, by default 1. Continuations of each prompt, generated in one batch."""

    repetition_penalty: float
    """A number between 0.01 and 100 (1 disables it), by default 1.0. Divide positive logits of tokens that occurred in
    prompt or output by this and multiply negative ones with it, once per token (Keskar et al. 2019)."""

    presence_penalty: float
    """A finite number (0 disables it), by default 0.0. Subtract this once from the logit of each token that occurred in
    the output."""

    frequency_penalty: float
    """A finite number (0 disables it), by default 0.0. Subtract this from a token's logit for each time the token
    occurred in the output."""

    no_repeat_ngram: int
    """An integer of at least 0 (0 disables it), by default 0. Forbid n-grams of this many tokens to occur twice in
    prompt and output (Paulus et al. 2018)."""

    logit_bias: Mapping[int, float] | Mapping[str, float] | Mapping[int | str, float]
    """A table that maps texts or #ids of tokens to finite numbers or -inf, by default {}. Add to the logit of a token,
    given by its id or text; minus infinity forbids it. If a text is several tokens, the last one is biased where the
    others precede it."""

    ban: tuple[str, ...] | list[str]
    """A list of strings that are not blank, by default (). Forbid these texts everywhere, also inside words: "he" bans
    "the", " he" only words that begin with it after a space. Case matters: "Tea" does not ban "tea"."""

    regex: str | None
    """A string, by default None. Make the whole output match this regular expression (extra: structured)."""

    choices: tuple[str, ...] | list[str]
    """A list of strings that are not empty, by default (). Make the output one of these texts (extra: structured)."""

    json_schema: str | None
    """A string, by default None. Make the output JSON that follows this JSON schema, given as JSON text (extra:
    structured)."""

    processors: tuple[ProcessorFunction, ...] | list[ProcessorFunction]
    """A list of functions, by default (). Functions from logits and histories to logits, applied before the
    temperature; Python only."""

    overflow: Literal["stop", "re-prefill"]
    """Stop or re-prefill, by default 'stop'. What to do when the context is full: `stop` ends the text with the reason
    `length`, `re-prefill` drops the first half of it and continues."""

    logprobs: int
    """An integer between 0 and 100, by default 0. Report the log-probability of each token and of this many of the most
    probable ones."""

    truncate: bool
    """True or false, by default False. Truncate a prompt longer than the context on the left instead of rejecting it,
    so that `max_tokens` fit after it, but at least half of the context is kept; with `re-prefill`, all of it."""

    parse_special_tokens: bool
    """True or false, by default False. Read a special token spelled in a prompt, such as `<|endoftext|>`, as that
    token, not as ordinary text."""
