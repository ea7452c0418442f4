"""Loss of a model on what the assistant says in held-out conversations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glassgpt.data.chat.render import Rendered
from glassgpt.data.shards import TokenArray
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import DataError
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.evaluation.perplexity import Span, span_nats
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loss import ValidationLoss


def assistant_loss(
    model: LanguageModel,
    tokenizer: Tokenizer,
    conversations: Sequence[Rendered],
    *,
    observer: EvaluationObserver = SILENT,
) -> ValidationLoss:
    """Return the loss of the tokens that fine-tuning would learn: the assistant's messages with their stop tokens.

    Each message is scored after all that precedes it in its conversation. Conversations longer than the context are
    evaluated by a window that advances by half of it.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        conversations: rendered with the model's template.
        observer: receives progress.

    Raises:
        DataError: no token is supervised.
    """
    tokens, spans, n_bytes = _spans(tokenizer, conversations)
    total = sum(span.targets for span in spans)
    if not total:
        raise DataError("the assistant says nothing in these conversations, so there is no loss to measure")
    context = model.config.context_length
    with observer.progress("evaluating", total) as advance:
        nats = span_nats(model, tokens, spans, context=context, stride=max(1, context // 2), advance=advance)
    return ValidationLoss(float(nats.sum()), total, n_bytes)


def _spans(tokenizer: Tokenizer, conversations: Sequence[Rendered]) -> tuple[TokenArray, list[Span], int]:
    """Return all tokens, a span for each supervised message, which begins at its conversation's start, and their bytes."""
    lengths = tokenizer.byte_lengths()
    spans: list[Span] = []
    start, n_bytes = 0, 0
    for each in conversations:
        for first, last in each.spans:
            if first < last and each.supervised[first]:
                given = max(1, first)  # the first token of all is predicted from nothing
                spans.append(Span(start, last, given))
                n_bytes += int(lengths[each.tokens[given:last]].sum())
        start += len(each.tokens)
    everything = np.array([token for each in conversations for token in each.tokens], dtype=np.int64)
    return TokenArray([everything]), spans, n_bytes
