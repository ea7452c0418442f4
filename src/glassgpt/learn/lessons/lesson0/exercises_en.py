"""Exercises of lesson 0. Replace each `raise NotImplementedError(...)` by your own code, then: glassgpt learn check 0"""

from __future__ import annotations

import math
from collections.abc import Callable


def count_next(text: str) -> dict[str, dict[str, int]]:
    """Exercise 0.1. Count, for each character, how often each character follows it.

    Args:
        text: any text.

    Returns:
        counts[a][b] is the number of times that b stands directly after a; pairs that never occur are left out.
        count_next("abab") is {"a": {"b": 2}, "b": {"a": 1}}.
    """
    raise NotImplementedError("exercise 0.1")


def to_probabilities(counts: dict[str, int], alphabet: str, add: float) -> dict[str, float]:
    """Exercise 0.2. Turn counts into probabilities, after adding `add` to the count of every character.

    Args:
        counts: number of times that each character was seen; a character that is missing was seen 0 times.
        alphabet: all characters that exist, each once.
        add: number added to each count, so that nothing is impossible.

    Returns:
        The probability of each character of the alphabet; together they are 1.
        to_probabilities({"a": 3}, "ab", 1) is {"a": 0.8, "b": 0.2}.
    """
    raise NotImplementedError("exercise 0.2")


def draw(probabilities: list[float], u: float) -> int:
    """Exercise 0.3. Draw one of several possibilities at random.

    Lay the probabilities side by side as sections of a line from 0 to 1. The random number u is a point of this line.

    Args:
        probabilities: of possibility 0, 1, 2, …; together they are 1.
        u: a random number, at least 0 and below 1.

    Returns:
        The index of the section in which u lies. draw([0.5, 0.2, 0.3], 0.6) is 1.
    """
    raise NotImplementedError("exercise 0.3")


def write(start: str, length: int, next_character: Callable[[str], str]) -> str:
    """Exercise 0.4. Write a text: choose a character, append it, choose the one after that, and so on.

    Args:
        start: how the text begins, at least one character.
        length: number of characters to append.
        next_character: next_character(c) chooses a character to follow the character c.

    Returns:
        The start and the `length` characters after it.
    """
    raise NotImplementedError("exercise 0.4")


def average_loss(text: str, rows: dict[str, dict[str, float]]) -> float:
    """Exercise 0.5. Measure how surprised a model is by a text, on average per prediction.

    The surprise at a character is -ln p, where p is the probability that the model gave to it: 0 if the model was
    certain, larger the less probable it was. The first character of the text is not predicted.

    Args:
        text: at least two characters.
        rows: rows[a][b] is the probability that b follows a.

    Returns:
        The mean surprise, in nats (that is, with the natural logarithm).
    """
    raise NotImplementedError("exercise 0.5")
