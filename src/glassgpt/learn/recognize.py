"""Compare the results of a student's function with those of the solution and of each known mistake."""

from __future__ import annotations

import errno
import random
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glassgpt.learn.lesson import Case, Exercise, Mistake, call
from glassgpt.learn.values import Raised, describe, difference, shortened
from glassgpt.learn.verdict import Verdict

ERROR_CHARACTERS = 1000
"""Longest message of an exception that is shown."""
FILE_MB = 8
"""Megabytes that a student's code may print, or write to a file."""


@dataclass(frozen=True)
class Results:
    """Results of an implementation.

    Attributes:
        values: one per case; `Raised` for an exception.
        errors: the exceptions by case.
        arguments: the arguments of each case after the call.
    """

    values: list[Any]
    errors: dict[int, Exception]
    arguments: list[Case]


def run_cases(exercise: Exercise, function: Callable[..., Any]) -> Results:
    """Call an implementation with fresh arguments for each case, from the same random state."""
    results = Results([], {}, [])
    for i, case in enumerate(exercise.cases()):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            results.values.append(exercise.adapt(function, case))
        except Exception as error:  # noqa: BLE001 - whatever the student's code raises is a result
            results.values.append(Raised(type(error).__name__))
            results.errors[i] = error
        results.arguments.append(case)
    return results


class Judge:
    """Judges implementations of an exercise. It computes all references first, so that no code of a student affects them."""

    def __init__(self, exercise: Exercise) -> None:
        self.exercise = exercise
        self.expected = run_cases(exercise, exercise.solution)
        self.mistakes = [(each, run_cases(exercise, each.function).values) for each in exercise.mistakes]

    def judge(self, function: Callable[..., Any], file: Path | None = None) -> Verdict:
        """Return the verdict on an implementation.

        Args:
            function: the implementation.
            file: the student's file, for the line of an error.
        """
        results = run_cases(self.exercise, function)
        number, cases = self.exercise.number, len(results.values)
        if (place := self._first_difference(results.values)) is None:
            if (changed := self._changed_argument(results)) is None:
                return Verdict(number, "solved", cases=cases)
            case, found = changed
            return Verdict(number, "changed", case=case + 1, cases=cases, place=found)
        case = place
        if (error := results.errors.get(case)) is not None and _is_not_begun(error, number):
            return Verdict(number, "not-begun", cases=cases)
        if (mistake := self._recognized(results.values)) is not None:
            return Verdict(number, "mistake", mistake.parts or (mistake.name,), case + 1, cases)
        called = self._described_call(case)
        if error is not None:
            return replace(error_verdict(number, error, file, case=case + 1, cases=cases), call=called)
        found = difference(self.expected.values[case], results.values[case], self.exercise.tolerance)
        assert found is not None
        return Verdict(
            number,
            "different",
            (),
            case + 1,
            cases,
            found.expected,
            found.received,
            found.place,
            found.share,
            call=called,
        )

    def _described_call(self, case: int) -> str:
        """Return a case as the call of the function, such as `merge([2, 1], (1, 2), 300)`; empty if it is another call."""
        if self.exercise.adapt is not call and not self.exercise.shows_call:
            return ""
        made = self.exercise.cases()[case]
        keywords = (f"{name}={describe(value)}" for name, value in made.keywords.items())
        return shortened(f"{self.exercise.function}({', '.join([*map(describe, made.arguments), *keywords])})")

    def _first_difference(self, values: Sequence[Any]) -> int | None:
        pairs = enumerate(zip(self.expected.values, values, strict=True))
        return next((i for i, (one, other) in pairs if difference(one, other, self.exercise.tolerance)), None)

    def _recognized(self, values: Sequence[Any]) -> Mistake | None:
        for mistake, theirs in self.mistakes:
            if equal(theirs, values, self.exercise.tolerance):
                return mistake
        return None

    def _changed_argument(self, results: Results) -> tuple[int, str] | None:
        """Return the case and the name of the first argument that the implementation has changed and the solution has not."""
        if self.exercise.may_change_arguments:
            return None
        for i, (ours, theirs) in enumerate(zip(self.expected.arguments, results.arguments, strict=True)):
            before = {**dict(enumerate(ours.arguments, 1)), **ours.keywords}
            after = {**dict(enumerate(theirs.arguments, 1)), **theirs.keywords}
            for name, value in before.items():
                if is_comparable(value) and difference(value, after[name], 0.0):
                    return i, str(name)
        return None


def equal(ones: Sequence[Any], others: Sequence[Any], tolerance: float) -> bool:
    """Return whether the results of two implementations are equal in all cases."""
    return all(difference(one, other, tolerance) is None for one, other in zip(ones, others, strict=True))


def is_comparable(value: Any) -> bool:
    """Return whether a value consists of what `difference` compares by content."""
    if isinstance(value, list | tuple):
        return all(map(is_comparable, value))
    if isinstance(value, dict):
        return all(map(is_comparable, value.values()))
    return isinstance(value, bool | int | float | str | bytes | np.generic | np.ndarray | torch.Tensor)


def _is_not_begun(error: Exception, number: str) -> bool:
    """Return whether an exception is the one of an exercise that is still to be written."""
    return isinstance(error, NotImplementedError) and str(error) == f"exercise {number}"


def error_verdict(number: str, error: BaseException, file: Path | None, *, case: int = 0, cases: int = 0) -> Verdict:
    """Return the verdict on an exception, with the last line of the student's file that led to it."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if file and Path(each.filename) == file]
    line, source = (frames[-1].lineno or 0, frames[-1].line or "") if frames else (0, "")
    if isinstance(error, SyntaxError) and file and error.filename == str(file):
        line, source = error.lineno or 0, (error.text or "").strip()
    text = str(error) if not isinstance(error, SyntaxError) else error.msg
    name = type(error).__name__
    shown = shortened(f"{name}: {text}" if text else name, ERROR_CHARACTERS)
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return Verdict(number, "output", case=case, cases=cases, expected=f"{FILE_MB}", line=line, source=source)
    status = "memory" if isinstance(error, MemoryError) or "can't allocate memory" in text else "error"
    return Verdict(number, status, case=case, cases=cases, error=shown, line=line, source=source)
