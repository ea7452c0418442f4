"""Problems of code benchmarks: HumanEval, its single-line infilling, MBPP, and Exercism's exercises. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from glassgpt.code.gap import Extent, Gap
from glassgpt.data.code.exclude import problem_rows
from glassgpt.errors import DataError, UsageError, WrongDataError

Row = Mapping[str, object]
MBPP_STOPS = ("\nclass ", "\nassert ", '\n"""', "\nprint(", "\nif ", "\n#", "\n```")
"""Texts that end a solution of MBPP, which is a whole program and not a block."""
RUN_TESTS = Path(__file__).with_name("exercise_tests.py")
INSTRUCTION_CHARACTERS = 2000
"""Most characters of an exercise's instructions in a prompt; half of them have fewer than 1,010."""


@dataclass(frozen=True)
class Problem:
    """A gap to fill so that a test passes.

    Attributes:
        name: its id in the benchmark.
        gap: where the solution belongs.
        answer: the benchmark's own solution.
        test: program text that follows the filled text, and fails if the solution is wrong.
        extent: what a solution fills at most.
        stops: texts that end it.
        file: name of the file that the test imports the filled text from; empty if the test follows in the same program.
        others: content of further files beside it, by name.
    """

    name: str
    gap: Gap
    answer: str
    test: str
    extent: Extent = "block"
    stops: tuple[str, ...] = ()
    file: str = ""
    others: Mapping[str, str] = field(default_factory=dict[str, str])

    def program(self, text: str) -> str:
        """Return the filled text."""
        return self.gap.filled(text)

    def tested(self, text: str) -> str:
        """Return the program that tests the filled text."""
        return self.test if self.file else f"{self.program(text)}\n{self.test}\n"

    def files(self, text: str) -> dict[str, str]:
        """Return the content of the files that the program needs, by name."""
        return {**self.others, self.file: self.program(text)} if self.file else {}


def _human_eval(row: Row, origin: str) -> Problem:
    test = f"{_text(row, 'test', origin)}\ncheck({_text(row, 'entry_point', origin)})"
    gap = Gap(_text(row, "prompt", origin))
    return Problem(_name(row, origin), gap, _text(row, "canonical_solution", origin), test)


def _infilling(row: Row, origin: str) -> Problem:
    test = f"{_text(row, 'test', origin)}\ncheck({_text(row, 'entry_point', origin)})"
    # The line break after the line is in the solution; here it is in the suffix, as where an editor's cursor is in the line.
    gap = Gap(_text(row, "prompt", origin), f"\n{_text(row, 'suffix', origin)}")
    return Problem(_name(row, origin), gap, _text(row, "canonical_solution", origin).removesuffix("\n"), test, "line")


def _mbpp(row: Row, origin: str) -> Problem:
    """Return a problem with its text and its first test in a docstring, as InCoder (Fried et al. 2022) asks it."""
    tests = row.get("test_list")
    if not isinstance(tests, list) or not tests:
        raise DataError(f"{origin} has no test_list; give a file of MBPP")
    lines = [str(each) for each in cast("list[object]", tests)]
    # Without a line break at its end: that is one token with those after it, and says that none follows (see `healing`).
    prompt = f'"""\n{_text(row, "text", origin)}\n{lines[0]}\n"""'
    test = "\n".join([str(row.get("test_setup_code") or ""), *lines])
    answer = "\n" + _text(row, "code", origin)
    return Problem(f"MBPP/{_name(row, origin)}", Gap(prompt), answer, test, "document", MBPP_STOPS)


def _exercism(row: Row, origin: str) -> Problem:
    """Return an exercise: its instructions and stub as comments, then the stub up to its first definition.

    The prompt is ours; the exercises were made for people.
    """
    stub, names = _text(row, "stub", origin), cast("list[str]", row.get("test_names"))
    instructions = _text(row, "instructions", origin)[:INSTRUCTION_CHARACTERS]
    lines = stub.splitlines(keepends=True)
    first = next((at for at, line in enumerate(lines) if line.startswith(("def ", "class "))), len(lines) - 1)
    comment = "".join(f"# {line}".rstrip() + "\n" for line in f"{instructions}\n\n{stub}".splitlines())
    return Problem(
        f"Exercism/{_name(row, origin)}",
        Gap(f"{comment}\n\n{''.join(lines[: first + 1])}"),
        _text(row, "example", origin),
        RUN_TESTS.read_text(encoding="utf-8"),
        "document",
        file=_text(row, "file", origin),
        others=dict(zip(names, cast("list[str]", row["tests"]), strict=True)),
    )


BENCHMARKS: dict[str, Callable[[Row, str], Problem]] = {
    "humaneval": _human_eval,
    "mbpp": _mbpp,
    "infilling": _infilling,
    "exercism": _exercism,
}
FOLDERS = ("exercism",)
"""Benchmarks that are folders, not files."""


def read_problems(benchmark: str, path: Path, limit: int = 0) -> list[Problem]:
    """Return the problems in a file of one JSON object per line, also compressed.

    Args:
        benchmark: one of `BENCHMARKS`.
        path: the file, or folder, as its authors publish it.
        limit: problems to take from its start; 0 means all.

    Raises:
        UsageError: there is no such benchmark.
        WrongDataError: the path is a file instead of a folder, or the other way round, or has no problems.
        DataError: a row lacks a field, or has the id of an earlier one; the message names its line.
    """
    if benchmark not in BENCHMARKS:
        raise UsageError(f"--code is {benchmark}; it must be one of {', '.join(BENCHMARKS)}")
    if path.is_dir() and benchmark not in FOLDERS:
        raise WrongDataError(f"--problems is {path}, a folder; give the file that the authors of {benchmark} publish")
    if not path.is_dir() and benchmark in FOLDERS:
        raise WrongDataError(f"--problems is {path}, a file; give the folder exercises/practice of exercism/python")
    problems: dict[str, Problem] = {}
    for row, origin in problem_rows(path):
        if limit and len(problems) == limit:
            break
        if not isinstance(row, dict):
            raise DataError(f"{origin} is no JSON object, so it is no problem")
        problem = BENCHMARKS[benchmark](cast("Row", row), origin)
        if problem.name in problems:  # attempts are counted by name
            raise DataError(f"{origin} has the task_id of an earlier problem; give each problem an id of its own")
        problems[problem.name] = problem
    if not problems:
        raise WrongDataError(f"{path} has no rows; give a file with one JSON object per line")
    return list(problems.values())


def _name(row: Row, origin: str) -> str:
    value = row.get("task_id")
    if not isinstance(value, str | int):
        raise DataError(f"{origin} has no task_id; give each problem an id of its own")
    return str(value)


def _text(row: Row, field: str, origin: str) -> str:
    value = row.get(field)
    if not isinstance(value, str):
        raise DataError(f"{origin} has no field {field} with text, so it is no problem of this benchmark")
    return value
