"""Metrics of answers, compared with values computed by hand and with a count of all pairs."""

import random

import pytest

from glassgpt.retrieval.answer_metrics import auroc, exact_match, f1


@pytest.mark.parametrize(
    ("answer", "references", "exact", "overlap"),
    [
        ("The Denver Broncos!", ["Denver Broncos"], 1, 1),
        ("Denver", ["Denver Broncos"], 0, 2 / 3),
        ("in the year 1932", ["1932", "year 1932"], 0, 4 / 5),
        ("red red", ["red"], 0, 2 / 3),
        ("", ["red"], 0, 0),
        ("the", ["a"], 1, 1),
        ("서울특별시에", ["서울특별시"], 0, 10 / 11),
        ("《서울》 특별시", ["서울 특별시"], 1, 1),
        ("1932년", ["1932년"], 1, 1),
    ],
)
def test_exact_match_and_f1(answer, references, exact, overlap):
    assert exact_match(answer, references) == exact
    assert f1(answer, references) == pytest.approx(overlap)


def test_auroc_counts_pairs():
    draw = random.Random(0)
    positive, negative = ([draw.randrange(9) for _ in range(n)] for n in (40, 30))
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert auroc(positive, negative) == pytest.approx(sum(pairs) / len(pairs))
    assert auroc([2], [1]) == 1.0
