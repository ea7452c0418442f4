"""Features of the options of a question that need no model: scores of the search, and shared words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from glassgpt.retrieval.overlap import Sentences, stems
from glassgpt.retrieval.prompts import ABOUT_OTHERS, BLANK

if TYPE_CHECKING:
    from glassgpt.retrieval.index import Hit, Index

CONTEXT_PASSAGES = 20
"""Passages of the question alone in which options are looked for, weighted by their scores."""
CONTEXT_SENTENCES_FROM = 6
PASSAGES_PER_OPTION = 3
NEGATIONS = (" not ", " except", "false", "least")
SCORE_SCALE = 2.0
"""Difference of two scores that makes a passage e times as likely to be the right one."""

SEARCH_FEATURES = (
    "search", "search_sum", "document", "weight", "about_others", "negated", "context_sentence", "context",
)  # fmt: skip
"""Features of an option: the best score of a passage for question and option, the sum of the first three, and the part of it that is the
document's; the weight of the option's terms; whether it is about the other options; the best score with the sign turned where
the question asks what is not so; the best sentence, and the passages of the question alone, that have the option's terms."""


@dataclass(frozen=True)
class OptionSearch:
    """The passages found for a question and its options.

    Attributes:
        question: as asked.
        options: to choose from.
        of_question: hits of the question alone.
        of_options: hits of the question with each option.
        of_all: hits of the question with all options.
    """

    question: str
    options: tuple[str, ...]
    of_question: tuple[Hit, ...]
    of_options: tuple[tuple[Hit, ...], ...]
    of_all: tuple[Hit, ...]

    @classmethod
    def run(cls, index: Index, question: str, options: Sequence[str]) -> OptionSearch:
        """Search for a question and its options; a gap in the question is left out."""
        asked = BLANK.sub(" ", question)
        return cls(
            question,
            tuple(options),
            tuple(index.search(asked, CONTEXT_PASSAGES)),
            tuple(tuple(index.search(f"{asked} {option}", PASSAGES_PER_OPTION)) for option in options),
            tuple(index.search(f"{asked} {' '.join(options)}", PASSAGES_PER_OPTION)),
        )

    @cached_property
    def asked(self) -> frozenset[str]:
        """The terms of the question."""
        return stems(BLANK.sub(" ", self.question))

    @cached_property
    def option_terms(self) -> list[frozenset[str]]:
        """The terms of each option."""
        return [stems(option) for option in self.options]

    @cached_property
    def hits(self) -> list[Hit]:
        """The passages that the evidence is taken from, each once."""
        found = [
            *self.of_all,
            *self.of_question[:CONTEXT_SENTENCES_FROM],
            *(hit for each in self.of_options for hit in each),
        ]
        return list({hit.passage.number: hit for hit in found}.values())

    @cached_property
    def sentences(self) -> Sentences:
        """The sentences of these passages."""
        return Sentences.from_passages([hit.passage.text for hit in self.hits])

    def features(self) -> dict[str, list[float]]:
        """Return the value of each feature for each option, by name; see `SEARCH_FEATURES`."""
        scores = [[hit.lexical_score for hit in each] or [0.0] for each in self.of_options]
        best = max(map(max, scores)) or 1.0
        is_negated = any(word in self.question.lower() for word in NEGATIONS)
        found: dict[str, list[float]] = {
            "search": [max(each) / best for each in scores],
            "search_sum": [sum(each) / best for each in scores],
            "document": [(each[0].scores.get("document", 0.0) if each else 0.0) / best for each in self.of_options],
            "weight": [self.sentences.weight(own) for own in self.option_terms],
            "about_others": [float(option.lower().startswith(ABOUT_OTHERS)) for option in self.options],
        }
        found["negated"] = [-value if is_negated else 0.0 for value in found["search"]]
        return found | {
            "context_sentence": [self._best_sentence(terms - self.asked) for terms in self.option_terms],
            "context": self._in_context(),
        }

    def _best_sentence(self, own: frozenset[str]) -> float:
        """Return how well a single sentence covers both the question and an option's own terms: the product of the shares."""
        every = self.sentences
        shares = [
            (every.coverage(at, self.asked), every.coverage(at, own) if own else 0.5) for at in range(len(every.texts))
        ]
        return max((asked * option for asked, option in shares), default=0.0)

    def _in_context(self) -> list[float]:
        """Return how much of each option's own terms stands in the passages of the question, weighted by their scores."""
        if not self.of_question:
            return [0.0] * len(self.options)
        contexts = [stems(f"{hit.passage.heading} {hit.passage.text}") for hit in self.of_question]
        scores = np.array([hit.lexical_score for hit in self.of_question])
        chances = np.exp((scores - scores.max()) / SCORE_SCALE)
        chances /= chances.sum()
        return [
            float(chances @ [self._share(terms - self.asked, each) for each in contexts]) for terms in self.option_terms
        ]

    def _share(self, terms: frozenset[str], passage: frozenset[str]) -> float:
        """Return the share of terms, by weight, that a passage has; one half if there are no terms."""
        total = self.sentences.weight(terms)
        return self.sentences.weight(terms & passage) / total if total else 0.5
