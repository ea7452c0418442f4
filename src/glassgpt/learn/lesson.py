"""A lesson: its texts, and its exercises with the mistakes that the check recognizes. Free of torch until exercises are read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from glassgpt.errors import UsageError
from glassgpt.locale import Language

PACKAGE = "glassgpt.learn.lessons"
"""Package in which each folder `lessonN` is a lesson."""


class Case:
    """Arguments of one call in a check.

    Args:
        arguments: positional arguments.
        keywords: keyword arguments.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.arguments = arguments
        self.keywords = keywords


@dataclass(frozen=True)
class Mistake:
    """A typical mistake, as an implementation that makes it.

    Attributes:
        name: key of its explanation in the texts.
        function: gives the results by which the mistake is recognized.
        parts: names of other mistakes of the exercise that this one combines; then their explanations are shown.
    """

    name: str
    function: Callable[..., Any]
    parts: tuple[str, ...] = ()


def call(function: Callable[..., Any], case: Case) -> Any:
    """Call a function with the arguments of a case: the default of `Exercise.adapt`."""
    return function(*case.arguments, **case.keywords)


@dataclass(frozen=True)
class Exercise:
    """A function or class that the student writes.

    Attributes:
        number: such as "3.2".
        function: its name in `exercises.py`.
        cases: makes the cases, the same ones at each call. They are made again for each implementation, so a function
            that changes its arguments does not affect another.
        solution: a correct implementation.
        mistakes: the mistakes that are recognized; in some case each differs from the solution and from the others.
        tolerance: how far numbers may differ, absolutely and relative to the expected one.
        adapt: calls the student's object with a case and returns what is compared: nested sequences and dictionaries of
            tensors, arrays, numbers and texts.
        shows_call: whether a case with another result is shown as a call of the function. Without `adapt` it always is;
            with one, if the arguments of the case are those of the call.
        may_change_arguments: whether the function is meant to change its arguments.
        seconds: time limit of all cases together.
    """

    number: str
    function: str
    cases: Callable[[], Sequence[Case]]
    solution: Callable[..., Any]
    mistakes: tuple[Mistake, ...]
    tolerance: float = 1e-5
    adapt: Callable[[Callable[..., Any], Case], Any] = call
    shows_call: bool = False
    may_change_arguments: bool = False
    seconds: float = 10.0


@dataclass(frozen=True)
class MistakeText:
    """Explanation of a mistake.

    Attributes:
        text: what the results showed, why it is wrong, and what to think about.
        see: where to read on: a file of the package, or `#` and a heading of the lesson.
    """

    text: str
    see: str


@dataclass(frozen=True)
class ExerciseText:
    """The texts of an exercise: its title, its task, hints from gentle to nearly the answer, and explained mistakes."""

    title: str
    task: str
    hints: tuple[str, ...]
    mistakes: Mapping[str, MistakeText]


@dataclass(frozen=True)
class LessonText:
    """The texts of a lesson in one language.

    Attributes:
        title: of the lesson.
        builds: what the student will have built.
        minutes: how long the lesson takes.
        exercises: by number.
    """

    title: str
    builds: str
    minutes: int
    exercises: Mapping[str, ExerciseText]


@dataclass(frozen=True)
class Lesson:
    """A lesson.

    Attributes:
        number: from 0.
        package: its Python package.
        folder: folder of that package.
    """

    number: int
    package: str
    folder: Path

    def texts(self, language: Language) -> LessonText:
        """Read the texts in a language."""
        return read_texts(self.folder / f"texts.{language}.toml")

    def document(self, language: Language) -> str:
        """Read the lesson itself, Markdown with cells of Python."""
        return (self.folder / f"lesson.{language}.md").read_text(encoding="utf-8")

    def exercise_file(self, language: Language) -> str:
        """Read the file that the student completes."""
        return (self.folder / f"exercises_{language}.py").read_text(encoding="utf-8")

    def exercises(self) -> tuple[Exercise, ...]:
        """Import the exercises with their solutions; this loads torch."""
        return tuple(import_module(f"{self.package}.checks").EXERCISES)


def read_texts(file: Path) -> LessonText:
    """Read the texts of a lesson from TOML."""
    raw = tomllib.loads(file.read_text(encoding="utf-8"))
    exercises = {number: _exercise_text(entry) for number, entry in raw["exercises"].items()}
    return LessonText(raw["title"], raw["builds"], raw["minutes"], exercises)


def _exercise_text(entry: Mapping[str, Any]) -> ExerciseText:
    mistakes = {name: MistakeText(**each) for name, each in entry["mistakes"].items()}
    return ExerciseText(entry["title"], entry["task"], tuple(entry["hints"]), mistakes)


def lessons() -> dict[int, Lesson]:
    """Return the lessons by number."""
    spec = find_spec(PACKAGE)
    assert spec is not None
    folders = [path for root in spec.submodule_search_locations or () for path in Path(root).iterdir()]
    found = {int(match[1]): path for path in folders if (match := re.fullmatch(r"lesson(\d+)", path.name))}
    return {number: Lesson(number, f"{PACKAGE}.lesson{number}", found[number]) for number in sorted(found)}


def find_lesson(number: int) -> Lesson:
    """Return the lesson with a number.

    Raises:
        UsageError: there is none.
    """
    known = lessons()
    if number not in known:
        raise UsageError(f"there is no lesson {number}; glassgpt learn lists the lessons")
    return known[number]


def parse_number(given: str) -> tuple[Lesson, str | None]:
    """Return the lesson and the number of the exercise, if one is named: `3` or `3.2`.

    Raises:
        UsageError: it is neither, or does not exist.
    """
    match = re.fullmatch(r"(\d{1,3})(?:\.(\d{1,3}))?", given)
    if match is None:
        raise UsageError(f"{given} is not a lesson; give the number of a lesson or of an exercise, such as 3 or 3.2")
    lesson = find_lesson(int(match[1]))
    if match[2] is not None and given not in (exercises := lesson.texts("en").exercises):
        raise UsageError(f"there is no exercise {given}; lesson {lesson.number} has {', '.join(exercises)}")
    return lesson, given if match[2] is not None else None
