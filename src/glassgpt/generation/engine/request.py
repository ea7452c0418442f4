"""Turn a prompt and options into a request: everything that can fail or take long happens here, before the engine runs it."""

from __future__ import annotations

from collections.abc import Sequence

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.engine.prompt import random_seed, require_vectors, token_limit
from glassgpt.generation.engine.sequence import Request
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.pipeline import build_processors
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.vectors import has_vector


def new_request(
    request_id: int,
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    options: GenerationOptions,
    capacity: int,
    *,
    logprobs: int | None = None,
    ignore_end: bool = False,
) -> Request:
    """Return a request for `Engine.add`. Safe in any thread: compiling a constraint can take long.

    Args:
        request_id: identifies it in the engine's output.
        model: that continues the prompt.
        tokenizer: the model's.
        prompt: token ids.
        options: checked options; without a seed, a random one is used.
        capacity: most tokens of a sequence.
        logprobs: see `Request`.
        ignore_end: do not end the text at end-of-text.

    Raises:
        GenerationError: the prompt is empty, too long, or contains an id outside the vocabulary or a begin token alone; or an
            option does not fit the tokenizer.
    """
    if not 1 <= len(prompt) <= capacity:
        raise GenerationError(f"the prompt has {len(prompt):,} tokens; it must have 1 to {capacity:,}")
    vocab_size = tokenizer.vocab_size
    invalid = next((token for token in prompt if not 0 <= token < vocab_size and not has_vector(model, token)), None)
    if invalid is not None:
        raise GenerationError(
            f"the prompt contains the token id {invalid}; ids must be between 0 and {vocab_size - 1}, the vocabulary of "
            f"{tokenizer.name}"
        )
    require_vectors(model, prompt)
    return Request(
        id=request_id,
        prompt=tuple(prompt),
        options=options,
        processors=tuple(build_processors(options, tokenizer)),
        seed=random_seed() if options.seed is None else options.seed,
        max_new_tokens=token_limit(model, len(prompt), options, capacity),
        end_of_text=-1 if ignore_end else tokenizer.end_of_text,
        logprobs=logprobs,
    )
