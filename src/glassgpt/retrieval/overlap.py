"""Words that a question shares with sentences: which sentences bear on it, and how much of it a passage covers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glassgpt.retrieval.terms import words

SENTENCE = re.compile(r"[^\n]*?(?:[.!?。！？…][\"'”’»)\]]*(?=\s)|(?=\n)|\Z)")
SUFFIXES = ("ation", "ments", "ment", "ings", "ing", "ies", "ed", "es", "s", "ly")
MIN_STEM = 4


def stem(word: str) -> str:
    """Return an English word without its most common endings, so that forms of a word are equal."""
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= MIN_STEM:
            return word[: -len(suffix)]
    return word


def stems(text: str) -> frozenset[str]:
    """Return the different terms of a text."""
    return frozenset(map(stem, words(text)))


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text, without white space around them."""
    return [sentence for found in SENTENCE.finditer(text) if (sentence := found[0].strip())]


@dataclass(frozen=True)
class Sentences:
    """Sentences with the weights of their words: a rare word says more than one in every sentence.

    Attributes:
        texts: the sentences.
        terms: the terms of each.
        weights: of each term.
    """

    texts: tuple[str, ...]
    terms: tuple[frozenset[str], ...]
    weights: Mapping[str, float]

    @classmethod
    def from_passages(cls, passages: Sequence[str]) -> Sentences:
        """Return the sentences of passages in order, each once."""
        texts = tuple(dict.fromkeys(sentence for passage in passages for sentence in sentences_of(passage)))
        terms = tuple(map(stems, texts))
        counts = Counter(term for each in terms for term in each)
        n = len(terms)
        return cls(
            texts, terms, {term: math.log(1 + (n - count + 0.5) / (count + 0.5)) for term, count in counts.items()}
        )

    def weight(self, terms: frozenset[str]) -> float:
        """Return the summed weight of terms; one that no sentence has weighs as much as the rarest."""
        unseen = math.log(1 + 2 * len(self.texts) + 1)
        # An exact sum: the order of a set differs between processes, and ties between sentences would be broken by it.
        return math.fsum(self.weights.get(term, unseen) for term in terms)

    def coverage(self, at: int, terms: frozenset[str]) -> float:
        """Return the share of terms, by weight, that a sentence has: 0 to 1."""
        total = self.weight(terms)
        return self.weight(terms & self.terms[at]) / total if total else 0.0
