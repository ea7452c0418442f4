"""What `glassgpt doctor` prints: a line for each check with its figure, findings with what to do, and a verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from rich.cells import cell_len

from glassgpt import console
from glassgpt.diagnosis.catalogue import Language, check_name, describe, done, entry, measured, page, plain, ruled_out
from glassgpt.diagnosis.findings import SEVERITIES, CheckResult, Finding, is_fatal

LABELS: dict[Language, dict[str, str]] = {
    "en": {
        "fine": "fine", "fatal": "FATAL", "warning": "warning", "note": "note",
        "cause": "cause", "do": "what to do", "done": "done already", "ruled_out": "ruled out",
        "page": "more", "sure": "sure", "verdict_fine": "nothing was found",
        "verdict_fatal": "this will break the run or make its result worthless",
        "verdict_other": "nothing that breaks the run",
    },
    "ko": {
        "fine": "정상", "fatal": "치명적", "warning": "경고", "note": "참고",
        "cause": "원인", "do": "해결 방법", "done": "이미 한 일", "ruled_out": "배제한 원인",
        "page": "자세히", "sure": "확신", "verdict_fine": "문제를 찾지 못했습니다",
        "verdict_fatal": "실행이 깨지거나 결과가 쓸모없게 됩니다",
        "verdict_other": "실행을 깨뜨릴 문제는 없습니다",
    },
}  # fmt: skip
STATE_WIDTH, NAME_WIDTH = 8, 20


def show(checks: Iterable[CheckResult], language: Language, *, as_json: bool) -> list[CheckResult]:
    """Print each check as it comes, then the verdict.

    Args:
        checks: as they are made.
        language: of findings.
        as_json: print one JSON object at the end instead; lines about the work go to standard error.

    Returns:
        The checks.
    """
    made: list[CheckResult] = []
    for check in checks:
        made.append(check)
        if as_json:
            console.info(f"{check_name(check, language)}: {measured(check, language)}")
        else:
            _show_check(check, language)
    if as_json:
        console.output(json.dumps(to_json_object(made, language), ensure_ascii=False))
    else:
        console.output(f"\n{verdict(made, language)}")
    return made


def verdict(checks: list[CheckResult], language: Language) -> str:
    """One line over all checks."""
    words, counts = LABELS[language], _counts(checks)
    found = ", ".join(f"{words[severity]}: {count}" for severity, count in counts.items() if count)
    if not found:
        return f"{words['verdict_fine']} ({len(checks)})"
    return f"{found}; {words['verdict_fatal' if is_fatal(checks) else 'verdict_other']}"


def _counts(checks: list[CheckResult]) -> dict[str, int]:
    found = [finding.severity for check in checks for finding in check.findings]
    return {severity: found.count(severity) for severity in SEVERITIES}


def to_json_object(checks: list[CheckResult], language: Language) -> dict[str, Any]:
    """All checks as one JSON object; each finding with its text."""
    return {
        "verdict": "fatal" if is_fatal(checks) else "warning" if _counts(checks)["warning"] else "fine",
        **_counts(checks),
        "checks": [
            {
                **check.to_json(),
                "measured": measured(check, language),
                "findings": [_finding_with_text(finding, language) for finding in check.findings],
            }
            for check in checks
        ],
    }


def _finding_with_text(finding: Finding, language: Language) -> dict[str, Any]:
    text = describe(finding, language)
    return finding.to_json() | {"title": text.title, "means": text.means, "cause": text.cause, "do": text.do}


def _show_check(check: CheckResult, language: Language) -> None:
    words = LABELS[language]
    state, name = _padded(words[check.worst], STATE_WIDTH), _padded(check_name(check, language), NAME_WIDTH)
    console.output(f"{state} {name} {measured(check, language)}")
    for finding in check.findings:
        console.output(message(finding, language, indent="         "))


def _padded(text: str, width: int) -> str:
    """Filled with blanks; a Korean letter is two columns wide."""
    return text + " " * (width - cell_len(text))


def message(finding: Finding, language: Language, indent: str = "") -> str:
    """A finding as the terminal shows it, several lines."""
    words, text = LABELS[language], describe(finding, language)
    sure = f" ({words['sure']}: {finding.confidence:.0%})" if finding.confidence < 1 else ""
    lines = [
        f"{finding.code}: {text.title}{sure}",
        f"  {text.means}",
        f"  {words['cause']}: {text.cause}",
        *(f"  {words['done']}: {line}" for line in done(finding, language)),
        *(f"  {words['ruled_out']}: {line}" for line in ruled_out(finding, language)),
        f"  {words['do']}: {text.do}",
        f"  {words['page']}: glassgpt doctor {finding.code} ({page(finding.code)})",
    ]
    return "\n".join(indent + line for line in lines)


def print_catalogue_entry(code: str, language: Language) -> None:
    """Print a code's entry.

    Raises:
        UsageError: there is no such code.
    """
    words, text = LABELS[language], entry(code, language)
    console.output(
        plain(f"{code}: {text.title}\n\n{text.means}\n\n{words['cause']}: {text.cause}\n\n{words['do']}: {text.do}")
    )


def print_startup_findings(checks: Iterable[CheckResult], language: Language) -> list[Finding]:
    """Say what was found at the start of a training, in few lines each; the findings."""
    findings = [finding for check in checks for finding in check.findings]
    for finding in findings:
        text = describe(finding, language)
        line = f"{finding.code}: {text.title}. {text.do} (glassgpt doctor {finding.code})"
        if finding.severity == "note":
            console.info(line)
        else:
            console.warn(line)
    return findings
