"""Encode prompts as tokens that fit the context."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from numbers import Integral

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError, GlassGPTError, TokenizerError
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.vectors import begin_token_alone

Prompt = str | list[int] | None
"""A text, its token ids, or None, which begins a document."""

OnFailure = Callable[[int, GlassGPTError], None]
"""Called with the index of a prompt for which no text can be generated, and the reason."""


def encode_prompt(model: LanguageModel, tokenizer: Tokenizer, prompt: Prompt, options: GenerationOptions) -> list[int]:
    """Return the prompt's tokens, or the token that begins a document if the prompt is None.

    Raises:
        GenerationError: the prompt is empty, spells the begin token of a picture that it does not have, or is longer than the
            context without `options.truncate`.
    """
    if prompt is None:
        return [tokenizer.end_of_text]
    if isinstance(prompt, list):
        _require_ids(prompt)
        tokens = prompt
    else:
        _require_text(prompt)
        encode = tokenizer.encode_with_special_tokens if options.parse_special_tokens else tokenizer.encode
        tokens = encode(prompt)
    require_vectors(model, tokens)
    context = model.config.context_length
    if len(tokens) <= context:
        return tokens
    if not options.truncate:
        raise GenerationError(
            f"the prompt has {len(tokens):,} tokens, more than the model's context of {context:,}; shorten it, or "
            "keep only its end with --truncate"
        )
    return tokens[-truncated_length(context, options) :]


def require_vectors(model: LanguageModel, tokens: Sequence[int]) -> None:
    """Check that vectors follow each begin token of a picture or sound.

    Raises:
        GenerationError: one stands alone.
    """
    if (name := begin_token_alone(model, tokens)) is not None:
        raise GenerationError(
            f"the prompt has {name} without what it begins; give the picture or sound, or leave out parse_special_tokens, so "
            "that the name is text"
        )


def encode_prompts(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    options: GenerationOptions,
    on_failure: OnFailure | None = None,
) -> dict[int, list[int]]:
    """Return the tokens of each prompt by its index; see `encode_prompt`.

    Args:
        model: whose context they must fit.
        tokenizer: the model's.
        prompts: texts or token ids.
        options: of the generation.
        on_failure: called with each prompt that cannot be encoded, which is left out; None raises the error.

    Raises:
        GlassGPTError: without `on_failure`, a prompt cannot be encoded.
    """
    encoded: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        try:
            encoded[index] = encode_prompt(model, tokenizer, prompt, options)
        except (GenerationError, TokenizerError) as error:
            if on_failure is None:
                raise
            on_failure(index, error)
    return encoded


def truncated_length(context: int, options: GenerationOptions) -> int:
    """Return how much of a truncated prompt is kept: a full context would leave space for one new token only."""
    if options.overflow == "re-prefill":
        return context
    return max(1, context // 2, context - options.max_tokens)


def _require_text(prompt: object) -> None:
    if not isinstance(prompt, str):
        raise GenerationError(f"the prompt is {prompt!r}; it must be a string, or None to begin a document")
    if not prompt:
        raise GenerationError("the prompt is empty; give some text, or leave it out to begin a document")


def _require_ids(prompt: Sequence[object]) -> None:
    if (
        wrong := next((each for each in prompt if isinstance(each, bool) or not isinstance(each, Integral)), None)
    ) is not None:
        raise GenerationError(f"the prompt is a list with {wrong!r:.100}; it must be a string, or a list of token ids")


def token_limit(
    model: LanguageModel, prompt_tokens: int, options: GenerationOptions, capacity: int | None = None
) -> int:
    """Return the maximum number of new tokens of a sample: `max_tokens`, or fewer if the context (or `capacity`) is full."""
    if options.overflow == "re-prefill":
        return options.max_tokens
    # The last token is never fed back to the model, so a full context still yields one token more.
    return min(options.max_tokens, (capacity or model.config.context_length) - prompt_tokens + 1)


def random_seed() -> int:
    """Return a random 32-bit seed."""
    return secrets.randbits(32)
