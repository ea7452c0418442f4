"""Answering questions from an index of documents, with quotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glassgpt.api.loaded_model import LoadedModel
from glassgpt.api.loading import load
from glassgpt.api.serving import chat_template
from glassgpt.data.chat.chat_template import TRANSCRIPT
from glassgpt.data.chat.jinja_template import Template
from glassgpt.retrieval.answering import DEFAULT_PASSAGES, DEFAULT_THRESHOLD, Answer, answer
from glassgpt.retrieval.index import Index
from glassgpt.retrieval.multiple_choice import Choice, ChoiceReader, choose
from glassgpt.retrieval.quoting import MAX_QUOTATION_TOKENS, QuotingModel


def ask(
    index: str | Path | Index,
    question: str,
    *,
    model: str | Path | LoadedModel,
    passages: int = DEFAULT_PASSAGES,
    quotations: int = 1,
    max_tokens: int = MAX_QUOTATION_TOKENS,
    threshold: float = DEFAULT_THRESHOLD,
    template: Template | None = None,
) -> Answer:
    """Answer a question with quotations from indexed documents, or abstain.

    Args:
        index: the folder of an index, or one that is open.
        question: to be answered.
        model: the folder of a run, or a loaded model.
        passages: to read, at least 1.
        quotations: most quotations, each from another passage.
        max_tokens: longest quotation.
        threshold: confidence below which the answer abstains, 0 to 1.
        template: the chat template; None takes that of the run's folder, or a plain transcript.

    Raises:
        UsageError: the question is empty.
        GenerationError: it does not fit the model's context.
        GlassGPTError: the run or the index cannot be read.
    """
    opened = index if isinstance(index, Index) else Index.open(Path(index))
    reader = quoting_model(model, template, max_tokens)
    return answer(opened, reader, question, passages=passages, quotations=quotations, threshold=threshold)


def ask_options(
    index: str | Path | Index, question: str, options: Sequence[str], *, model: str | Path | LoadedModel
) -> Choice:
    """Choose the option that answers a question best, from indexed documents and the model; see `ask`.

    Raises:
        UsageError: there are fewer than two options, or they do not fit the model's context.
        GlassGPTError: the run or the index cannot be read.
    """
    opened = index if isinstance(index, Index) else Index.open(Path(index))
    loaded = model if isinstance(model, LoadedModel) else load(model)
    return choose(ChoiceReader(loaded.decoding_model, loaded.tokenizer), opened, question, options)


def quoting_model(
    model: str | Path | LoadedModel, template: Template | None = None, max_tokens: int = MAX_QUOTATION_TOKENS
) -> QuotingModel:
    """Return a run's model, or one that is loaded, as a reader of passages; see `ask`."""
    loaded = model if isinstance(model, LoadedModel) else load(model)
    if template is None:
        template = TRANSCRIPT if isinstance(model, LoadedModel) else chat_template(Path(model))
    return QuotingModel(loaded.decoding_model, loaded.tokenizer, template, max_tokens)
