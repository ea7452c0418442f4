"""Pack conversations into rows of one length, so that little of a batch is padding."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Return the indices of the conversations in each row: each one goes where the least space remains (best fit).

    Args:
        lengths: tokens of each conversation, each at most `row_length`.
        row_length: tokens of a row.
    """
    rows: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for index, length in enumerate(lengths):
        at = bisect_left(spaces, (length, -1))
        if at == len(spaces):
            rows.append([])
            free, row = row_length, len(rows) - 1
        else:
            free, row = spaces.pop(at)
        rows[row].append(index)
        insort(spaces, (free - length, row))
    return rows
