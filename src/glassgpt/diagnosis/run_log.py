"""A run as its files tell it, whole or torn: what a diagnosis after death has to go by."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from glassgpt.diagnosis.catalogue import entries
from glassgpt.diagnosis.findings import EVENT, Finding
from glassgpt.diagnosis.series import Validation
from glassgpt.errors import DataError
from glassgpt.training.run_folder import RunFolder

Line = dict[str, Any]
End = Literal["finished", "stopped early", "interrupted", "diverged", "failed", "killed", "running", "imported"]
BEGINNINGS = ("start", "resume")
ENDINGS: dict[str, End] = {
    "interrupted": "interrupted",
    "diverged": "diverged",
    "failed": "failed",
    "early stop": "stopped early",
}
SILENT_SECONDS, SILENT_STEPS = 60.0, 20.0
"""A run that wrote nothing for so long, and for the time of so many steps, runs no more."""


@dataclass(frozen=True)
class RunLog:
    """`metrics.jsonl` and `events.jsonl`.

    Attributes:
        run: the folder.
        steps: a line for each step.
        validations: a line for each validation.
        events: a line for each event.
        unreadable: lines of each file that are no JSON, by the file's name.
        written: when a line was last written, in seconds since 1970.
    """

    run: RunFolder
    steps: list[Line]
    validations: list[Line]
    events: list[Line]
    unreadable: dict[str, int]
    written: float

    @classmethod
    def read(cls, run: RunFolder) -> RunLog:
        """Read both files; what cannot be read of them is counted and left out."""
        metrics, torn_metrics = _lines(run.metrics)
        told, torn_events = _lines(run.events)
        events = [line for line in told if line.get("event") != EVENT or _can_be_told(line)]
        torn_events += len(told) - len(events)
        torn = {run.metrics.name: torn_metrics, run.events.name: torn_events}
        return cls(
            run,
            steps=[line for line in metrics if _is_number(line.get("loss")) and "step" in line],
            validations=[line for line in metrics if _is_number(line.get("validation_loss")) and "step" in line],
            events=events,
            unreadable={name: count for name, count in torn.items() if count},
            written=max((f.stat().st_mtime for f in (run.metrics, run.events) if f.is_file()), default=0.0),
        )

    @property
    def numbers(self) -> list[int]:
        """The number of each step."""
        return [int(line["step"]) for line in self.steps]

    def column(self, name: str) -> list[float]:
        """A figure of each step; NaN where a line lacks it."""
        found = [line.get(name) for line in self.steps]
        return [math.nan if value is None else float(value) for value in found]

    def evaluations(self) -> list[Validation]:
        """The validations, as detectors take them."""
        return [
            Validation(int(line["step"]), float(line["validation_loss"]), int(line.get("validation_tokens", 1)))
            for line in self.validations
        ]

    def durations(self) -> list[float]:
        """Seconds of each step; validations and interruptions are not in them."""
        return np.diff([0.0, *self.column("seconds")]).tolist()

    @property
    def last_step(self) -> int:
        """The newest step that is told of, 0 before the first."""
        return max([0, *self.numbers, *(int(event.get("step", 0)) for event in self.events)])

    @property
    def is_imported(self) -> bool:
        """True if the weights were imported: there are checkpoints, but nothing was ever logged."""
        logged = self.run.metrics.exists() or self.run.events.exists()
        return not logged and any(self.run.checkpoints.glob("step-*"))

    def event(self, name: str) -> Line | None:
        """The newest event of that name since the run last began."""
        return next((line for line in reversed(self._since_beginning()) if line.get("event") == name), None)

    @property
    def began(self) -> Line:
        """The event of the run's newest beginning; empty where none was written."""
        return self.event("resume") or self.event("start") or {}

    @property
    def diverged_at(self) -> int:
        """The step of the newest number that was not finite and ended the run; else the newest step that is told of."""
        return int((self.event("diverged") or {}).get("at", self.last_step))

    def _is_gone(self) -> bool:
        """Whether the process that wrote last began on this machine and is no more; elsewhere only silence tells."""
        host, process = self.began.get("host"), self.began.get("pid")
        if os.name != "posix" or host != platform.node() or not isinstance(process, int) or process <= 0:
            return False
        return not _exists(process)

    def _since_beginning(self) -> list[Line]:
        begun = [i for i, line in enumerate(self.events) if line.get("event") in BEGINNINGS]
        return self.events[begun[-1] :] if begun else self.events

    def findings(self) -> list[tuple[int, Finding]]:
        """What was found while the run went on, each with its step."""
        return [(int(line["step"]), Finding.from_json(line)) for line in self.events if line.get("event") == EVENT]

    def noticed(self) -> list[tuple[int, Finding]]:
        """The findings, but of what was said again of the same step only the last.

        Memory ran out, less was taken, it ran out again: how it ended holds.
        """
        last: dict[tuple[str, object], tuple[int, Finding]] = {}
        for number, (step, finding) in enumerate(self.findings()):
            last[finding.code, finding.seen.get("step", ("of no step", number))] = (step, finding)
        return list(last.values())

    def end(self, max_steps: int, now: Callable[[], float] = time.time) -> End:
        """How the run ended, or that it has not."""
        said: list[End] = [ENDINGS[line["event"]] for line in self._since_beginning() if line.get("event") in ENDINGS]
        if said:
            return said[-1]
        if self.is_imported:
            return "imported"
        if self.last_step >= max_steps:
            return "finished"
        if self._is_gone():
            return "killed"
        known = [seconds for seconds in self.durations() if math.isfinite(seconds)]
        patience = max(SILENT_SECONDS, SILENT_STEPS * float(np.median(known)) if known else 0.0)
        return "running" if now() - self.written < patience else "killed"


def _exists(process: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # there, but somebody else's
        pass
    return True


def _can_be_told(line: Line) -> bool:
    """Whether a finding is whole, of a code that is known here, and holds every figure that its text asks for."""
    try:
        finding = Finding.from_json(line)
    except DataError:
        return False
    known = entries().get(finding.code)
    return "step" in line and known is not None and known["en"].placeholders() <= finding.seen.keys()


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _lines(path: Path) -> tuple[list[Line], int]:
    """The lines that are JSON objects, and how many are not; the last, which a crash cut short, counts as one."""
    if not path.is_file():
        return [], 0
    good: list[Line] = []
    bad = 0
    for raw in path.read_bytes().split(b"\n"):
        line = _parsed(raw)
        if line is not None:
            good.append(line)
        elif raw:
            bad += 1
    return good, bad


def _parsed(raw: bytes) -> Line | None:
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
