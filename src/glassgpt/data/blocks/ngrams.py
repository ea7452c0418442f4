"""Hashes of sequences of words, to find text that occurs in two places (13 words, as Brown et al. 2020, appendix C)."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.documents import text_digest

WORDS = 13
MAX_REMEMBERED_WORDS = 1_000_000
WORD = re.compile(r"\w+")
FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that multiplying by it loses nothing; the golden ratio, whose bits are well mixed."""


def ngram_hashes(text: str) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each sequence of 13 words, in lower case and without punctuation; equal on all machines."""
    words = WORD.findall(text.lower())
    count = len(words) - WORDS + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    if len(_WORD_HASHES) > MAX_REMEMBERED_WORDS:
        _WORD_HASHES.clear()
    numbers = np.fromiter(map(_WORD_HASHES.__getitem__, words), dtype=np.uint64, count=len(words))
    hashes = np.zeros(count, dtype=np.uint64)
    for at in range(WORDS):  # a polynomial in FACTOR, modulo 2^64
        hashes = hashes * FACTOR + numbers[at : at + count]
    return hashes


class _WordHashes(dict[str, int]):
    """The hash of each word seen so far. Python's own differs from process to process."""

    def __missing__(self, word: str) -> int:
        value = self[word] = text_digest(word.encode())
        return value


_WORD_HASHES = _WordHashes()
