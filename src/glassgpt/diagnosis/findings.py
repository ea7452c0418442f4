"""What a check has found: the contract between checks, detectors, `events.jsonl`, the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from glassgpt.errors import DataError

Severity = Literal["fatal", "warning", "note"]
"""fatal: the run breaks, broke, or its result means nothing; warning: it gets worse than it need be; note: good to
know."""
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
Value = str | int | float
EVENT = "finding"
"""The `event` of a line of `events.jsonl` that holds a finding."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, with the evidence. What it means and what to do stands in the catalogue.

    Attributes:
        code: the stable name of the page in the catalogue: `GG-NAN-003`.
        severity: how bad it is.
        seen: the figures, by the names that the catalogue's text uses; those that are not finite become text, so that
            the line is JSON for every reader.
        confidence: how sure the cause is, in (0, 1].
        ruled_out: codes of other causes that were looked for and are not it.
        done: names of the catalogue's actions that were taken already.
    """

    code: str
    severity: Severity
    seen: Mapping[str, Value] = field(default_factory=dict[str, Value], hash=False)
    confidence: float = 1.0
    ruled_out: tuple[str, ...] = ()
    done: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity is {self.severity!r}; allowed is {', '.join(SEVERITIES)}")
        if not 0 < self.confidence <= 1:
            raise ValueError(f"confidence is {self.confidence}; it must be above 0 and at most 1")
        object.__setattr__(self, "seen", {name: _as_json(value) for name, value in self.seen.items()})

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `from_json` gives the same finding again."""
        return {
            "code": self.code,
            "severity": self.severity,
            "seen": dict(self.seen),
            "confidence": self.confidence,
            "ruled_out": list(self.ruled_out),
            "done": list(self.done),
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Finding:
        """A finding from its JSON object; other keys (`step`, `event`) are passed over.

        Raises:
            DataError: it is no finding.
        """
        try:
            return cls(
                code=str(line["code"]),
                severity=line["severity"],
                seen=dict(line["seen"]),
                confidence=float(line["confidence"]),
                ruled_out=tuple(line["ruled_out"]),
                done=tuple(line["done"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"this is no finding: {dict(line)!r} ({error})") from error


def _as_json(value: Value) -> Value:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class CheckResult:
    """What a check came to. What it measured is put into words by the catalogue, also where all is fine.

    Attributes:
        name: what was checked, by its English name.
        outcome: which of the catalogue's sentences about this check tells what was measured.
        seen: the figures that this sentence asks for.
        findings: what is wrong; empty when nothing is.
    """

    name: str
    outcome: str
    seen: Mapping[str, Value] = field(default_factory=dict[str, Value], hash=False)
    findings: tuple[Finding, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @property
    def worst(self) -> str:
        """The severest of what was found, or `fine`."""
        found = {finding.severity for finding in self.findings}
        return next((severity for severity in SEVERITIES if severity in found), "fine")

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        findings = [finding.to_json() for finding in self.findings]
        seen = {name: _as_json(value) for name, value in self.seen.items()}
        return {"check": self.name, "outcome": self.outcome, "seen": seen, "findings": findings}


def is_fatal(checks: list[CheckResult]) -> bool:
    """Whether something was found that breaks the run."""
    return any(finding.severity == "fatal" for check in checks for finding in check.findings)
