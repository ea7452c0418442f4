"""From what was seen to a row of the results, and from the rows to the totals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from glassgpt.diagnosis.catalogue import describe
from glassgpt.diagnosis.findings import SEVERITIES

from .case import STATIONS, Fault, Healthy
from .peers import Alarm, lightning, olmo_core
from .stations import Found, Seen

WITHIN = 0.02
"""Above the undisturbed run's final loss, relative, up to which a run counts as recovered."""


def top_finding(found: Sequence[Found]) -> Found | None:
    """What a person is told first and worst: at the first station that warns, the most severe, then surest, then first.

    Where no station warns, the first that notes something.
    """
    for severities in (("fatal", "warning"), ("note",)):
        for station in STATIONS:
            here = [one for one in found if one.station == station and one.finding.severity in severities]
            if here:
                return min(here, key=lambda one: (SEVERITIES.index(one.finding.severity), -one.finding.confidence))
    return None


def fault_row(fault: Fault, seen: Seen, undisturbed: float | None) -> dict[str, Any]:
    """One fault: whether it was seen, whether its cause was named, whether the run came to its end."""
    top = top_finding(seen.found)
    is_seen = top is not None and (not fault.fatal or top.finding.severity != "note")
    ratio = seen.final_loss / undisturbed if seen.final_loss is not None and undisturbed else None
    return {
        "name": fault.name,
        "kind": fault.kind,
        "what": fault.what,
        "fatal": fault.fatal,
        "recoverable": fault.recovery,
        "step_of_fault": fault.at,
        "expected_station": fault.station,
        "expected_codes": list(fault.expects),
        "detected": is_seen,
        "station": top.station if top else None,
        "steps_until_detection": _steps_until(fault, seen.found),
        "code": top.finding.code if top else None,
        "title": describe(top.finding).title if top else None,
        "cause_right": is_seen and top is not None and top.finding.code in fault.expects,
        "codes": codes_by_station(seen.found),
        "interventions": [{"event": line["event"], "step": line["step"]} for line in seen.interventions],
        "ended": seen.trained.ended,
        "final_loss": seen.final_loss,
        "undisturbed_loss": undisturbed,
        "loss_ratio": ratio,
        "recovered": ratio is not None and ratio <= 1 + WITHIN if fault.recovery else None,
        **peers(seen),
        "seconds": round(seen.seconds, 1),
    }


def _steps_until(fault: Fault, found: Sequence[Found]) -> int | None:
    """Steps from the fault to the first finding of the watch; 0 where it was found before any; None after the end."""
    if any(one.station in ("before", "start") for one in found):
        return 0
    steps = [one.step for one in found if one.station == "while"]
    return max(0, min(steps) - fault.at) if steps else None


def healthy_row(case: Healthy, seen: Seen) -> dict[str, Any]:
    """One sound training: everything that was said or done about it is one thing too many."""
    by_severity = {severity: [o for o in seen.found if o.finding.severity == severity] for severity in SEVERITIES}
    interventions = [line["event"] for line in seen.interventions]
    return {
        "name": case.name,
        "what": case.what,
        "false_alarm": bool(by_severity["fatal"] or by_severity["warning"] or interventions),
        "interventions": interventions,
        **{f"{severity}s": codes_by_station(found) for severity, found in by_severity.items()},
        "ended": (seen.resumed or seen.trained).ended,
        "final_loss": seen.final_loss,
        **peers(seen),
        "seconds": round(seen.seconds, 1),
    }


def codes_by_station(found: Sequence[Found]) -> dict[str, list[str]]:
    """Each station's codes, in their order, each once."""
    return {
        station: list(dict.fromkeys(one.finding.code for one in found if one.station == station))
        for station in STATIONS
        if any(one.station == station for one in found)
    }


def peers(seen: Seen) -> dict[str, Any]:
    """What two other projects' detectors say of the same series."""
    series = seen.trained.series
    return {"lightning": _alarm(lightning(series)), "olmo_core": _alarm(olmo_core(series))}


def _alarm(alarm: Alarm | None) -> dict[str, Any]:
    where = {"by": alarm.by, "step": alarm.step} if alarm else {}
    return {"detected": alarm is not None, "cause": None, **where}


def totals(faults: Sequence[dict[str, Any]], healthy: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The suite in figures."""
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
