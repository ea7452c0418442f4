"""One document on its way from a source to its split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BUFFERED_DIGESTS = 1 << 20


@dataclass(frozen=True)
class Document:
    """A text and where it came from.

    Attributes:
        text: the text, not empty.
        origin: file and line or row, for messages.
        position: bytes of its source read so far, for progress.
    """

    text: str
    origin: str
    position: int


def digest(content: bytes) -> int:
    """64 bits that stand for a text; two of 100 million texts agree by chance with p = 0.0003."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


class DuplicateFilter:
    """A set of digests in about 16 bytes each: a small Python set, emptied into sorted arrays."""

    def __init__(self, buffered: int = BUFFERED_DIGESTS) -> None:
        self._buffered = buffered
        self._recent: set[int] = set()
        self._runs: list[NDArray[np.uint64]] = []

    def add(self, value: int) -> bool:
        """Add a digest; whether it is new."""
        if value in self._recent or any(_holds(run, value) for run in self._runs):
            return False
        self._recent.add(value)
        if len(self._recent) >= self._buffered:
            self._flush()
        return True

    def _flush(self) -> None:
        run = np.sort(np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent)))
        self._recent.clear()
        # Merging runs of equal length keeps their number logarithmic.
        while self._runs and len(self._runs[-1]) <= len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]))
        self._runs.append(run)


def _holds(run: NDArray[np.uint64], value: int) -> bool:
    wanted = np.uint64(value)
    index = int(np.searchsorted(run, wanted))
    return index < len(run) and bool(run[index] == wanted)
