"""Checks of lesson 0: the solutions, and the mistakes that are recognized."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from glassgpt.learn.lesson import Case, Exercise, Mistake
from glassgpt.learn.lessons.lesson0 import solutions

Counts = dict[str, dict[str, int]]
Rows = dict[str, dict[str, float]]
SENTENCE = "the cat that the dog saw sat on the mat"


def _text_cases() -> Sequence[Case]:
    return [Case("abab"), Case("banana!"), Case(SENTENCE), Case("못 잊어 못 잊어")]


def _reversed_pairs(text: str) -> Counts:
    return solutions.count_next(text[::-1])


def _every_second_pair(text: str) -> Counts:
    counts: Counts = {}
    for at in range(0, len(text) - 1, 2):
        row = counts.setdefault(text[at], {})
        row[text[at + 1]] = row.get(text[at + 1], 0) + 1
    return counts


def _presence(text: str) -> Counts:
    return {current: dict.fromkeys(row, 1) for current, row in solutions.count_next(text).items()}


def _last_pair_missing(text: str) -> Counts:
    return solutions.count_next(text[:-1])


def _count_cases() -> Sequence[Case]:
    return [
        Case({"a": 3}, "ab", 1),
        Case({"a": 3, "b": 1}, "abc", 0.5),
        Case({"x": 10, "y": 20, "z": 5}, "wxyz", 2),
    ]


def _total_without_add(counts: dict[str, int], alphabet: str, add: float) -> dict[str, float]:
    total = sum(counts.values())
    return {character: (counts.get(character, 0) + add) / total for character in alphabet}


def _add_once(counts: dict[str, int], alphabet: str, add: float) -> dict[str, float]:
    total = sum(counts.values()) + add
    return {character: (counts.get(character, 0) + add) / total for character in alphabet}


def _nothing_added(counts: dict[str, int], alphabet: str, add: float) -> dict[str, float]:
    return {character: counts.get(character, 0) / sum(counts.values()) for character in alphabet}


def _seen_only(counts: dict[str, int], alphabet: str, add: float) -> dict[str, float]:
    total = sum(counts.values()) + add * len(counts)
    return {character: (count + add) / total for character, count in counts.items()}


def _draw_cases() -> Sequence[Case]:
    three, four = [0.5, 0.2, 0.3], [0.1, 0.15, 0.05, 0.7]
    return [*(Case(three, u) for u in (0.05, 0.3, 0.55, 0.6, 0.75, 0.97)), *(Case(four, u) for u in (0.03, 0.12, 0.2, 0.28, 0.4, 0.9))]  # fmt: skip


def _most_probable(probabilities: list[float], u: float) -> int:
    return probabilities.index(max(probabilities))


def _single_probability(probabilities: list[float], u: float) -> int:
    return next((index for index, each in enumerate(probabilities) if u < each), len(probabilities) - 1)


def _single_probability_or_none(probabilities: list[float], u: float) -> int | None:
    return next((index for index, each in enumerate(probabilities) if u < each), None)


def _one_too_far(probabilities: list[float], u: float) -> int:
    return solutions.draw(probabilities, u) + 1


def _all_equal(probabilities: list[float], u: float) -> int:
    return int(u * len(probabilities))


FOLLOWERS = {"a": "b", "b": "c", "c": "d", "d": "a", "z": "a"}


def _follower(character: str) -> str:
    return FOLLOWERS.get(character, "?")


def _write_cases() -> Sequence[Case]:
    return [Case("a", 5, _follower), Case("z", 3, _follower), Case("cab", 6, _follower), Case("az", 0, _follower)]


def _from_the_start(start: str, length: int, next_character: Callable[[str], str]) -> str:
    return start + next_character(start[-1]) * length


def _from_the_first(start: str, length: int, next_character: Callable[[str], str]) -> str:
    return start + next_character(start[0]) * length


def _whole_text(start: str, length: int, next_character: Callable[[str], str]) -> str:
    for _ in range(length):
        start += next_character(start)
    return start


def _start_missing(start: str, length: int, next_character: Callable[[str], str]) -> str:
    return solutions.write(start, length, next_character)[len(start) :]


def _length_with_start(start: str, length: int, next_character: Callable[[str], str]) -> str:
    return solutions.write(start, max(0, length - len(start)), next_character)


def _loss_cases() -> Sequence[Case]:
    rows = {
        "a": {"a": 0.2, "b": 0.5, "c": 0.3},
        "b": {"a": 0.6, "b": 0.3, "c": 0.1},
        "c": {"a": 0.15, "b": 0.8, "c": 0.05},
    }
    return [Case("ab", rows), Case("abcab", rows), Case("cabbacca", rows)]


def _probabilities_of(text: str, rows: Rows) -> list[float]:
    return [rows[current][following] for current, following in pairwise(text)]


def _sum(text: str, rows: Rows) -> float:
    return sum(-math.log(p) for p in _probabilities_of(text, rows))


def _by_characters(text: str, rows: Rows) -> float:
    return _sum(text, rows) / len(text)


def _bits(text: str, rows: Rows) -> float:
    return solutions.average_loss(text, rows) / math.log(2)


def _log_of_mean(text: str, rows: Rows) -> float:
    found = _probabilities_of(text, rows)
    return -math.log(sum(found) / len(found))


def _sign(text: str, rows: Rows) -> float:
    return -solutions.average_loss(text, rows)


def _backwards(text: str, rows: Rows) -> float:
    return solutions.average_loss(text[::-1], rows)


EXERCISES = (
    Exercise(
        "0.1",
        "count_next",
        _text_cases,
        solutions.count_next,
        (
            Mistake("reversed", _reversed_pairs),
            Mistake("every-second-pair", _every_second_pair),
            Mistake("presence", _presence),
            Mistake("last-pair-missing", _last_pair_missing),
        ),
    ),
    Exercise(
        "0.2",
        "to_probabilities",
        _count_cases,
        solutions.to_probabilities,
        (
            Mistake("total-without-add", _total_without_add),
            Mistake("add-once", _add_once),
            Mistake("nothing-added", _nothing_added),
            Mistake("seen-only", _seen_only),
        ),
    ),
    Exercise(
        "0.3",
        "draw",
        _draw_cases,
        solutions.draw,
        (
            Mistake("most-probable", _most_probable),
            Mistake("single-probability", _single_probability),
            Mistake("single-probability-or-none", _single_probability_or_none, parts=("single-probability",)),
            Mistake("one-too-far", _one_too_far),
            Mistake("all-equal", _all_equal),
        ),
    ),
    Exercise(
        "0.4",
        "write",
        _write_cases,
        solutions.write,
        (
            Mistake("from-the-start", _from_the_start),
            Mistake("from-the-first", _from_the_first),
            Mistake("whole-text", _whole_text),
            Mistake("start-missing", _start_missing),
            Mistake("length-with-start", _length_with_start),
        ),
    ),
    Exercise(
        "0.5",
        "average_loss",
        _loss_cases,
        solutions.average_loss,
        (
            Mistake("sum", _sum),
            Mistake("by-characters", _by_characters),
            Mistake("bits", _bits),
            Mistake("log-of-mean", _log_of_mean),
            Mistake("sign", _sign),
            Mistake("backwards", _backwards),
        ),
    ),
)
