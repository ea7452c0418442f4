"""A document as read from a source, and the detection of exact duplicates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

BUFFERED_DIGESTS = 1 << 20


@dataclass(frozen=True)
class Document:
    """A text and its origin.

    Attributes:
        text: the text.
        origin: file and line or row, for error messages.
        position: bytes of its source read so far, for progress.
    """

    text: str
    origin: str
    position: int

    @cached_property
    def digest(self) -> int:
        """The `text_digest` of the text."""
        return text_digest(self.text.encode())


def text_digest(content: bytes) -> int:
    """Return a 64-bit hash of a text; among 100 million texts any two collide with probability 0.0003."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


class DuplicateFilter:
    """A set of digests that takes about 16 bytes each: a small Python set, flushed into sorted arrays when full."""

    def __init__(self, buffered: int = BUFFERED_DIGESTS) -> None:
        self._buffered = buffered
        self._recent: set[int] = set()
        self._runs: list[NDArray[np.uint64]] = []

    def add(self, digest: int) -> bool:
        """Add a digest and return True if it is new."""
        if digest in self._recent or any(_contains(run, digest) for run in self._runs):
            return False
        self._recent.add(digest)
        if len(self._recent) >= self._buffered:
            self._flush()
        return True

    def _flush(self) -> None:
        run = np.sort(np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent)))
        self._recent.clear()
        # Merging runs of equal length keeps their number logarithmic in the number of digests.
        while self._runs and len(self._runs[-1]) <= len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]))
        self._runs.append(run)


def _contains(run: NDArray[np.uint64], digest: int) -> bool:
    value = np.uint64(digest)
    index = int(np.searchsorted(run, value))
    return index < len(run) and bool(run[index] == value)
