"""Evaluate an index on questions whose document is known."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from glassgpt.errors import DataError
from glassgpt.retrieval.index import Hit, Index
from glassgpt.retrieval.questions import Question

SEARCHED = 100
"""Passages among which the documents of a question are ranked."""


@dataclass(frozen=True)
class SearchReport:
    """Figures of an index on questions.

    A document's rank is that of its best passage among the documents found. A passage counts for all documents that contain
    its text, because the search returns such passages as one hit.

    Attributes:
        questions: number of questions.
        recall_at_1: share whose document is the first one.
        recall_at_5: share whose document is among the first five.
        passage_recall_at_5: share with a passage of their document among the first five passages, which is stricter.
        mrr: mean of 1 / rank, 0 for a document that is not found.
        accuracy: share of questions with options for which the best passage for question and option is that of the right
            one; None without options.
        milliseconds: median time of a search.
    """

    questions: int
    recall_at_1: float
    recall_at_5: float
    passage_recall_at_5: float
    mrr: float
    accuracy: float | None
    milliseconds: float


def evaluate_search(
    index: Index, questions: Sequence[Question], advance: Callable[[int], None] = lambda count: None
) -> SearchReport:
    """Search for each question.

    Args:
        index: to search.
        questions: at least one.
        advance: called with the number of questions that were searched for.

    Raises:
        DataError: the document of a question is not in the index.
    """
    gold = _gold_documents(index, questions)
    ranks: list[float] = []
    is_among_passages: list[bool] = []
    is_right: list[bool] = []
    seconds: list[float] = []
    for question, documents in zip(questions, gold, strict=True):
        start = time.perf_counter()
        index.search(question.text)
        seconds.append(time.perf_counter() - start)
        hits = index.search(question.text, SEARCHED)
        ranks.append(_rank(index, hits, documents))
        is_among_passages.append(any(documents & _documents(index, hit) for hit in hits[:5]))
        if question.options:
            is_right.append(choose_by_search(index, question) == question.correct)
        advance(1)
    rank = np.array(ranks)
    return SearchReport(
        questions=len(questions),
        recall_at_1=float((rank <= 1).mean()),
        recall_at_5=float((rank <= 5).mean()),
        passage_recall_at_5=float(np.mean(is_among_passages)),
        mrr=float((1 / rank).mean()),
        accuracy=float(np.mean(is_right)) if is_right else None,
        milliseconds=1000 * float(np.median(seconds)),
    )


def choose_by_search(index: Index, question: Question) -> int:
    """Return the number of the option that together with the question has the best passage."""
    best = [index.search(f"{question.text} {option}", 1) for option in question.options]
    return int(np.argmax([hits[0].score if hits else 0.0 for hits in best]))


def _rank(index: Index, hits: Sequence[Hit], gold: frozenset[int]) -> float:
    """Return the rank of the first document found that is one of these, or infinity."""
    before: set[int] = set()
    for hit in hits:
        if gold & _documents(index, hit):
            return len(before) + 1
        before.add(int(index.document_of_passage[hit.passage.number]))
    return np.inf


def _documents(index: Index, hit: Hit) -> frozenset[int]:
    """Return the documents that contain the text of a hit."""
    return frozenset(index.document_of_passage[index.same_text(hit.passage.number)].tolist())


def _gold_documents(index: Index, questions: Sequence[Question]) -> list[frozenset[int]]:
    """Return the documents that answer each question: all of its source, or the first that contains its paragraph."""
    by_source: dict[str, set[int]] = defaultdict(set)
    for number in range(len(index.store.documents)):
        by_source[index.store.source(number)[0]].add(number)
    by_context = {context: index.store.find(context) for context in {each.context for each in questions} if context}
    gold = [
        {by_context[each.context]} - {None} if each.context else by_source.get(each.source, set()) for each in questions
    ]
    missing = [each.source or each.context[:60] for each, numbers in zip(questions, gold, strict=True) if not numbers]
    if missing:
        raise DataError(
            f"the index does not contain the document of {len(missing):,} of {len(questions):,} questions, such as {missing[0]}; "
            "index the documents that the questions are about"
        )
    return [frozenset(number for number in numbers if number is not None) for numbers in gold]
