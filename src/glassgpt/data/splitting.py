"""Rules that divide documents into training and validation text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from glassgpt.errors import DataError

TRAIN, VALIDATION = "train", "validation"
MIN_DOCUMENTS = 10
"""Documents needed to assign whole documents. With fewer, a single one may be most of the text, and its assignment would
decide everything."""
SplitText = tuple[str, str]
"""The name of a split and a text that belongs to it."""


class SplitRule(Protocol):
    """Divides documents between the splits; deterministic for each document."""

    @property
    def description(self) -> str:
        """The rule in words, for the dataset summary."""
        ...

    def divide(self, digest: int, text: str) -> Iterator[SplitText]:
        """Yield the parts of one document with their splits."""
        ...


@dataclass(frozen=True)
class HashSplit:
    """Assigns each whole document to a split by a seeded hash of its text.

    Attributes:
        fraction: share of hash values assigned to validation.
        seed: of the hash.
        exception: a digest and its split, used where the hash alone would leave that split empty.
    """

    fraction: float
    seed: int
    exception: tuple[int, str] | None = None

    @property
    def description(self) -> str:
        """The rule in words."""
        text = f"by document, {self.fraction:.3g} for validation, seed {self.seed}"
        return f"{text}; one document moved to {self.exception[1]}, otherwise empty" if self.exception else text

    def score(self, digest: int) -> float:
        """Return the seeded hash of a document's digest as a number in [0, 1)."""
        content = f"{self.seed}:{digest}".encode()
        value = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
        return value / 2**64

    def split_of(self, digest: int) -> str:
        """Return the split of a document."""
        if self.exception and digest == self.exception[0]:
            return self.exception[1]
        return VALIDATION if self.score(digest) < self.fraction else TRAIN

    def divide(self, digest: int, text: str) -> Iterator[SplitText]:
        """Yield the whole document."""
        yield self.split_of(digest), text


@dataclass(frozen=True)
class FixedSplit:
    """Assigns every document of a source to the split the user named the source for."""

    split: str

    @property
    def description(self) -> str:
        """The rule in words."""
        return f"{self.split} text from its own sources"

    def divide(self, digest: int, text: str) -> Iterator[SplitText]:
        """Yield the whole document."""
        yield self.split, text


@dataclass(frozen=True)
class TailSplit:
    """Cuts each document: the last `fraction` of its characters is validation text."""

    fraction: float
    reason: str

    @property
    def description(self) -> str:
        """The rule in words."""
        return f"the last {self.fraction:.3g} of the characters of each document for validation ({self.reason})"

    def divide(self, digest: int, text: str) -> Iterator[SplitText]:
        """Yield head and tail, unless empty."""
        cut = int(len(text) * (1 - self.fraction))
        for split, part in ((TRAIN, text[:cut]), (VALIDATION, text[cut:])):
            if part:
                yield split, part


def choose_rule(digests: Iterable[int], fraction: float, seed: int) -> SplitRule:
    """Return a rule that leaves neither split empty: by document, or by tail if there are too few documents.

    Reads `digests` only until there are enough documents and both splits have one.

    Raises:
        DataError: there are no documents.
    """
    rule = HashSplit(fraction, seed)
    splits: set[str] = set()
    distinct: set[int] = set()
    lowest = highest = None
    for digest in digests:
        scored = (rule.score(digest), digest)
        lowest, highest = min(lowest or scored, scored), max(highest or scored, scored)
        splits.add(rule.split_of(digest))
        if len(distinct) < MIN_DOCUMENTS:
            distinct.add(digest)
        elif len(splits) == 2:
            return rule
    if lowest is None or highest is None:
        raise DataError("the sources hold no text")
    if len(distinct) < MIN_DOCUMENTS:
        count = "is only one document" if len(distinct) == 1 else f"are only {len(distinct)} documents"
        return TailSplit(fraction, f"there {count}")
    if len(splits) == 2:
        return rule
    # The hash left one split empty: move the document that was closest to it.
    moved = (lowest[1], VALIDATION) if VALIDATION not in splits else (highest[1], TRAIN)
    return HashSplit(fraction, seed, moved)
