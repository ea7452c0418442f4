"""Answering questions from an index of documents, with quotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glassgpt import console
from glassgpt.api.figures import report_figures
from glassgpt.api.load_run import load
from glassgpt.api.loaded_model import LoadedModel
from glassgpt.api.serving import chat_template
from glassgpt.data.chat.chat_template import TRANSCRIPT
from glassgpt.data.chat.jinja_template import Template
from glassgpt.data.files import check_output_path
from glassgpt.errors import UsageError
from glassgpt.retrieval.answer_evaluation import AnsweredQuestion, answer_figures, answered_questions
from glassgpt.retrieval.answering import DEFAULT_PASSAGES, DEFAULT_THRESHOLD, Answer, answer
from glassgpt.retrieval.index import Index
from glassgpt.retrieval.multiple_choice import Choice, ChoiceReader, choose
from glassgpt.retrieval.questions import read_questions
from glassgpt.retrieval.quoting import MAX_QUOTATION_TOKENS, QuotingModel
from glassgpt.retrieval.search_evaluation import evaluate_search
from glassgpt.retrieval.show_answers import show_figures


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
        max_tokens: longest quotation, at most half of the model's context.
        threshold: confidence below which the answer abstains, 0 to 1.
        template: the chat template; None takes that of the run's folder, or a plain transcript.

    Raises:
        UsageError: the question is empty, or `max_tokens` is too large.
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
    """Return a run's model, or one that is loaded, as a reader of passages; see `ask`.

    Raises:
        UsageError: quotations may be so long that little of the context is left for passages.
    """
    loaded = model if isinstance(model, LoadedModel) else load(model)
    half = loaded.model.config.context_length // 2
    if max_tokens > max(half, MAX_QUOTATION_TOKENS):
        raise UsageError(f"--max-tokens is {max_tokens:,}; it must be at most {half:,}, half of the model's context")
    if template is None:
        template = TRANSCRIPT if isinstance(model, LoadedModel) else chat_template(Path(model))
    return QuotingModel(loaded.decoding_model, loaded.tokenizer, template, max_tokens)


def evaluate_answers(
    index: str | Path | Index,
    questions: str | Path,
    *,
    model: str | Path | LoadedModel,
    template: Template | None = None,
    limit: int = 0,
    as_json: bool = False,
    json_file: Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Answer questions whose document is known, and print how well; see `evaluate_index` for those of the search alone.

    Args:
        index: folder of an index, or the open index.
        questions: see `glassgpt.retrieval.questions.read_questions`.
        model: the folder of a run, or a loaded model.
        template: see `ask`.
        limit: take this many questions from the start of the file; 0 means all.
        as_json: print one JSON object instead of a table.
        json_file: file to write the JSON object to.
        force: overwrite an existing file.

    Returns:
        The figures of `SearchReport` and of `answer_figures` by name; `accuracy` is the model's.

    Raises:
        UsageError: the index or the file of questions does not exist, or the file cannot be written.
        GlassGPTError: a question is damaged, or its document is not in the index.
    """
    opened = index if isinstance(index, Index) else Index.open(index)
    rows = read_questions(Path(questions))[: limit or None]
    if json_file is not None:
        check_output_path("--json-file", json_file, force=force)
    reader = quoting_model(model, template)
    found = asdict(evaluate_search(opened, rows))
    found["accuracy_of_search"] = found["accuracy"]
    with console.progress("answering", len(rows), unit="questions") as meter:
        answered: list[AnsweredQuestion] = []
        for each in answered_questions(opened, reader, rows):
            answered.append(each)
            meter.advance(1)
    found |= answer_figures(answered)
    report_figures(found, lambda: show_figures(found), as_json=as_json, json_file=json_file)
    return found
