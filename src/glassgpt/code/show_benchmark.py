"""Console output and JSON of code benchmarks."""

from __future__ import annotations

from typing import Any

from glassgpt import console
from glassgpt.code.benchmark import PASS_AT, CodeReport


def show_report(benchmark: str, report: CodeReport, samples: int) -> None:
    """Print the figures, and the first attempts at some problems."""
    rows = [[console.translated(name), f"{value:.2%}"] for name, value in _figures(report).items()]
    console.table(f"{benchmark}, {len(report.attempts):,} problems", ["", "share"], rows)
    if not report.was_executed:
        console.info("the tests were not run; to run the code that the model wrote in isolation, add --execute")
    for name, attempts in list(report.attempts.items())[:samples]:
        console.result(f"{name}: {_judged(report, name)}")
        console.styled((attempts[0].text, "dim"))


def _judged(report: CodeReport, name: str) -> str:
    first = report.attempts[name][0]
    if first.outcome is not None:
        return console.translated("the test passes" if first.outcome.passed else "the test fails")
    return console.translated("parses" if first.parses else "does not parse")


def _figures(report: CodeReport) -> dict[str, float]:
    passed = {f"pass@{k}": value for k in PASS_AT if (value := report.pass_at(k)) is not None}
    return {**passed, "valid Python": report.parse_rate, "exact match": report.exact_match}


def report_json(benchmark: str, report: CodeReport) -> dict[str, Any]:
    """Return the figures and every attempt as JSON values."""
    return {
        "benchmark": benchmark,
        "problems": len(report.attempts),
        **{f"pass_at_{k}": value for k in PASS_AT if (value := report.pass_at(k)) is not None},
        "parse_rate": report.parse_rate,
        "exact_match": report.exact_match,
        "attempts": {
            name: [
                {
                    "text": each.text,
                    "parses": each.parses,
                    "exact": each.is_exact,
                    "passed": None if each.outcome is None else each.outcome.passed,
                }
                for each in attempts
            ]
            for name, attempts in report.attempts.items()
        },
    }
