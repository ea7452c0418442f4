"""Find near-duplicates by MinHash and locality-sensitive hashing (Broder 1997); the library rensa computes the sketches."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.errors import require_extra

RENSA = ("rensa", "code", "finding near-duplicates of source code")
RENSA_FOR_TEXT = ("rensa", "data", "finding near-duplicates")
"""The arguments of `require_extra`, for source code and for text."""
SIMILARITY = 0.85
"""Jaccard similarity of word sequences from which a file counts as a copy of another one (The Stack's threshold)."""
PERMUTATIONS, SEED = 128, 42
MIN_RECALL = 0.98
SEQUENCE_WORDS = 5
MIN_WORDS = 20
"""Files with fewer words, such as an empty `__init__.py`, resemble each other without being copies."""
WORD = re.compile(r"\w+")


def require_rensa() -> None:
    """Check that the library is installed.

    Raises:
        MissingExtraError: it is not.
    """
    require_extra(*RENSA)


def sketch_of(text: str) -> bytes | None:
    """Return the sketch of a text, `PERMUTATIONS` little-endian uint32; None if it has too few words to be compared.

    Of two sketches, the share of equal numbers estimates the similarity of the texts' sequences of five words.
    """
    words = WORD.findall(text)
    if len(words) < MIN_WORDS:
        return None
    sequences = {" ".join(words[at : at + SEQUENCE_WORDS]) for at in range(len(words) - SEQUENCE_WORDS + 1)}
    rensa: Any = import_module("rensa")  # without type information
    sketch = rensa.RMinHash(PERMUTATIONS, SEED)
    sketch.update(list(sequences))
    return np.array(sketch.digest(), dtype="<u4").tobytes()


def bands_for(similarity: float) -> int:
    """Return the number of bands with which at least `MIN_RECALL` of the texts that are just so similar are compared."""
    for bands in (16, 32):
        if 1 - (1 - similarity ** (PERMUTATIONS // bands)) ** bands >= MIN_RECALL:
            return bands
    return 64


class NearDuplicateFilter:
    """The sketches of the texts so far; only those that agree in a whole band of numbers are compared.

    Args:
        similarity: share of equal numbers from which a text counts as a copy.
    """

    def __init__(self, similarity: float = SIMILARITY) -> None:
        self._similarity, self._n_bands = similarity, bands_for(similarity)
        self._sketches: list[NDArray[np.uint32]] = []
        self._bands: list[dict[bytes, list[int]]] = [{} for _ in range(self._n_bands)]

    def add(self, sketch: bytes | None) -> bool:
        """Add a text and return True if it resembles no earlier one; a text that does is not added."""
        return sketch is None or self.add_or_find(sketch) is None

    def add_or_find(self, sketch: bytes) -> int | None:
        """Add a text and return None, or return how many had been added before the one that it resembles."""
        values, width = np.frombuffer(sketch, dtype="<u4"), len(sketch) // self._n_bands
        keys = [sketch[at : at + width] for at in range(0, len(sketch), width)]
        alike = {number for band, key in zip(self._bands, keys, strict=True) for number in band.get(key, ())}
        for number in sorted(alike):
            if np.mean(self._sketches[number] == values) >= self._similarity:
                return number
        for band, key in zip(self._bands, keys, strict=True):
            band.setdefault(key, []).append(len(self._sketches))
        self._sketches.append(values)
        return None
