"""The terms of an index and their numbers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from glassgpt.retrieval.store import read_text
from glassgpt.retrieval.terms import stem, words

VOCABULARY_FILE = "vocabulary.txt"
UNKNOWN = -1
"""Number of a term that is not in the vocabulary."""


class Vocabulary:
    """Numbers terms in the order in which they appear.

    Args:
        terms: known terms, in the order of their numbers.
    """

    def __init__(self, terms: Iterable[str] = ()) -> None:
        self._numbers = {term: number for number, term in enumerate(terms)}
        self._by_word = _Numbers(self._numbers)

    @classmethod
    def open(cls, folder: Path) -> Vocabulary:
        """Read the vocabulary of an index."""
        return cls(read_text(folder / VOCABULARY_FILE).split("\n"))

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, text: str) -> list[int]:
        """Return the numbers of a text's terms in order; terms that are new get one."""
        return list(map(self._by_word.__getitem__, words(text)))

    def find(self, text: str) -> list[int]:
        """Return the numbers of a text's terms in order; `UNKNOWN` for those that are new."""
        return list(map(self.number, words(text)))

    def number(self, word: str) -> int:
        """Return the number of a word's term, or `UNKNOWN`."""
        return self._numbers.get(stem(word), UNKNOWN)

    def save(self, folder: Path) -> None:
        """Write the vocabulary of an index."""
        (folder / VOCABULARY_FILE).write_text("\n".join(self._numbers), encoding="utf-8")


class _Numbers(dict[str, int]):
    """The number of each word's stem; a word is stemmed when it appears for the first time."""

    def __init__(self, numbers: dict[str, int]) -> None:
        super().__init__()
        self._numbers = numbers

    def __missing__(self, word: str) -> int:
        number = self[word] = self._numbers.setdefault(stem(word), len(self._numbers))
        return number
