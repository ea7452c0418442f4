"""Findings of checks and detectors: the contract between them, `events.jsonl`, the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from glassgpt.errors import DataError

Severity = Literal["fatal", "warning", "note"]
"""fatal: the run breaks, broke, or its result means nothing; warning: the result is worse than it need be; note: good
to know."""
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
Value = str | int | float
EVENT = "finding"
"""The `event` of a line of `events.jsonl` that holds a finding."""


@dataclass(frozen=True)
class Finding:
    """A problem with its evidence. The catalogue says what it means and what to do.

    Attributes:
        code: key of the catalogue entry, which never changes: `GG-NAN-003`.
        severity: how bad it is.
        evidence: values by the names that the catalogue's text uses. Numbers that are not finite become text, so that
            the line is JSON for every reader.
        confidence: how sure the cause is, in (0, 1].
        ruled_out: codes of other causes that were tested and are not it.
        actions: names of the catalogue's actions that were already taken.
    """

    code: str
    severity: Severity
    evidence: Mapping[str, Value] = field(default_factory=dict[str, Value], hash=False)
    confidence: float = 1.0
    ruled_out: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity is {self.severity!r}; it must be one of {', '.join(SEVERITIES)}")
        if not 0 < self.confidence <= 1:
            raise ValueError(f"confidence is {self.confidence}; it must be above 0 and at most 1")
        object.__setattr__(self, "evidence", {name: _as_json(value) for name, value in self.evidence.items()})

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes the same finding; its keys are a file format."""
        return {
            "code": self.code,
            "severity": self.severity,
            "seen": dict(self.evidence),
            "confidence": self.confidence,
            "ruled_out": list(self.ruled_out),
            "done": list(self.actions),
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Finding:
        """Create a finding from its JSON object; other keys (`step`, `event`) are ignored.

        Raises:
            DataError: it is not a finding.
        """
        try:
            return cls(
                code=str(line["code"]),
                severity=line["severity"],
                evidence=dict(line["seen"]),
                confidence=float(line["confidence"]),
                ruled_out=tuple(line["ruled_out"]),
                actions=tuple(line["done"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"this is not a finding: {dict(line)!r} ({error})") from error


def _as_json(value: Value) -> Value:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class CheckResult:
    """The result of a check, whether it passed or not. The catalogue describes the measurement in words.

    Attributes:
        name: English name of the check, its key in the catalogue.
        outcome: key of the sentence that describes the measurements.
        measurements: values by the names that this sentence uses.
        findings: the problems found; empty if there are none.
    """

    name: str
    outcome: str
    measurements: Mapping[str, Value] = field(default_factory=dict[str, Value], hash=False)
    findings: tuple[Finding, ...] = ()

    @property
    def passed(self) -> bool:
        """True if there are no findings."""
        return not self.findings

    @property
    def worst(self) -> str:
        """The highest severity among the findings, or `fine` without any."""
        found = {finding.severity for finding in self.findings}
        return next((severity for severity in SEVERITIES if severity in found), "fine")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        findings = [finding.to_json() for finding in self.findings]
        measurements = {name: _as_json(value) for name, value in self.measurements.items()}
        return {"check": self.name, "outcome": self.outcome, "seen": measurements, "findings": findings}


def is_fatal(checks: list[CheckResult]) -> bool:
    """Return whether any finding is fatal."""
    return any(finding.severity == "fatal" for check in checks for finding in check.findings)
