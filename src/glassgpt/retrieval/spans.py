"""Spans of a passage that could answer a question, each with features that need no model.

A span is up to `MAX_WORDS` words of one of the sentences that share most words with the question, without the punctuation around it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glassgpt.retrieval.overlap import SENTENCE, Sentences, stems
from glassgpt.retrieval.pairs import FUNCTION_WORDS

MAX_SENTENCES = 4
MAX_WORDS = 10
OPENING, CLOSING = "\"'“‘([{«", ".,;:!?\"'”’)]}»…"
WORD = re.compile(r"\S+")
NUMBER = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundreds?|thousands?|millions?|billions?|dozens?|half|"
    r"twice|once)\b",
    re.IGNORECASE,
)
DATE = re.compile(
    r"\b1\d{3}\b|\b20\d\d\b|\b(?:January|February|March|April|May|June|July|August|September|October|November|December)\b"
)
KINDS = (
    ("number", re.compile(r"how (?:many|much|long|far|old|large|big|tall|high|often|fast)|percent|number|amount|population|cost")),
    ("date", re.compile(r"\bwhen\b|(?:what|which) (?:year|date|century|decade|day|month)")),
    ("person", re.compile(r"\bwho(?:m|se)?\b")),
    ("place", re.compile(r"\bwhere\b|(?:what|which) (?:city|country)")),
    ("reason", re.compile(r"\b(?:why|how)\b")),
)  # fmt: skip
"""Kinds of questions by their words, the first that fits; any other asks for a thing."""
OTHER_KIND = "thing"

GENERAL = (
    "sentence", "is_first", "near", "asked", "only_asked", "no_content", "words", "words_squared", "starts_with_function",
    "starts_with_article", "ends_with_function", "marks_inside", "ends_sentence", "before_mark", "after_mark", "after_function",
    "before_function", "before_of", "cuts_name_before", "cuts_name_after", "rarity",
)  # fmt: skip
BY_KIND = ("number", "date", "capitals", "capital", "words")
FEATURES = (*GENERAL, *(f"{kind}:{name}" for kind in (*(name for name, _ in KINDS), OTHER_KIND) for name in BY_KIND))
"""Names of the features: those of any question, and those whose weight depends on what is asked for."""

WEIGHTS: Mapping[str, float] = {
    "sentence": 8.42,
    "is_first": 0.19,
    "near": 40.39,
    "asked": -0.38,
    "only_asked": -3.04,
    "no_content": 0.08,
    "words": -0.12,
    "words_squared": -0.18,
    "starts_with_function": -3.02,
    "starts_with_article": 2.67,
    "ends_with_function": -3.39,
    "marks_inside": -0.76,
    "ends_sentence": 0.76,
    "before_mark": 1.46,
    "after_mark": 0.28,
    "after_function": 0.72,
    "before_function": 0.37,
    "before_of": -0.36,
    "cuts_name_before": -1.74,
    "cuts_name_after": -1.15,
    "rarity": 0.36,
    "number:number": 3.72,
    "number:date": -2.43,
    "number:capitals": 0.65,
    "number:capital": -1.02,
    "number:words": -0.47,
    "date:number": 4.1,
    "date:date": 1.8,
    "date:capitals": 2.06,
    "date:capital": 0.54,
    "date:words": -0.9,
    "person:number": 0.48,
    "person:date": -3.94,
    "person:capitals": 3.22,
    "person:capital": 1.68,
    "person:words": -0.02,
    "place:number": -0.05,
    "place:date": -3.63,
    "place:capitals": 1.47,
    "place:capital": 1.25,
    "place:words": 0.01,
    "reason:number": 0.69,
    "reason:date": -5.08,
    "reason:capitals": -0.01,
    "reason:capital": 0.1,
    "reason:words": 0.15,
    "thing:number": 0.37,
    "thing:date": -1.3,
    "thing:capitals": 2.53,
    "thing:capital": -0.03,
    "thing:words": 0.1,
}
"""Fitted on one half of XQuAD, on the 569 questions whose first passage has a right span (docs/log.md).

They are from a script that was not kept; the function that `python -m benchmarks.answers --fit` calls gives the same on its stored features,
within 0.012.
"""
LIKELIHOOD_WEIGHTS: Mapping[str, float] = {"features": 0.632, "read": 0.412, "expected": -0.069}
"""Weights of the sum of the weighted features and of the model's log-probabilities, for the spans that the model reads.

