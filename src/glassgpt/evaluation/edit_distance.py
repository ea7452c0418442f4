"""Errors of a text that should be another one, such as what a model heard: the edit distance (Levenshtein 1966)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def edit_distance(found: Sequence[object], expected: Sequence[object]) -> int:
    """Return the fewest insertions, deletions and substitutions that turn one sequence into another."""
    row = list(range(len(expected) + 1))  # from nothing to each beginning of `expected`
    for i, one in enumerate(found, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(expected, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (one != other))
    return row[-1]


def error_rate(pairs: Iterable[tuple[Sequence[object], Sequence[object]]]) -> float:
    """Return the edit distances of pairs (found, expected) by the length of what was expected, both summed.

    Of strings it is the character error rate. It can exceed 1. Nothing expected counts as right if nothing was found.

    Args:
        pairs: what was found and what was expected.
    """
    errors = length = 0
    for found, expected in pairs:
        errors += edit_distance(found, expected)
        length += len(expected)
    return errors / length if length else float(errors > 0)
