"""Pairs of neighboring words, which tell "theory of education" from a passage with both words far apart.

Function words are passed over, and a pair is known by a 32-bit hash of its two terms, so that no list of pairs has to be
kept. Of two million pairs one in two thousand shares its hash with another one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from glassgpt.retrieval.vocabulary import UNKNOWN, Vocabulary

Integers = NDArray[np.int64]
FUNCTION_WORDS = (
    "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "did", "do", "does", "following", "for",
    "from", "had", "has", "have", "he", "her", "his", "how", "i", "if", "in", "into", "is", "it", "its", "no",
    "not", "of", "on", "one", "or", "she", "such", "that", "the", "their", "then", "there", "these", "they",
    "this", "to", "was", "we", "were", "what", "when", "where", "which", "who", "whom", "will", "with", "you",
)  # fmt: skip
MULTIPLIER = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, vol. 3, 6.4)."""


def pair_keys(terms: Integers, rows: Integers, vocabulary: Vocabulary) -> tuple[Integers, Integers]:
    """Return the keys of all pairs of neighbors in the same row, and their rows.

    Args:
        terms: numbers of the terms of a text in order; `UNKNOWN` for one that is not in the vocabulary.
        rows: row of each.
        vocabulary: of the terms.
    """
    is_content = np.ones(len(vocabulary) + 1, np.bool_)  # the last one is that of unknown words
    is_content[[number for number in map(vocabulary.number, FUNCTION_WORDS) if number != UNKNOWN]] = False
    kept = is_content[terms]
    terms, rows = terms[kept], rows[kept]
    first, second = terms[:-1], terms[1:]
    is_pair = (rows[:-1] == rows[1:]) & (first != UNKNOWN) & (second != UNKNOWN)
    mixed = (first[is_pair].astype(np.uint64) << np.uint64(32) | second[is_pair].astype(np.uint64)) * np.uint64(
        MULTIPLIER
    )
    return (mixed >> np.uint64(32)).astype(np.int64), rows[:-1][is_pair]
