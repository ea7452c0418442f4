"""Solutions of lesson 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise


def count_next(text: str) -> dict[str, dict[str, int]]:
    """Count, for each character, how often each character follows it."""
    counts: dict[str, dict[str, int]] = {}
    for current, following in pairwise(text):
        row = counts.setdefault(current, {})
        row[following] = row.get(following, 0) + 1
    return counts


def to_probabilities(counts: dict[str, int], alphabet: str, add: float) -> dict[str, float]:
    """Return (count + add) / (sum of all counts + add for each character of the alphabet)."""
    total = sum(counts.values()) + add * len(alphabet)
    return {character: (counts.get(character, 0) + add) / total for character in alphabet}


def draw(probabilities: list[float], u: float) -> int:
    """Return the first index at which the sum of the probabilities so far exceeds u."""
    end = 0.0
    for index, probability in enumerate(probabilities):
        end += probability
        if u < end:
            return index
    return len(probabilities) - 1  # the sum may be 0.999… because of rounding


def write(start: str, length: int, next_character: Callable[[str], str]) -> str:
    """Append `length` characters, each chosen from the last one."""
    text = start
    for _ in range(length):
        text += next_character(text[-1])
    return text


def average_loss(text: str, rows: dict[str, dict[str, float]]) -> float:
    """Return the mean of -ln p over all characters but the first."""
    surprises = [-math.log(rows[current][following]) for current, following in pairwise(text)]
    return sum(surprises) / len(surprises)
