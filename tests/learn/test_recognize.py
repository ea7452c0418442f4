"""Judging implementations: tolerance, kinds of numbers, exceptions, changed arguments, several mistakes at once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt.learn.lesson import Case, Exercise, Mistake
from glassgpt.learn.recognize import Judge, error_verdict


def double(values):
    return values * 2


def raises(values):
    raise ValueError("no")


EXERCISE = Exercise(
    "9.9", "double", lambda: [Case(torch.tensor([1.0, -2.0, 300.0])), Case(values=torch.zeros(0)), Case(torch.eye(2))],
    double,
    (Mistake("triple", lambda values: values * 3), Mistake("error", raises), Mistake("nan", lambda values: values * float("nan"))),
)  # fmt: skip
JUDGE = Judge(EXERCISE)


@settings(deadline=None)
@given(st.floats(-0.9e-5, 0.9e-5), st.sampled_from([torch.float32, torch.float64]))
def test_rounding_and_precision_do_not_matter(noise, dtype):
    assert JUDGE.judge(lambda values: values.to(dtype) * 2 * (1 + noise)).status == "solved"


@settings(deadline=None)
@given(st.floats(1e-3, 0.4) | st.floats(-0.4, -1e-3))
def test_anything_between_solution_and_mistakes_is_different(part):
    verdict = JUDGE.judge(lambda values: values * (2 + part))
    assert (verdict.status, verdict.case, verdict.share, verdict.place) == ("different", 1, "3/3", "[0]")
    assert verdict.call == "double(Tensor (3,) float32)"


@pytest.mark.parametrize(
    ("function", "mistakes"),
    [
        (lambda values: values + values + values, ("triple",)),
        (lambda values: torch.full_like(values, torch.nan), ("nan",)),
        (lambda values: int("x"), ("error",)),  # a ValueError, too
    ],
)
def test_mistakes_are_recognized_whatever_the_code_looks_like(function, mistakes):
    verdict = JUDGE.judge(function)
    assert (verdict.status, verdict.mistakes) == ("mistake", mistakes)


def test_mistake_in_some_cases_only_is_not_called_one():
    def mostly_triple(values):
        return values * (3 if len(values) == 3 else 2)

    assert JUDGE.judge(mostly_triple).status == "different"


@pytest.mark.parametrize(
    ("function", "received"),
    [
        (lambda values: (values * 2).int(), "Tensor (3,) int32"),
        (lambda values: (values * 2).tolist(), "[2, -4, 600]"),
        (lambda values: (values * 2)[None], "Tensor (1, 3) float32"),
        (lambda values: map(abs, values), "<map object>"),
        (lambda values: double, "double"),
        (lambda values: None, "None"),
        (lambda values: "x" * 1000, "'" + "x" * 197 + " …"),
    ],
)
def test_other_kinds_of_results_are_described(function, received):
    verdict = JUDGE.judge(function)
    assert (verdict.status, verdict.received) == ("different", received)


def test_arguments_are_fresh_for_each_implementation_and_a_change_is_reported():
    def in_place(values):
        values *= 2
        return values

    verdict = JUDGE.judge(in_place)
    assert (verdict.status, verdict.case, verdict.place) == ("changed", 1, "1")
    assert JUDGE.judge(double).status == "solved"


def test_both_of_two_mistakes_are_named():
    both = Mistake("both", lambda values: values * 3 + 1, ("triple", "one-more"))
    judge = Judge(Exercise("9.9", "double", EXERCISE.cases, double, (*EXERCISE.mistakes, both)))
    assert judge.judge(lambda values: 1 + 3 * values).mistakes == ("triple", "one-more")


def test_error_names_the_last_line_of_the_student_file(tmp_path):
    file = tmp_path / "exercises.py"
    file.write_text("import torch\n\n\ndef double(values):\n    return torch.cat([values, 'x'])\n")
    module = {}
    exec(compile(file.read_text(), str(file), "exec"), module)
    verdict = JUDGE.judge(module["double"], file)
    assert (verdict.status, verdict.line, verdict.source) == ("error", 5, "return torch.cat([values, 'x'])")
    assert verdict.error.startswith("TypeError: ")


def test_error_without_a_line_of_the_student_has_none():
    verdict = error_verdict("9.9", SystemExit(), Path("exercises.py"))
    assert (verdict.error, verdict.line) == ("SystemExit", 0)


@pytest.mark.parametrize(("shows_call", "call"), [(True, "double(Tensor (3,) float32)"), (False, "")])
def test_call_is_shown_if_its_arguments_are_those_of_the_case(shows_call, call):
    exercise = replace(
        EXERCISE,
        adapt=lambda function, case: {"result": function(*case.arguments, **case.keywords)},
        shows_call=shows_call,
    )
    assert Judge(exercise).judge(lambda values: values * 2.5).call == call
