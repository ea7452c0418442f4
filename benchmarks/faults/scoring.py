"""Convert observations of a case into a row of the results, and rows into totals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from glassgpt.diagnosis.catalogue import describe
from glassgpt.diagnosis.findings import SEVERITIES

from .case import STAGES, Fault, Healthy
from .peers import Alarm, lightning, olmo_core
from .stages import Observation, StageFinding

TOLERANCE = 0.02
"""A run counts as recovered up to this relative excess over the final loss of the undisturbed run."""


def top_finding(found: Sequence[StageFinding]) -> StageFinding | None:
    """Return the finding that a user reads first: in the first stage with a warning, the most severe, most certain, earliest.

    Where no stage warns, it is the first note.
    """
    for severities in (("fatal", "warning"), ("note",)):
        for stage in STAGES:
            here = [one for one in found if one.stage == stage and one.finding.severity in severities]
            if here:
                return min(here, key=lambda one: (SEVERITIES.index(one.finding.severity), -one.finding.confidence))
    return None


def fault_row(fault: Fault, observed: Observation, undisturbed: float | None) -> dict[str, Any]:
    """Return the row of a fault: whether it was detected, its cause named, the run recovered."""
    top = top_finding(observed.found)
    is_detected = top is not None and (not fault.fatal or top.finding.severity != "note")
    ratio = observed.final_loss / undisturbed if observed.final_loss is not None and undisturbed else None
    return {
        "name": fault.name,
        "kind": fault.kind,
        "what": fault.what,
        "fatal": fault.fatal,
        "recoverable": fault.recovery,
        "step_of_fault": fault.at,
        "expected_stage": fault.stage,
        "expected_codes": list(fault.expects),
        "detected": is_detected,
        "stage": top.stage if top else None,
        "steps_until_detection": _steps_until(fault, observed.found),
        "code": top.finding.code if top else None,
        "title": describe(top.finding).title if top else None,
        "cause_right": is_detected and top is not None and top.finding.code in fault.expects,
        "codes": codes_by_stage(observed.found),
        "interventions": [{"event": line["event"], "step": line["step"]} for line in observed.interventions],
        "ended": observed.trained.ended,
        "final_loss": observed.final_loss,
        "undisturbed_loss": undisturbed,
        "loss_ratio": ratio,
        "recovered": ratio is not None and ratio <= 1 + TOLERANCE if fault.recovery else None,
        **peers(observed),
        "seconds": round(observed.seconds, 1),
    }


def _steps_until(fault: Fault, found: Sequence[StageFinding]) -> int | None:
    """Return the steps from the fault to the first live finding: 0 if found before any step, None if only afterwards."""
    if any(one.stage in ("before", "start") for one in found):
        return 0
    steps = [one.step for one in found if one.stage == "during"]
    return max(0, min(steps) - fault.at) if steps else None


def healthy_row(case: Healthy, observed: Observation) -> dict[str, Any]:
    """Return the row of a healthy training, in which every warning and intervention is a false alarm."""
    by_severity = {severity: [o for o in observed.found if o.finding.severity == severity] for severity in SEVERITIES}
    interventions = [line["event"] for line in observed.interventions]
    return {
        "name": case.name,
        "what": case.what,
        "false_alarm": bool(by_severity["fatal"] or by_severity["warning"] or interventions),
        "interventions": interventions,
        **{f"{severity}s": codes_by_stage(found) for severity, found in by_severity.items()},
        "ended": (observed.resumed or observed.trained).ended,
        "final_loss": observed.final_loss,
        **peers(observed),
        "seconds": round(observed.seconds, 1),
    }


def codes_by_stage(found: Sequence[StageFinding]) -> dict[str, list[str]]:
    """Return the codes of each stage that found any, in order, each once."""
    return {
        stage: list(dict.fromkeys(one.finding.code for one in found if one.stage == stage))
        for stage in STAGES
        if any(one.stage == stage for one in found)
    }


def peers(observed: Observation) -> dict[str, Any]:
    """Return the alarms of two other projects' detectors on the same series."""
    series = observed.trained.series
    return {"lightning": _alarm(lightning(series)), "olmo_core": _alarm(olmo_core(series))}


def _alarm(alarm: Alarm | None) -> dict[str, Any]:
    details = {"by": alarm.by, "step": alarm.step} if alarm else {}
    return {"detected": alarm is not None, "cause": None, **details}


def totals(faults: Sequence[dict[str, Any]], healthy: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the totals of the suite."""
    fatal = [row for row in faults if row["fatal"]]
    waits = sorted(row["steps_until_detection"] for row in faults if row["steps_until_detection"] is not None)
    return {
        "faults": len(faults),
        "kinds": len({row["kind"] for row in faults}),
        "detected": sum(row["detected"] for row in faults),
        "fatal": len(fatal),
        "fatal_detected": sum(row["detected"] for row in fatal),
        "cause_right": sum(row["cause_right"] for row in faults),
        "recoverable": sum(row["recoverable"] is not None for row in faults),
        "recovered": sum(row["recovered"] is True for row in faults),
        "median_steps_until_detection": waits[len(waits) // 2] if waits else math.nan,
        "healthy": len(healthy),
        "false_alarms": sum(row["false_alarm"] for row in healthy),
        "interventions_on_healthy": sum(bool(row["interventions"]) for row in healthy),
        "notes_on_healthy": sum(bool(row["notes"]) for row in healthy),
        "peers": {name: _peer(name, faults, fatal, healthy) for name in ("lightning", "olmo_core")},
    }


def _peer(name: str, faults: Sequence[Any], fatal: Sequence[Any], healthy: Sequence[Any]) -> dict[str, int]:
    return {
        "detected": sum(row[name]["detected"] for row in faults),
        "fatal_detected": sum(row[name]["detected"] for row in fatal),
        "cause_right": 0,
        "false_alarms": sum(row[name]["detected"] for row in healthy),
    }
