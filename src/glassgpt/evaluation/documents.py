"""Loss of each held-out document, to see which texts a model finds easy or hard."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.origins import read_origins
from glassgpt.data.shards import TokenArray, TokenDataset
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import DataError
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.evaluation.perplexity import Span, check_stride, held_out_tokens, span_nats
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loss import ValidationLoss

EXCERPT_TOKENS = 40
EXCERPT_CHARACTERS = 60
PLACE = re.compile(r", \w+ \d+$")
"""The place within a file at the end of an origin, as in `book.txt, line 3`."""


@dataclass(frozen=True)
class DocumentLoss:
    """Loss of one document.

    Attributes:
        number: position among the held-out documents, from 1.
        loss: over its tokens and the end-of-text token after it.
        excerpt: its beginning, on one line.
        origin: file and line or row that it comes from; empty if the dataset does not know it.
    """

    number: int
    loss: ValidationLoss
    excerpt: str
    origin: str = ""


def document_spans(tokens: NDArray[np.int64], end_of_text: int) -> list[Span]:
    """Return the span of each document, including the end-of-text token before it (context) and after it (target).

    Together their targets are all tokens but the first. An empty document has a span too.

    Args:
        tokens: (N,) tokens of a split.
        end_of_text: the id that precedes each document.
    """
    starts = np.flatnonzero(tokens == end_of_text).tolist()
    if not starts or starts[0] != 0:
        starts = [0, *starts]
    ends = [*(start + 1 for start in starts[1:]), len(tokens)]
    return [Span(start, end - start) for start, end in zip(starts, ends, strict=True)]


def is_empty(tokens: NDArray[np.int64], span: Span, end_of_text: int) -> bool:
    """Return whether a document has no text."""
    return bool((tokens[span.start : span.start + span.tokens] == end_of_text).all())


def document_losses(
    model: LanguageModel,
    dataset: TokenDataset,
    *,
    stride: int = 0,
    context_length: int = 0,
    observer: EvaluationObserver = SILENT,
) -> list[DocumentLoss]:
    """Return the loss of each held-out document, evaluated alone: the previous document is not part of its context.

    Args:
        model: in evaluation mode.
        dataset: its `validation` split is read.
        stride: see `sliding_loss`; 0 means windows without overlap.
        context_length: tokens per window; 0 means the model's context.
        observer: receives progress, and a notice if empty documents are skipped.

    Returns:
        One entry for each document that is not empty, in order.

    Raises:
        UsageError: the stride is not between 1 and the context.
        DataError: there is no held-out text, or every document is empty.
    """
    context = context_length or model.config.context_length
    check_stride(stride or context, context)
    array = held_out_tokens(dataset)
    tokens = array.read(0, len(array))
    end = dataset.tokenizer.end_of_text
    numbered = list(enumerate(document_spans(tokens, end), start=1))
    kept = [(number, span) for number, span in numbered if span.targets and not is_empty(tokens, span, end)]
    if not kept:
        raise DataError(f"{dataset.folder}: every held-out document is empty; prepare it again with text in it")
    if len(kept) < len(numbered):
        observer.notice(f"skipped {len(numbered) - len(kept):,} empty held-out documents")
    spans = [span for _, span in kept]
    with observer.progress("documents", sum(span.targets for span in spans)) as advance:
        nats = span_nats(model, array, spans, context=context, stride=stride or context, advance=advance)
    origins = read_origins(dataset.folder, len(numbered))
    losses = _losses(array, dataset.tokenizer, kept, nats)
    return [replace(loss, origin=origins[loss.number - 1]) if origins else loss for loss in losses]


def file_type_losses(documents: Sequence[DocumentLoss]) -> dict[str, ValidationLoss]:
    """Return the loss by the suffix of the files that the documents come from, of the most tokens first.

    Documents of unknown origin, and of files without a suffix, are those of "". Empty if there is one type alone.
    """
    groups: dict[str, list[ValidationLoss]] = defaultdict(list)
    for document in documents:
        groups[PurePath(PLACE.sub("", document.origin)).suffix.lower()].append(document.loss)
    sums = {
        name: ValidationLoss(
            sum(each.nats for each in group), sum(each.tokens for each in group), sum(each.n_bytes for each in group)
        )
        for name, group in groups.items()
    }
    return dict(sorted(sums.items(), key=lambda item: -item[1].tokens)) if len(sums) > 1 else {}


def _losses(
    tokens: TokenArray, tokenizer: Tokenizer, documents: Sequence[tuple[int, Span]], nats: NDArray[np.float64]
) -> list[DocumentLoss]:
    lengths = tokenizer.byte_lengths()
    losses: list[DocumentLoss] = []
    for (number, span), cost in zip(documents, nats, strict=True):
        ids = tokens.read(span.start, span.tokens)
        loss = ValidationLoss(float(cost), span.targets, int(lengths[ids[1:]].sum()))
        text = tokenizer.decode(ids[: EXCERPT_TOKENS + 1][ids[: EXCERPT_TOKENS + 1] != tokenizer.end_of_text].tolist())
        losses.append(DocumentLoss(number, loss, shorten(text, EXCERPT_CHARACTERS)))
    return losses


def shorten(text: str, characters: int) -> str:
    """Return a text on one line, truncated to a number of characters."""
    line = " ".join(text.split())
    return line if len(line) <= characters else line[: characters - 1].rstrip() + "…"
