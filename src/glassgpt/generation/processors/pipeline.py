"""Build the logits processors for given options, and apply them one after the other.

Logits are (B, V) float32; a forbidden token gets minus infinity. Nothing here makes the host wait for a GPU, except
the last check of `apply_processors`, and that only if a processor reads the history, which is on the host anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError, GenerationFailedError
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import LogitsProcessor, TokenHistory


def build_processors(options: GenerationOptions, tokenizer: Tokenizer) -> list[LogitsProcessor]:
    """Return the active processors for the settings, in the order of `registry`.

    Args:
        options: checked settings.
        tokenizer: the model's, to turn words into tokens.

    Raises:
        GenerationError: a setting names a token outside the vocabulary, or a constraint is invalid.
        MissingExtraError: constraints need a library that is not installed.
    """
    errors = [
        f"{name} contains the token id {token}; ids must be between 0 and {tokenizer.vocab_size - 1}, the vocabulary of "
        f"{tokenizer.name}"
        for name, token in options.named_tokens()
        if not 0 <= token < tokenizer.vocab_size
    ]
    if errors:
        raise GenerationError("\n".join(errors))
    return list(options.build(tokenizer))


def apply_processors(
    logits: Tensor, processors: Sequence[LogitsProcessor], histories: Sequence[TokenHistory]
) -> Tensor:
    """Apply processors one after the other.

    Args:
        logits: (B, V) float32.
        processors: from `build_processors`.
        histories: one per sequence.

    Raises:
        GenerationError: together they forbid every token of a sequence.
    """
    for processor in processors:
        logits = processor.apply(logits, histories)
    if any(processor.reads_history for processor in processors):
        _require_allowed_token(logits, processors, histories)
    return logits


def _require_allowed_token(
    logits: Tensor, processors: Sequence[LogitsProcessor], histories: Sequence[TokenHistory]
) -> None:
    stuck = logits.amax(dim=-1) == -math.inf  # (B,)
    if bool(stuck.any()):
        generated = len(histories[int(stuck.int().argmax())].output)
        names = ", ".join(processor.name for processor in processors)
        raise GenerationFailedError(
            f"after {generated} new tokens every token is forbidden by the combination of {names}; relax one of them"
        )