Fitted on 291 questions of the same half, with log-probabilities of SmolLM2 135M that a GPU computed and that were stored.
"""


@dataclass(frozen=True)
class Spans:
    """Spans of a passage.

    Attributes:
        text: the passage.
        starts: offset of the first character of each, (N,).
        ends: offset behind the last one, (N,).
        features: (N, len(FEATURES)).
    """

    text: str
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    features: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, at: int) -> str:
        return self.text[self.starts[at] : self.ends[at]]

    def ranked(self) -> list[int]:
        """Return the numbers of the spans, the most likely answer first, by their features alone."""
        return np.argsort(-self._scores(), kind="stable").tolist()

    def best(self, among: Sequence[int], read: Sequence[float], expected: Sequence[float]) -> int:
        """Return which of some spans answers best: an index into `among`.

        Args:
            among: numbers of spans, at least one.
            read: the model's log-probability of each as an answer after the passage.
            expected: the same without the passage.
        """
        scores = LIKELIHOOD_WEIGHTS["features"] * self._scores()[list(among)]
        scores += LIKELIHOOD_WEIGHTS["read"] * np.array(read) + LIKELIHOOD_WEIGHTS["expected"] * np.array(expected)
        return int(scores.argmax())

    def _scores(self) -> NDArray[np.float64]:
        return self.features @ np.array([WEIGHTS[name] for name in FEATURES])

    @classmethod
    def of_passage(cls, question: str, text: str) -> Spans:
        """Return the spans of the sentences of a passage that share most words with a question."""
        sentences = Sentences.from_passages([text])
        asked = stems(question)
        coverage = [sentences.coverage(at, asked) for at in range(len(sentences.texts))]
        best = sorted(range(len(coverage)), key=lambda at: -coverage[at])[:MAX_SENTENCES]
        ranks = {sentences.texts[at]: (rank, coverage[at]) for rank, at in enumerate(best)}
        kind = kind_of(question)
        parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
        for found in SENTENCE.finditer(text):
            if (sentence := found[0].strip()) in ranks:
                rank, covered = ranks.pop(sentence)
                start = text.index(sentence, found.start())
                parts.append(_spans_of(sentence, start, (covered, float(rank == 0)), asked, sentences, kind))
        if not parts:
            return cls(text, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, len(FEATURES))))
        starts, ends, features = (np.concatenate(each) for each in zip(*parts, strict=True))
        return cls(text, starts, ends, features)


def kind_of(question: str) -> str:
    """Return what a question asks for: see `KINDS`."""
    asked = question.lower()
    return next((name for name, pattern in KINDS if pattern.search(asked)), OTHER_KIND)


def _spans_of(
    sentence: str,
    offset: int,
    of_sentence: tuple[float, float],
    asked: frozenset[str],
    sentences: Sentences,
    kind: str,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return starts, ends and features of the spans of one sentence.

    Args:
        sentence: its text.
        offset: of the sentence in the passage.
        of_sentence: its coverage of the question, and 1 if no other one's is greater.
        asked: the terms of the question.
        sentences: of the passage, for the weights of words.
        kind: of the question.
    """
    bounds = [(at, stop) for at, stop in map(_inside, WORD.finditer(sentence)) if stop > at]
    n = len(bounds)
    if not n:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, len(FEATURES)))
    words = _Words.of(sentence, bounds, asked, sentences)
    first = np.repeat(np.arange(n), MAX_WORDS)
    last = first + np.tile(np.arange(MAX_WORDS), n)
    first, last = first[last < n], last[last < n]
    count = last - first + 1

    def inside(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.concatenate([[0.0], np.cumsum(values)])
        return sums[last + 1] - sums[first]

    content, in_question = inside(1 - words.is_function), inside(words.is_asked)
    near_left, near_right = _nearness(words.is_asked * words.rarity)
    before, after = first - 1, np.minimum(last + 1, n - 1)
    has_before, has_after = first > 0, last < n - 1
    by_name = {
        "sentence": np.full(len(first), of_sentence[0]),
        "is_first": np.full(len(first), of_sentence[1]),
        "near": (near_left[first] + near_right[last]) / max(1e-6, sentences.weight(asked)),
        "asked": in_question,
        "only_asked": (content > 0) & (in_question == content),
        "no_content": content == 0,
        "words": count,
        "words_squared": count**2 / 10,
        "starts_with_function": words.is_function[first],
        "starts_with_article": words.is_article[first],
        "ends_with_function": words.is_function[last],
        "marks_inside": inside(words.has_mark_after) - words.has_mark_after[last],
        "ends_sentence": last == n - 1,
        "before_mark": words.has_mark_after[last],
        "after_mark": np.where(has_before, words.has_mark_after[before], 0),
        "after_function": np.where(has_before, words.is_function[before], 0),
        "before_function": np.where(has_after, words.is_function[after], 0),
        "before_of": np.where(has_after, words.is_of[after], 0),
        "cuts_name_before": np.where(has_before, words.is_capital[before] * words.is_capital[first], 0),
        "cuts_name_after": np.where(has_after, words.is_capital[after] * words.is_capital[last], 0),
        "rarity": inside(words.rarity) / 10,
        f"{kind}:number": inside(words.is_number) > 0,
        f"{kind}:date": inside(words.is_date) > 0,
        f"{kind}:capitals": (content > 0) & (inside(words.is_capital * (1 - words.is_function)) == content),
        f"{kind}:capital": inside(words.is_capital) - words.is_capital[0] * (first == 0) > 0,
        f"{kind}:words": count,
    }
    features = np.zeros((len(first), len(FEATURES)))
    for name, values in by_name.items():
        features[:, FEATURES.index(name)] = values
    starts, ends = np.array(bounds).T + offset
    return starts[first], ends[last], features


def _nearness(weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return for each word the sum of the weights before it, and of those behind it, each divided by 1 + its distance in words.

    A convolution, because a table of all spans and words of the question would not fit into memory for the longest passages.
    """
    n = len(weights)
    shares = 1 / np.arange(1.0, n + 1)
    shares[0] = 0  # the word itself
    return np.convolve(weights, shares)[:n], np.convolve(weights[::-1], shares)[:n][::-1]


def _inside(found: re.Match[str]) -> tuple[int, int]:
    """Return the offsets of a word without the punctuation around it."""
    word = found[0]
    return found.start() + len(word) - len(word.lstrip(OPENING)), found.start() + len(word.rstrip(CLOSING))


@dataclass(frozen=True)
class _Words:
    """Properties of each word of a sentence, (words,) each."""

    is_function: NDArray[np.float64]
    is_article: NDArray[np.float64]
    is_of: NDArray[np.float64]
    is_asked: NDArray[np.float64]
    is_capital: NDArray[np.float64]
    is_number: NDArray[np.float64]
    is_date: NDArray[np.float64]
    has_mark_after: NDArray[np.float64]
    rarity: NDArray[np.float64]

    @classmethod
    def of(
        cls, sentence: str, bounds: Sequence[tuple[int, int]], asked: frozenset[str], sentences: Sentences
    ) -> _Words:
        texts = [sentence[start:end] for start, end in bounds]
        lower = [text.lower() for text in texts]
        terms = [stems(text) for text in texts]
        is_function = [text in FUNCTION_WORDS for text in lower]
        next_starts = [start for start, _ in bounds[1:]] + [len(sentence)]

        def array(values: Sequence[object]) -> NDArray[np.float64]:
            return np.array(values, np.float64)

        return cls(
            is_function=array(is_function),
            is_article=array([text in ("a", "an", "the") for text in lower]),
            is_of=array([text == "of" for text in lower]),
            is_asked=array([
                bool(own & asked) and not function for own, function in zip(terms, is_function, strict=True)
            ]),
            is_capital=array([text[:1].isupper() for text in texts]),
            is_number=array([bool(NUMBER.search(text)) for text in texts]),
            is_date=array([bool(DATE.search(text)) for text in texts]),
            has_mark_after=array([
                bool(sentence[end:following].strip()) for (_, end), following in zip(bounds, next_starts, strict=True)
            ]),
            rarity=array([max((sentences.weights.get(term, 0.0) for term in own), default=0.0) for own in terms]),
        )  # fmt: skip
