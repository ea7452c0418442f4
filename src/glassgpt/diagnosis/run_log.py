"""The log files of a run: `metrics.jsonl`, `events.jsonl` and `layers.jsonl`, whole or torn."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from glassgpt.diagnosis.catalogue import actions_taken, completed, describe, ruled_out_causes
from glassgpt.diagnosis.findings import EVENT, Finding, Severity
from glassgpt.diagnosis.layer_sample import LayerSample
from glassgpt.diagnosis.series import Validation
from glassgpt.errors import DataError, GlassGPTError
from glassgpt.locale import LANGUAGES
from glassgpt.training.observers import StepMetrics
from glassgpt.training.run_folder import RunFolder, read_lines

Line = dict[str, Any]
Status = Literal["finished", "stopped early", "interrupted", "diverged", "failed", "killed", "running", "imported"]
COMPLETE: tuple[Status, ...] = ("finished", "stopped early")
"""Ways in which a run ended as it was meant to."""
START_EVENTS = ("start", "resume")
END_EVENTS: dict[str, Status] = {
    "interrupted": "interrupted",
    "diverged": "diverged",
    "failed": "failed",
    "early stop": "stopped early",
    "preference stop": "stopped early",
}
SILENT_SECONDS, SILENT_STEPS = 60.0, 20.0
"""A run counts as dead after this time, or the duration of this many steps if that is longer, without output."""


@dataclass(frozen=True)
class RunLog:
    """The log files of a run.

    Attributes:
        run: the run's folder.
        steps: the lines of steps, each with at least a step number and a loss.
        validations: the lines of validations, each with at least a step number and a loss.
        events: the lines of events.
        unreadable: number of unreadable lines of each file, by file name.
        last_written: when a line was last written, in seconds since 1970.
        layer_samples: the samples of `layers.jsonl`, without those of steps that were trained again later.
    """

    run: RunFolder
    steps: list[Line]
    validations: list[Line]
    events: list[Line]
    unreadable: dict[str, int]
    last_written: float
    layer_samples: list[LayerSample] = field(default_factory=list[LayerSample])

    @classmethod
    def read(cls, run: RunFolder) -> RunLog:
        """Read all files; lines that cannot be read are counted and left out."""
        metrics, bad_metrics = read_lines(run.metrics)
        events, bad_events = read_lines(run.events)
        samples, bad_samples = _layer_samples(run.layers)
        usable_events = [line for line in events if _is_usable_event(line)]
        bad_events += len(events) - len(usable_events)
        bad = {run.metrics.name: bad_metrics, run.events.name: bad_events, run.layers.name: bad_samples}
        return cls(
            run,
            steps=[line for line in metrics if _has_step(line) and _has_numbers(line, "loss")],
            validations=[line for line in metrics if _has_step(line) and _has_numbers(line, "validation_loss")],
            events=usable_events,
            unreadable={name: count for name, count in bad.items() if count},
            last_written=max((f.stat().st_mtime for f in (run.metrics, run.events) if f.is_file()), default=0.0),
            layer_samples=samples,
        )

    @property
    def step_numbers(self) -> list[int]:
        """The number of each step."""
        return [int(line["step"]) for line in self.steps]

    def column(self, name: str) -> list[float]:
        """Return a metric of each step; NaN where a line lacks it."""
        return [_number(line, name) for line in self.steps]

    def step_metrics(self) -> list[StepMetrics]:
        """Return the metrics of each step as observers of the live run received them."""
        return [
            StepMetrics(
                step=int(line["step"]),
                loss=float(line["loss"]),
                learning_rate=_number(line, "learning_rate"),
                grad_norm=_number(line, "grad_norm"),
                tokens=int(line["tokens"]) if _has_numbers(line, "tokens") else 0,
                seconds=_number(line, "seconds"),
                tokens_per_second=_number(line, "tokens_per_second"),
                mfu=_number(line, "mfu") if _has_numbers(line, "mfu") else None,
                data_seconds=_number(line, "data_seconds") if _has_numbers(line, "data_seconds") else 0.0,
                skipped=line.get("skipped") is True,
            )
            for line in self.steps
        ]

    def validation_series(self) -> list[Validation]:
        """Return the validations in the form that detectors expect."""
        return [
            Validation(
                int(line["step"]),
                float(line["validation_loss"]),
                int(line["validation_tokens"]) if _has_numbers(line, "validation_tokens") else 1,
            )
            for line in self.validations
        ]

    def durations(self) -> list[float]:
        """Return the seconds of each step; validations and interruptions are not included."""
        return np.diff([0.0, *self.column("seconds")]).tolist()

    @property
    def last_step(self) -> int:
        """The newest step in any line; 0 before the first."""
        return max([0, *self.step_numbers, *(int(event.get("step", 0)) for event in self.events)])

    @property
    def is_imported(self) -> bool:
        """True if the weights were imported: there are checkpoints, but nothing was ever logged."""
        has_logs = self.run.metrics.exists() or self.run.events.exists()
        return not has_logs and any(self.run.checkpoints.glob("step-*"))

    def event(self, name: str) -> Line | None:
        """Return the newest event of that name since the run last started, or None."""
        return next((line for line in reversed(self._since_start()) if line.get("event") == name), None)

    @property
    def start_event(self) -> Line:
        """The event of the newest start or resume; empty if none was logged."""
        return self.event("resume") or self.event("start") or {}

    @property
    def diverged_at(self) -> int:
        """The non-finite step that ended the run, or else the newest step in any line."""
        return int((self.event("diverged") or {}).get("at", self.last_step))

    def findings(self) -> list[tuple[int, Finding]]:
        """Return the findings of the live run, each with its step."""
        return [(int(line["step"]), Finding.from_json(line)) for line in self.events if line.get("event") == EVENT]

    def latest_findings(self) -> list[tuple[int, Finding]]:
        """Return the findings of the live run, `completed`; of several with the same code and step only the last.

        Memory ran out, less was taken, it ran out again: only how that ended counts.
        """
        last: dict[tuple[str, object], tuple[int, Finding]] = {}
        for number, (step, finding) in enumerate(self.findings()):
            about = finding.evidence.get("step", ("no step", number))
            last[finding.code, about] = (step, finding)
        return [(step, completed(finding)) for step, finding in last.values()]

    def status(self, max_steps: int, now: Callable[[], float] = time.time) -> Status:
        """Return how the run ended, or that it is running.

        Args:
            max_steps: planned length of the run.
            now: returns the time in seconds since 1970.
        """
        ends: list[Status] = [
            END_EVENTS[line["event"]] for line in self._since_start() if line.get("event") in END_EVENTS
        ]
        if ends:
            return ends[-1]
        if self.is_imported:
            return "imported"
        if self.last_step >= max_steps:
            return "finished"
        if self._process_is_gone():
            return "killed"
        known = [seconds for seconds in self.durations() if math.isfinite(seconds)]
        patience = max(SILENT_SECONDS, SILENT_STEPS * float(np.median(known)) if known else 0.0)
        return "running" if now() - self.last_written < patience else "killed"

    def _process_is_gone(self) -> bool:
        """Return whether the last process ran on this machine and no longer exists; on other machines nothing is known."""
        host, process = self.start_event.get("host"), self.start_event.get("pid")
        if os.name != "posix" or host != platform.node() or not isinstance(process, int) or process <= 0:
            return False
        return not _exists(process)

    def _since_start(self) -> list[Line]:
        starts = [i for i, line in enumerate(self.events) if line.get("event") in START_EVENTS]
        return self.events[starts[-1] :] if starts else self.events


def _exists(process: int) -> bool:
    """Return whether a process with this id exists on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists, but belongs to another user
        pass
    return True


