"""Evaluate answers on questions whose document is known: verbatim quotations, exact match, F1, accuracy, abstention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from glassgpt.retrieval.answer_metrics import auroc, exact_match, f1
from glassgpt.retrieval.answering import DEFAULT_PASSAGES, Answer, answer_steps
from glassgpt.retrieval.model_requests import Steps, run_together
from glassgpt.retrieval.multiple_choice import ChoiceReader, choice_steps
from glassgpt.retrieval.passages import Passage
from glassgpt.retrieval.questions import Question
from glassgpt.retrieval.quoting import Quotation, QuotingModel

if TYPE_CHECKING:
    from glassgpt.retrieval.index import Hit, Index

QUESTIONS_AT_ONCE = {"cuda": 256}
"""Questions that are answered together, by device; on a CPU one by one, which is as fast there and needs less memory."""
SEARCHED = 4
"""Times as many passages are searched as are read, so that enough remain without those of the answer's document."""


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with the answers that were given.

    Attributes:
        question: as asked.
        found: the answer from all passages.
        without: the answer from the passages of other documents, which cannot carry it.
        is_findable: whether a passage of the answer's document was among those that were read.
        option: index of the chosen option; None without options.
        closed_option: index of the option that the model finds most probable without any passage.
    """

    question: Question
    found: Answer
    without: Answer
    is_findable: bool
    option: int | None = None
    closed_option: int | None = None


def answered_questions(
    index: Index,
    reader: QuotingModel,
    questions: Sequence[Question],
    *,
    passages: int = DEFAULT_PASSAGES,
) -> Iterator[AnsweredQuestion]:
    """Yield each question with its answers, as soon as it is answered.

    Args:
        index: of the documents.
        reader: the model.
        questions: to be asked.
        passages: to read for each.

    Raises:
        GlassGPTError: a question does not fit the model's context.
    """
    every = (_answer_steps(index, reader, question, passages) for question in questions)
    device = next(reader.model.parameters()).device.type
    yield from run_together(reader.model, reader.tokenizer, every, QUESTIONS_AT_ONCE.get(device, 1))


def _answer_steps(index: Index, reader: QuotingModel, question: Question, passages: int) -> Steps[AnsweredQuestion]:
    hits = index.search(question.text, SEARCHED * passages)
    read = hits[:passages]
    others = [hit for hit in hits if not _is_from(hit, question)][:passages]
    found = yield from answer_steps(reader, question.text, read)
    without = found if others == read else (yield from answer_steps(reader, question.text, others))
    is_findable = any(_is_from(hit, question) for hit in read)
    if not question.options:
        return AnsweredQuestion(question, found, without, is_findable)
    chooser = ChoiceReader(reader.model, reader.tokenizer)
    choice = yield from choice_steps(chooser, index, question.text, question.options)
    closed = choice.features["closed"]
    return AnsweredQuestion(question, found, without, is_findable, choice.option, closed.index(max(closed)))


def _is_from(hit: Hit, question: Question) -> bool:
    """Return whether a passage is of the document, or the paragraph, that answers a question."""
    if question.context:
        return hit.passage.text in question.context or question.context in hit.passage.text
    return question.source in (hit.passage.source, hit.passage.path)


def answer_figures(answered: Sequence[AnsweredQuestion]) -> dict[str, float]:
    """Return the metrics of answers by name; those that nothing can be said about are left out.

    `verbatim` is the share of quotations that are the characters of their passage at their offsets. `exact_match` and `f1` count each answer, also
    one that would not be given. `accuracy` is that of options, `accuracy_closed_book` that of the model without passages. `abstention_auroc`
    is the probability that the confidence with the answer's document is above that without it.
    """
    quotations = [
        _is_verbatim(each, found.evidence[each.number - 1].passage)
        for one in answered
        for found in (one.found, one.without)
        for each in found.quotations
    ]
    with_answers = [each for each in answered if each.question.answers]
    with_options = [each for each in answered if each.question.options]
    findable = [each.found.confidence for each in answered if each.is_findable]
    figures = {
        "verbatim": _mean(quotations),
        "exact_match": _mean([exact_match(_quoted(each), each.question.answers) for each in with_answers]),
        "f1": _mean([f1(_quoted(each), each.question.answers) for each in with_answers]),
        "accuracy": _mean([each.option == each.question.correct for each in with_options]),
        "accuracy_closed_book": _mean([each.closed_option == each.question.correct for each in with_options]),
        "answered": _mean([not each.found.abstains for each in answered]),
        "abstention_auroc": auroc(findable, [each.without.confidence for each in answered]) if findable else None,
    }
    return {name: value for name, value in figures.items() if value is not None}


def _is_verbatim(quotation: Quotation, passage: Passage) -> bool:
    return passage.text[quotation.start - passage.start : quotation.end - passage.start] == quotation.text


def _quoted(each: AnsweredQuestion) -> str:
    return each.found.quotations[0].text if each.found.quotations else ""


def _mean(values: Sequence[float | bool]) -> float | None:
    return float(np.mean(values)) if values else None
