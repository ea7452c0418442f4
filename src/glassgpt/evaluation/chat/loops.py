"""Replies that loop: the same stretch of text again and again. Free of torch."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

REPEATS = 4
"""Times in a row that a stretch stands in a loop."""
CHARACTERS = 60
"""Characters that all its repeats together have at least; shorter ones are emphasis or a chorus."""
_LIST_MARKER = re.compile(r"^[^\S\n]*(?:\d+[.)]|[-*•])\s+", re.MULTILINE)
_SPACE = re.compile(r"\s+")


def is_loop(reply: str) -> bool:
    """Return whether a reply loops.

    It does if somewhere in it the same stretch stands `REPEATS` times in a row or more, with `CHARACTERS` characters in
    all. Case, white space and the markers of list items are ignored, so that a list of equal items is a loop although its
    numbers differ. The stretch must contain a letter or a digit: a ruler of dashes is no loop.
    """
    text = normalized(reply)
    codes = np.array([ord(character) for character in text], dtype=np.int64)
    return any(_loops(text, codes, period) for period in range(1, len(text) // REPEATS + 1))


def normalized(reply: str) -> str:
    """Return a reply in lower case, without list markers, each run of white space as one space."""
    return _SPACE.sub(" ", _LIST_MARKER.sub("", reply.casefold())).strip() + " "


def _loops(text: str, codes: NDArray[np.int64], period: int) -> bool:
    """Return whether a stretch of `period` characters repeats often enough."""
    needed = max(REPEATS * period, CHARACTERS) - period  # equal pairs at this distance, in a row
    differs = np.flatnonzero(codes[period:] != codes[:-period])
    edges = np.concatenate(([-1], differs, [len(codes) - period]))
    starts = edges[:-1][np.diff(edges) > needed] + 1
    return any(any(map(str.isalnum, text[start : start + period])) for start in starts)
