"""Terminal output of `glassgpt doctor`: one line per check, the findings with their remedies, and a summary."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len

from glassgpt import console
from glassgpt.diagnosis.catalogue import (
    actions_taken,
    check_name,
    describe,
    describe_measurement,
    entry,
    mark_placeholders,
    ruled_out_causes,
)
from glassgpt.diagnosis.findings import SEVERITIES, CheckResult, Finding, is_fatal
from glassgpt.locale import Language

LABELS: dict[Language, dict[str, str]] = {
    "en": {
        "fine": "ok", "fatal": "FATAL", "warning": "warning", "note": "note",
        "cause": "cause", "do": "what to do", "done": "already done", "ruled_out": "ruled out",
        "page": "details", "confidence": "confidence", "summary_fine": "no problems found",
        "summary_fatal": "this will break the run or make its result worthless",
        "summary_other": "nothing that breaks the run",
    },
    "ko": {
        "fine": "정상", "fatal": "치명적", "warning": "경고", "note": "참고",
        "cause": "원인", "do": "해결 방법", "done": "이미 한 일", "ruled_out": "배제한 원인",
        "page": "자세히", "confidence": "확신", "summary_fine": "문제를 찾지 못했습니다",
        "summary_fatal": "실행이 깨지거나 결과가 쓸모없게 됩니다",
        "summary_other": "실행을 깨뜨릴 문제는 없습니다",
    },
}  # fmt: skip
STATE_WIDTH, NAME_WIDTH = 8, 20


def show(checks: Iterable[CheckResult], language: Language, *, json_in: Language | None = None) -> list[CheckResult]:
    """Print each check as it completes, then the summary.

    Args:
        checks: evaluated one by one while they are printed.
        language: of the texts.
        json_in: print one JSON object at the end instead, with its texts in this language; progress goes to standard error.

    Returns:
        The checks.
    """
    completed: list[CheckResult] = []
    for check in checks:
        completed.append(check)
        if json_in:
            console.info(f"{check_name(check, language)}: {describe_measurement(check, language)}")
        else:
            _show_check(check, language)
    if json_in:
        console.output_json(to_json_object(completed, json_in))
    else:
        console.output(f"\n{summary_line(completed, language)}")
    return completed


def summary_line(checks: list[CheckResult], language: Language) -> str:
    """Return a one-line summary of all checks."""
    labels, counts = LABELS[language], _counts(checks)
    found = ", ".join(f"{labels[severity]}: {count}" for severity, count in counts.items() if count)
    if not found:
        return f"{labels['summary_fine']} ({len(checks)})"
    return f"{found}; {labels['summary_fatal' if is_fatal(checks) else 'summary_other']}"


def _counts(checks: list[CheckResult]) -> dict[str, int]:
    found = [finding.severity for check in checks for finding in check.findings]
    return {severity: found.count(severity) for severity in SEVERITIES}


def to_json_object(checks: list[CheckResult], language: Language) -> dict[str, Any]:
    """Return all checks and their findings, texts included, as one JSON object."""
    return {
        "verdict": "fatal" if is_fatal(checks) else "warning" if _counts(checks)["warning"] else "fine",
        **_counts(checks),
        "checks": [
            {
                **check.to_json(),
                "measured": describe_measurement(check, language),
                "findings": [_finding_with_text(finding, language) for finding in check.findings],
            }
            for check in checks
        ],
    }


def _finding_with_text(finding: Finding, language: Language) -> dict[str, Any]:
    text = describe(finding, language)
    return finding.to_json() | {"title": text.title, "means": text.means, "cause": text.cause, "do": text.do}


def _show_check(check: CheckResult, language: Language) -> None:
    state, name = LABELS[language][check.worst], check_name(check, language)
    measurement = describe_measurement(check, language)
    console.output(f"{_pad(state, STATE_WIDTH)} {_pad(name, NAME_WIDTH)} {measurement}")
    for finding in check.findings:
        console.output(format_finding(finding, language, indent="         "))


def _pad(text: str, width: int) -> str:
    """Pad with spaces to a number of terminal columns; a Korean letter takes two."""
    return text + " " * (width - cell_len(text))


def format_finding(finding: Finding, language: Language, indent: str = "") -> str:
    """Return the text of a finding for the terminal, in several lines."""
    labels, text = LABELS[language], describe(finding, language)
    confidence = f" ({labels['confidence']}: {finding.confidence:.0%})" if finding.confidence < 1 else ""
    lines = [
        f"{finding.code}: {text.title}{confidence}",
        f"  {text.means}",
        f"  {labels['cause']}: {text.cause}",
        *(f"  {labels['done']}: {line}" for line in actions_taken(finding, language)),
        *(f"  {labels['ruled_out']}: {line}" for line in ruled_out_causes(finding, language)),
        f"  {labels['do']}: {text.do}",
        f"  {labels['page']}: glassgpt doctor {finding.code}",
    ]
    return "\n".join(indent + line for line in lines)


@contextmanager
def rate_range_progress(steps: int) -> Generator[Callable[[], None]]:
    """Show a progress bar for a learning-rate range test; yields the function that advances it."""
    with console.progress("trying learning rates", steps, unit="steps") as meter:
        yield lambda: meter.advance(1)


@contextmanager
def coordinates_progress(widths: Sequence[int], seconds: float, steps: int) -> Generator[Callable[[], None]]:
    """Say what a coordinate check will do, and show a progress bar; yields the function that advances it."""
    console.info(f"training models of the widths {', '.join(map(str, widths))}: about {max(1, round(seconds))} s")
    with console.progress("training models of several widths", steps, unit="steps") as meter:
        yield lambda: meter.advance(1)


def print_catalogue_entry(code: str, language: Language) -> None:
    """Print the entry of a code.

    Raises:
        UsageError: there is no such code.
    """
    labels, text = LABELS[language], entry(code, language)
    paragraphs = (f"{code}: {text.title}", text.means, f"{labels['cause']}: {text.cause}", f"{labels['do']}: {text.do}")
    console.output(mark_placeholders("\n\n".join(paragraphs)))


def print_startup_findings(checks: Iterable[CheckResult], language: Language) -> list[Finding]:
    """Print the findings of the checks at the start of training, one line each, and return them."""
    findings = [finding for check in checks for finding in check.findings]
    for finding in findings:
        text = describe(finding, language)
        line = f"{finding.code}: {text.title}. {text.do} (glassgpt doctor {finding.code})"
        if finding.severity == "note":
            console.info(line)
        else:
            console.warn(line)
    return findings
