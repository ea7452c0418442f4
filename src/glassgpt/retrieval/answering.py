"""Answer a question with quotations from the passages that an index finds, or abstain.

1. The index finds passages.
2. The model scores each passage by how much more probable it makes the question (Ponte & Croft 1998). Together with the search's score
   this gives the order of the passages.
3. The model quotes from the best ones; each passage is read alone, so none can change what another one says.
4. A logistic function of three features gives the probability that the evidence carries the answer; below a threshold
   there is no answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glassgpt.errors import UsageError
from glassgpt.retrieval.confidence import ORDER_BY_QUESTION, confidence
from glassgpt.retrieval.model_requests import Steps, run_steps
from glassgpt.retrieval.overlap import stems
from glassgpt.retrieval.passages import Passage
from glassgpt.retrieval.quoting import Quotation, QuotingModel

if TYPE_CHECKING:
    from glassgpt.retrieval.index import Hit, Index

DEFAULT_PASSAGES = 5
DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Evidence:
    """A passage with its scores.

    Attributes:
        number: of the passage in the answer, from 1, the best first.
        hit: what the search found.
        question_gain: by how much the passage raises the mean log-probability of the question's tokens, in nats.
    """

    number: int
    hit: Hit
    question_gain: float

    @property
    def passage(self) -> Passage:
        """The passage."""
        return self.hit.passage


@dataclass(frozen=True)
class Answer:
    """Quotations that answer a question, with their sources.

    Attributes:
        question: as asked.
        quotations: one for each sentence of the answer; also there if it abstains, for who wants to see them.
        evidence: the passages, the best first; `evidence[n - 1]` is source [n].
        confidence: probability that the passages carry the answer.
        abstains: the confidence is below the threshold, or nothing was found or quoted.
        features: of the confidence, by name.
    """

    question: str
    quotations: tuple[Quotation, ...]
    evidence: tuple[Evidence, ...]
    confidence: float
    abstains: bool
    features: Mapping[str, float]

    @property
    def text(self) -> str:
        """The quotations, each with the number of its source; empty if it abstains."""
        return "" if self.abstains else " ".join(f"“{each.text}” [{each.number}]" for each in self.quotations)


def answer(
    index: Index,
    reader: QuotingModel,
    question: str,
    *,
    passages: int = DEFAULT_PASSAGES,
    quotations: int = 1,
    threshold: float = DEFAULT_THRESHOLD,
) -> Answer:
    """Answer a question from an index.

    Args:
        index: of the documents.
        reader: the model.
        question: to be answered.
        passages: to read.
        quotations: most quotations, each from another passage.
        threshold: confidence below which the answer abstains, 0 to 1.

    Raises:
        UsageError: the question is empty.
        GenerationError: it does not fit the model's context.
    """
    if not question.strip():
        raise UsageError("the question is empty; ask something")
    return answer_from_hits(
        reader, question, index.search(question, passages), quotations=quotations, threshold=threshold
    )


def answer_from_hits(
    reader: QuotingModel,
    question: str,
    hits: Sequence[Hit],
    *,
    quotations: int = 1,
    threshold: float = DEFAULT_THRESHOLD,
) -> Answer:
    """Answer a question from passages that were found; see `answer`."""
    steps = answer_steps(reader, question, hits, quotations=quotations, threshold=threshold)
    return run_steps(reader.model, reader.tokenizer, steps)


def answer_steps(
    reader: QuotingModel,
    question: str,
    hits: Sequence[Hit],
    *,
    quotations: int = 1,
    threshold: float = DEFAULT_THRESHOLD,
) -> Steps[Answer]:
    """Answer a question in steps, between which others can use the model; see `answer`."""
    if not hits:
        return Answer(question, (), (), 0.0, True, {})
    without = reader.prompt(question)
    expected = yield from reader.question_logprob(without)
    gains: list[float] = []
    for number, hit in enumerate(hits, 1):
        gains.append((yield from reader.question_logprob(reader.prompt(question, number, hit.passage))) - expected)
    evidence = _ordered(hits, gains)
    best = evidence[:quotations]
    quoted = yield from reader.quote(question, [each.passage for each in best], [each.number for each in best])
    features = {
        **_search_features(question, evidence[0].passage, hits),
        "question_gain": evidence[0].question_gain,
        "answer_logprob": quoted[0].logprob,
        "answer_gain": quoted[0].logprob - quoted[0].expected,
    }
    sure, left = confidence(features), tuple(_distinct([each.quotation for each in quoted]))
    return Answer(question, left, evidence, sure, sure < threshold or not left, features)


def _ordered(hits: Sequence[Hit], gains: Sequence[float]) -> tuple[Evidence, ...]:
    """Return the passages by the search's score, as a share of the best, and what they say about the question."""
    top = hits[0].score
    order = sorted(range(len(hits)), key=lambda at: -(hits[at].score / top + ORDER_BY_QUESTION * gains[at]))
    return tuple(Evidence(number, hits[at], gains[at]) for number, at in enumerate(order, 1))


def _distinct(quotations: Sequence[Quotation]) -> list[Quotation]:
    """Leave out empty quotations, and those with the words of an earlier one."""
    named = {" ".join(each.text.lower().split()): each for each in reversed(quotations) if each.text}
    return list(named.values())[::-1]


def _search_features(question: str, passage: Passage, hits: Sequence[Hit]) -> dict[str, float]:
    """Return what the search says: the best score, its lead over the last, and the share of the question's terms in the passage."""
    asked = stems(question)
    terms = stems(f"{passage.heading} {passage.text}")
    scores = sorted((hit.lexical_score for hit in hits), reverse=True)
    return {
        "score_per_word": scores[0] / max(1, len(asked)),
        "margin": (scores[0] - scores[-1]) / scores[0] if scores[0] else 0.0,
        "coverage": len(asked & terms) / max(1, len(asked)),
    }
