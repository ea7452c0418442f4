"""Edit distances, compared with the definition by recursion."""

import random
from functools import cache

import pytest

from glassgpt.evaluation.edit_distance import edit_distance, error_rate


@cache
def by_definition(found, expected):
    if not found or not expected:
        return len(found) + len(expected)
    changed = by_definition(found[1:], expected[1:]) + (found[0] != expected[0])
    return min(changed, by_definition(found[1:], expected) + 1, by_definition(found, expected[1:]) + 1)


def test_distances_are_those_of_the_definition():
    chance = random.Random(0)
    for _ in range(200):
        one, other = ("".join(chance.choices("가나ab", k=chance.randint(0, 7))) for _ in range(2))
        assert edit_distance(one, other) == by_definition(one, other)


def test_known_distances():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("사과 세 개", "사과 네개") == 2
    assert edit_distance(["the", "red", "bird"], ["the", "bird"]) == 1


def test_error_rate_is_of_all_characters():
    assert error_rate([("abc", "abd"), ("", "x" * 7)]) == pytest.approx(8 / 10)
    assert error_rate([("", "")]) == 0
    assert error_rate([("a", "")]) == 1