def _is_usable_event(line: Line) -> bool:
    if "step" in line and not _has_step(line):
        return False
    return line.get("event") != EVENT or _is_known_finding(line)


def _is_known_finding(line: Line) -> bool:
    """Return whether a line is a complete finding with a known code, and values that its text takes."""
    try:
        finding = Finding.from_json(line)
    except DataError:
        return False
    try:
        finding = completed(finding)
        for language in LANGUAGES:
            describe(finding, language)
            actions_taken(finding, language)
            ruled_out_causes(finding, language)
    except (GlassGPTError, KeyError, TypeError, ValueError, AttributeError):  # a name or value that is not ours
        return False
    return "step" in line and finding.severity in get_args(Severity)


def _has_step(line: Line) -> bool:
    return isinstance(line.get("step"), int) and not isinstance(line["step"], bool)


def _has_numbers(line: Line, *names: str) -> bool:
    return all(isinstance(line.get(name), (int, float)) and not isinstance(line[name], bool) for name in names)


def _number(line: Line, name: str) -> float:
    return float(line[name]) if _has_numbers(line, name) else math.nan


def _layer_samples(path: Path) -> tuple[list[LayerSample], int]:
    """Return the samples of a file and the number of invalid lines.

    Where a step comes again, training was rolled back or resumed: later samples of the abandoned steps are dropped.
    """
    lines, bad = read_lines(path)
    samples: list[LayerSample] = []
    for line in lines:
        try:
            sample = LayerSample.from_json(line)
        except DataError:
            bad += 1
            continue
        while samples and samples[-1].step >= sample.step:
            samples.pop()
        samples.append(sample)
    return samples, bad
