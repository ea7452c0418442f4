"""Scores of replies: GSM8K's answers and loops."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassgpt.errors import DataError, UsageError
from glassgpt.evaluation.chat.gsm8k import examples, is_correct, last_number, load_gsm8k
from glassgpt.evaluation.chat.loops import CHARACTERS, REPEATS, is_loop, normalized
from glassgpt.evaluation.chat.tasks import read_tasks

PROBLEM = {"question": "How many?", "answer": "2+2 = <<2+2=4>>4 eggs\n#### 1,004"}


@pytest.mark.parametrize(
    ("reply", "number"),
    [("so 18.", "18"), ("$1,000.50 in all", "1000.50"), ("10-5 = 5", "5"), ("x = -3", "-3"), ("**42**", "42"),
     ("7 of 12", "12"), ("1,234,567", "1234567"), ("18.00", "18"), ("10-5", "5"), ("(4)", "4"), ("#### 72", "72"),
     ("Rs.1,004", "1004"), ("_1,004_", "1004"), ("USD1,004.50", "1004.50"), ("-$5", "-5"), ("1,2,300", "300"), ("1,0045", "45")],
)  # fmt: skip
def test_last_number(reply, number):
    assert last_number(reply) == Decimal(number)


@given(st.decimals(-(10**9), 10**9, places=2), st.sampled_from(["{:,}", "{}", "${}", "**{}**", "The answer is {:,}."]))
def test_every_way_to_write_a_number(number, form):
    assert last_number(f"First 3, then {form.format(number)}") == number


def test_text_without_number():
    assert last_number("none at all") is None


def test_problem_is_read_without_annotations(tmp_path):
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps(PROBLEM))
    (problem,) = load_gsm8k(file)
    assert problem.solution == "2+2 = 4 eggs\n#### 1,004"
    assert is_correct(problem, "It is 1004.0")
    assert not is_correct(problem, "1004 or 5")
    assert examples([problem]) == [("user", "How many?"), ("assistant", problem.solution)]


@pytest.mark.parametrize("answer", ["4", "#### four", ""])
def test_row_without_answer_is_reported(tmp_path, answer):
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps(PROBLEM | {"answer": answer}))
    with pytest.raises(DataError, match="problems.jsonl, line 1: "):
        load_gsm8k(file)


def test_examples_are_not_scored(tmp_path):
    file = tmp_path / "problems.jsonl"
    file.write_text("\n".join(json.dumps(PROBLEM | {"question": f"How many {n}?"}) for n in range(5)))
    tasks = read_tasks(gsm8k=file, limit=2, shots=2)
    assert [each.question for each in tasks.shots] == ["How many 0?", "How many 1?"]
    assert [each.question for each in tasks.gsm8k] == ["How many 2?", "How many 3?"]
    with pytest.raises(UsageError, match="--shots is 5, but .* has 5 problems"):
        read_tasks(gsm8k=file, shots=5)


def slow_is_loop(reply):
    """Reference: every place and every length of the stretch, one comparison each."""
    text = normalized(reply)
    for start in range(len(text)):
        for period in range(1, len(text) // REPEATS + 1):
            repeats = max(REPEATS * period, CHARACTERS)
            whole = text[start : start + repeats]
            stretch = whole[:period]
            if whole == (stretch * repeats)[:repeats] and any(c.isalnum() for c in stretch):
                return True
    return False


REPEATED = st.builds(
    lambda before, stretch, times, after: before + stretch * times + after,
    *(st.text("ab", max_size=5), st.text("ab1. -", max_size=20), st.integers(0, 14), st.text("ab", max_size=5)),
)


@given(st.text("ab- ", max_size=70) | REPEATED)
def test_loops_equal_the_reference(text):
    assert is_loop(text) == slow_is_loop(text)


@pytest.mark.parametrize(
    "reply",
    [
        "I am sorry. " * 6,
        "One. Two. " + "and so on and so on " * 5,
        "\n".join(f"{n}. The capital of France is Paris." for n in range(1, 6)),
        "나는 그것을 모릅니다. " * 8,
        "ha" * 40,
        "A good start, then it goes wrong: " + "the cat sat on the mat, " * 4 + "and it ends.",
    ],
)
def test_loops(reply):
    assert is_loop(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "No, no, no, no!",
        "-" * 200,
        "| --- | --- |\n" * 10,
        "I am sorry. " * 3,
        "\n".join(f"{n} × 7 = {7 * n}" for n in range(1, 11)),
        "The dog barks at the cat. The cat looks at the dog. The bird looks at both of them, and nobody looks at the fish.",
    ],
)
def test_no_loops(reply):
    assert not is_loop(reply)


@given(st.text("abcdef", min_size=1, max_size=20), st.integers(0, 3))
def test_a_stretch_that_repeats_often_enough_is_a_loop(stretch, more):
    times = max(REPEATS, -(-CHARACTERS // len(stretch))) + more
    assert is_loop("Well: " + stretch * times)
