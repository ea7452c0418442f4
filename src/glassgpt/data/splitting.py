"""Which documents, or which part of each, are training text and which validation text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from glassgpt.errors import DataError

TRAIN, VALIDATION = "train", "validation"
ENOUGH = 10
"""Documents that can be divided whole. Of fewer, one may be nearly all of the text, and chance would decide everything."""
Part = tuple[str, str]
"""A split's name and a text that belongs to it."""


class SplitRule(Protocol):
    """Divides documents; the same document is always divided in the same way."""

    @property
    def description(self) -> str:
        """The rule in words, for the summary."""
        ...

    def parts(self, digest: int, text: str) -> Iterator[Part]:
        """The parts of one document."""
        ...


@dataclass(frozen=True)
class ByDocument:
    """Each document goes whole to one side, decided by a seeded hash of its text alone.

    Attributes:
        fraction: share of the hashes that mean validation.
        seed: of the hash.
        exception: a digest and its side, where hashing alone would leave that side empty.
    """

    fraction: float
    seed: int
    exception: tuple[int, str] | None = None

    @property
    def description(self) -> str:
        """The rule in words."""
        text = f"by document, {self.fraction:.3g} for validation, seed {self.seed}"
        return f"{text}; one document moved to {self.exception[1]}, else empty" if self.exception else text

    def score(self, digest: int) -> float:
        """The seeded hash as a number in [0, 1)."""
        content = f"{self.seed}:{digest}".encode()
        value = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
        return value / 2**64

    def side(self, digest: int) -> str:
        """Where a document goes."""
        if self.exception and digest == self.exception[0]:
            return self.exception[1]
        return VALIDATION if self.score(digest) < self.fraction else TRAIN

    def parts(self, digest: int, text: str) -> Iterator[Part]:
        """The document itself, on its side."""
        yield self.side(digest), text


@dataclass(frozen=True)
class Whole:
    """Every document of a source goes to one side: the user named the source for it."""

    side: str

    @property
    def description(self) -> str:
        """The rule in words."""
        return f"{self.side} text by source, as named"

    def parts(self, digest: int, text: str) -> Iterator[Part]:
        """The document itself."""
        yield self.side, text


@dataclass(frozen=True)
class Tail:
    """Each document is cut: the last `fraction` of its characters is validation text."""

    fraction: float
    reason: str

    @property
    def description(self) -> str:
        """The rule in words."""
        return f"the last {self.fraction:.3g} of the characters of each document for validation ({self.reason})"

    def parts(self, digest: int, text: str) -> Iterator[Part]:
        """Head and tail, where they are not empty."""
        cut = int(len(text) * (1 - self.fraction))
        for side, part in ((TRAIN, text[:cut]), (VALIDATION, text[cut:])):
            if part:
                yield side, part


def plan(digests: Iterable[int], fraction: float, seed: int) -> SplitRule:
    """The rule by document, or what replaces it where there are too few documents for chance to divide.

    Reads `digests` only until enough are there and both sides have one.

    Raises:
        DataError: there is no document at all.
    """
    rule = ByDocument(fraction, seed)
    seen: set[str] = set()
    first: set[int] = set()
    lowest = highest = None
    for digest in digests:
        scored = (rule.score(digest), digest)
        lowest, highest = min(lowest or scored, scored), max(highest or scored, scored)
        seen.add(rule.side(digest))
        if len(first) < ENOUGH:
            first.add(digest)
        elif len(seen) == 2:
            return rule
    if lowest is None or highest is None:
        raise DataError("the sources hold no text")
    if len(first) < ENOUGH:
        count = "only one document" if len(first) == 1 else f"only {len(first)} documents"
        return Tail(fraction, f"there {'is' if len(first) == 1 else 'are'} {count}")
    if len(seen) == 2:
        return rule
    moved = (lowest[1], VALIDATION) if VALIDATION not in seen else (highest[1], TRAIN)
    return ByDocument(fraction, seed, moved)
