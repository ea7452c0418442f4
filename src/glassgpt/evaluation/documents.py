"""Each held-out document by itself: which texts a model finds easy, and which it does not understand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glassgpt import console
from glassgpt.data.shards import TokenArray, TokenDataset
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import DataError
from glassgpt.evaluation.perplexity import Span, check_stride, held_out_tokens, span_nats
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loss import ValidationLoss

EXCERPT_TOKENS = 40
EXCERPT_CHARACTERS = 60


@dataclass(frozen=True)
class DocumentLoss:
    """What predicting one document cost.

    Attributes:
        number: which of the held-out documents it is, from 1.
        loss: over its tokens and the end-of-text after it.
        excerpt: how it begins, on one line.
    """

    number: int
    loss: ValidationLoss
    excerpt: str


def document_spans(tokens: NDArray[np.int64], end_of_text: int) -> list[Span]:
    """Every document with the end-of-text before it, which is given, and the one after it, which is to be predicted.

    Together their targets are all tokens but the first. A document without any text still has its span.

    Args:
        tokens: (N,) a split's tokens.
        end_of_text: the id that stands before each document.
    """
    starts = np.flatnonzero(tokens == end_of_text).tolist()
    if not starts or starts[0] != 0:
        starts = [0, *starts]
    ends = [*(start + 1 for start in starts[1:]), len(tokens)]
    return [Span(start, end - start) for start, end in zip(starts, ends, strict=True)]


def is_empty(tokens: NDArray[np.int64], span: Span, end_of_text: int) -> bool:
    """Whether a document has no text."""
    return bool((tokens[span.start : span.start + span.tokens] == end_of_text).all())


def document_losses(
    model: LanguageModel, dataset: TokenDataset, *, stride: int = 0, context_length: int = 0
) -> list[DocumentLoss]:
    """Loss of each held-out document, read alone: nothing of the document before it is in view.

    Args:
        model: in evaluation mode.
        dataset: its `validation` split is read.
        stride: see `sliding_loss`; 0 takes windows without overlap.
        context_length: tokens a window; 0 takes the model's context.

    Returns:
        In the text's order; documents without text are passed over, and that is said.

    Raises:
        UsageError: the stride is not between 1 and the context.
        DataError: there is no held-out text, or no document with text in it.
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
        console.info(f"passed over {len(numbered) - len(kept):,} held-out documents without text")
    spans = [span for _, span in kept]
    with console.progress("documents", sum(span.targets for span in spans), unit="tokens") as meter:
        nats = span_nats(model, array, spans, context=context, stride=stride or context, meter=meter)
    return _losses(array, dataset.tokenizer, kept, nats)


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
    """A text on one line, cut where it is longer than so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= characters else line[: characters - 1].rstrip() + "…"
