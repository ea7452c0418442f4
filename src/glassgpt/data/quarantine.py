"""Token spans that training skips because they were found to be damaged."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class Quarantine:
    """A set of token spans, each from its first token up to but not including its end.

    Attributes:
        spans: sorted, without duplicates.
    """

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self.spans = sorted({(int(first), int(end)) for first, end in spans})

    def touches(self, start: int | np.int64, length: int) -> bool:
        """Return whether `length` tokens from `start` overlap any span."""
        return any(start < end and first < start + length for first, end in self.spans)
