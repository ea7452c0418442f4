"""Compare an exported model with the original: the same prompts in its engine and in this model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import InterchangeError
from glassgpt.interchange.check_prompts import PROMPTS
from glassgpt.interchange.formats.base import Engine, ExportFormat, ExportOptions
from glassgpt.model.transformer import LanguageModel

MAX_PROMPT_TOKENS, MAX_NEW_TOKENS = 64, 16


@dataclass(frozen=True)
class Agreement:
    """The comparison of one prompt.

    Attributes:
        prompt: the text.
        max_error: largest absolute difference of two logits.
        max_logit: largest absolute logit of the original.
        argmax_share: share of positions with the same most likely token.
        same_greedy: number of leading tokens of the greedy continuation that are equal.
        n_greedy: number of tokens of the greedy continuation.
    """

    prompt: str
    max_error: float
    max_logit: float
    argmax_share: float
    same_greedy: int
    n_greedy: int


@torch.inference_mode()
def compare_with_engine(
    model: LanguageModel, tokenizer: Tokenizer, engine: Engine, prompts: Sequence[str] = PROMPTS
) -> list[Agreement]:
    """Compare logits and greedy continuations of prompts in an engine with those of the model."""
    context = model.config.context_length
    n_new = min(MAX_NEW_TOKENS, context // 2)
    found: list[Agreement] = []
    for prompt in prompts:
        tokens = tokenizer.encode(prompt)[: max(1, min(MAX_PROMPT_TOKENS, context - n_new))]
        expected = model(torch.tensor([tokens]))[0].numpy()
        theirs = engine.logits(tokens)
        ours, other = greedy(model, tokens, n_new), engine.greedy(tokens, n_new)
        same = next((i for i, (a, b) in enumerate(zip(ours, other, strict=True)) if a != b), n_new)
        found.append(
            Agreement(
                prompt=prompt,
                max_error=float(np.abs(theirs - expected).max()),
                max_logit=float(np.abs(expected).max()),
                argmax_share=float((theirs.argmax(-1) == expected.argmax(-1)).mean()),
                same_greedy=same,
                n_greedy=n_new,
            )
        )
    return found


def greedy(model: LanguageModel, tokens: Sequence[int], count: int) -> list[int]:
    """Return the `count` most likely next tokens."""
    cache = model.new_cache(1, len(tokens) + count)
    new: list[int] = []
    last = torch.tensor([list(tokens)])
    for _ in range(count):
        last = model(last, cache)[:, -1:].argmax(-1)
        new.append(int(last))
    return new


def check_export(
    model: LanguageModel, tokenizer: Tokenizer, folder: Path, export_format: ExportFormat, options: ExportOptions
) -> list[Agreement]:
    """Run an exported folder in its engine and compare it with the model.

    Raises:
        InterchangeError: it is not the same function, although its weights are exact.
    """
    assert export_format.open_engine is not None
    found = compare_with_engine(model, tokenizer, export_format.open_engine(folder, model.config))
    limit = export_format.tolerance.get(options.weights)
    worst = max(found, key=lambda each: each.max_error / each.max_logit)
    if limit is not None and not worst.max_error <= limit * worst.max_logit:
        raise InterchangeError(
            f"the exported {export_format.name} differs from the model: a logit of the prompt {worst.prompt!r} by "
            f"{worst.max_error:.1e} (at most {limit * worst.max_logit:.1e} is expected); please report it"
        )
    return found
