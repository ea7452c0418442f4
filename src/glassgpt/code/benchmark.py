"""Evaluate a model on problems: how many of its solutions are valid, are the expected ones, and pass the tests."""

from __future__ import annotations

import dataclasses
import math
import secrets
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from glassgpt.code.completion import CodeModel, generate_for_gaps, ranked
from glassgpt.code.gap import parses, within
from glassgpt.code.isolation import Limits, Outcome, run_isolated
from glassgpt.code.problems import Problem
from glassgpt.data.threads import worker_threads
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.generation.options import GenerationOptions

PASS_AT = (1, 10, 100)
PROGRAM = "program.py"


@dataclass(frozen=True)
class Attempt:
    """A solution that a model wrote.

    Attributes:
        text: the solution.
        parses: whether the program with it is valid Python.
        is_exact: whether it is the benchmark's own solution, apart from blanks around it.
        outcome: of the test; None if it was not run.
    """

    text: str
    parses: bool
    is_exact: bool
    outcome: Outcome | None = None


@dataclass(frozen=True)
class CodeReport:
    """The results of one model.

    Attributes:
        attempts: those of each problem, by its name.
    """

    attempts: dict[str, list[Attempt]]

    @property
    def _all(self) -> list[Attempt]:
        return [attempt for attempts in self.attempts.values() for attempt in attempts]

    @property
    def parse_rate(self) -> float:
        """Share of the programs that are valid Python."""
        return sum(attempt.parses for attempt in self._all) / len(self._all)

    @property
    def exact_match(self) -> float:
        """Share of the solutions that are the benchmark's own."""
        return sum(attempt.is_exact for attempt in self._all) / len(self._all)

    @property
    def was_executed(self) -> bool:
        """True if the tests were run."""
        return all(attempt.outcome is not None for attempt in self._all)

    @property
    def had_namespaces(self) -> bool:
        """True if every test had its own namespaces."""
        return all(attempt.outcome is not None and attempt.outcome.has_namespaces for attempt in self._all)

    def pass_at(self, k: int) -> float | None:
        """Return the mean of `pass_at_k` over the problems; None if tests were not run or there are fewer attempts."""
        if not self.was_executed or any(len(attempts) < k for attempts in self.attempts.values()):
            return None
        passed = [
            (len(attempts), sum(each.outcome is not None and each.outcome.passed for each in attempts))
            for attempts in self.attempts.values()
        ]
        return sum(pass_at_k(n, correct, k) for n, correct in passed) / len(passed)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Return the probability that of k attempts, drawn from n of which some are correct, at least one is.

    This estimator of pass@k has no bias (Chen et al. 2021); 1 - (1 - correct / n)^k has one.
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"{k} of {n} attempts, {correct} of them correct")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def evaluate_problems(
    code: CodeModel,
    problems: Sequence[Problem],
    options: GenerationOptions,
    *,
    best_only: bool = False,
    limits: Limits | None = None,
    observer: EvaluationObserver = SILENT,
) -> CodeReport:
    """Return a model's attempts at problems of one benchmark.

    Args:
        code: the model.
        problems: not empty.
        options: of the generation; `num_samples` is the number of attempts at each problem.
        best_only: of the attempts at a problem, keep the one that `complete` would show first, as the only one. Tests have no
            part in that.
        limits: of each test; None runs none. Tests run code that the model wrote.
        observer: receives progress.

    Raises:
        GenerationError: an option is invalid.
    """
    options = dataclasses.replace(options, stop=(*options.stop, *problems[0].stops))
    written = _solutions(code, problems, options, best_only=best_only, observer=observer)
    outcomes: list[Outcome | None] = [None] * len(written)
    if limits is not None:
        with observer.progress("tests", len(written), "tests") as advance:
            programs = [(problem.tested(text), problem.files(text)) for problem, text in written]
            outcomes = list(_outcomes(programs, limits, advance))
    attempts: dict[str, list[Attempt]] = {problem.name: [] for problem in problems}
    for (problem, text), outcome in zip(written, outcomes, strict=True):
        is_valid = bool(parses(problem.program(text), PROGRAM))
        attempts[problem.name].append(Attempt(text, is_valid, text.strip() == problem.answer.strip(), outcome))
    return CodeReport(attempts)


def _solutions(
    code: CodeModel,
    problems: Sequence[Problem],
    options: GenerationOptions,
    *,
    best_only: bool,
    observer: EvaluationObserver,
) -> list[tuple[Problem, str]]:
    """Return the texts of all attempts, or of the best one of each problem; see `evaluate_problems`."""
    with observer.progress("solutions", len(problems) * options.num_samples * options.max_tokens) as advance:
        generated = generate_for_gaps(code, [problem.gap for problem in problems], options, advance)
    if not best_only:
        return [
            (problem, within(problem.gap, sample.text, problem.extent))
            for problem, (_, _, samples) in zip(problems, generated, strict=True)
            for sample in samples
        ]
    best: list[tuple[Problem, str]] = []
    with observer.progress("ranking", len(problems), "problems") as advance:
        for problem, (prompt, beginning, samples) in zip(problems, generated, strict=True):
            order = ranked(code, problem.gap, prompt, beginning, samples, extent=problem.extent, name=PROGRAM)
            best.append((problem, order[0].text))
            advance(1)
    return best


def _outcomes(
    programs: Sequence[tuple[str, Mapping[str, str]]], limits: Limits, advance: Callable[[int], None]
) -> list[Outcome]:
    """Run programs, each beside its files.

    One that ends before its last line, as by `sys.exit()` in a solution, has not passed its test.
    """

    def run(given: tuple[str, Mapping[str, str]]) -> Outcome:
        program, files = given
        mark = secrets.token_hex(16)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, name).write_text(content, encoding="utf-8")
            Path(folder, PROGRAM).write_text(f"{program}\nprint({mark!r})\n", encoding="utf-8")
            outcome = run_isolated([sys.executable, "-I", PROGRAM], Path(folder), limits)
        advance(1)
        return dataclasses.replace(outcome, code=1) if outcome.passed and mark not in outcome.output else outcome

    with ThreadPoolExecutor(worker_threads()) as pool:
        return list(pool.map(run, programs))
