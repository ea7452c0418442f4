"""Find near-duplicates by MinHash and locality-sensitive hashing (Broder 1997), with the library rensa."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from glassgpt.errors import require_extra

RENSA = ("rensa", "code", "finding near-duplicates of source code")
"""The arguments of `require_extra`."""
SIMILARITY = 0.85
"""Jaccard similarity of word sequences from which a file counts as a copy of another one (The Stack's threshold)."""
PERMUTATIONS, BANDS, SEED = 128, 16, 42
SEQUENCE_WORDS = 5
MIN_WORDS = 20
"""Files with fewer words, such as an empty `__init__.py`, resemble each other without being copies."""
WORD = re.compile(r"\w+")


class NearDuplicateFilter:
    """The files so far, by the sequences of five words that they consist of.

    Raises:
        MissingExtraError: rensa is not installed.
    """

    def __init__(self) -> None:
        require_extra(*RENSA)
        self._rensa: Any = import_module("rensa")  # without type information
        self._known: Any = self._rensa.RMinHashDeduplicator(SIMILARITY, PERMUTATIONS, True, BANDS, SEED)

    def add(self, name: str, text: str) -> bool:
        """Add a file and return True if it resembles no earlier one."""
        words = WORD.findall(text)
        if len(words) < MIN_WORDS:
            return True
        sequences = {" ".join(words[at : at + SEQUENCE_WORDS]) for at in range(len(words) - SEQUENCE_WORDS + 1)}
        sketch = self._rensa.RMinHash(PERMUTATIONS, SEED)
        sketch.update(list(sequences))
        return bool(self._known.add(name, sketch))
