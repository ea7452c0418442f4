"""A trial: `glassgpt train` in a separate process, followed by the files that it writes."""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassgpt.diagnosis.findings import SEVERITIES
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.sweep.records import Outcome
from glassgpt.training.run_folder import RunFolder

PR_SET_PDEATHSIG = 1
PATIENCE_SECONDS = 120.0
"""A process that was asked to stop is killed after this time; saving a checkpoint takes much less."""
NO_SPACE = re.compile(r"No space left on device|disk is full|needs .* but .* has only|quota exceeded", re.IGNORECASE)
ENDS = ("diverged", "failed", "interrupted")


@dataclass(frozen=True)
class TrialCommand:
    """The command that trains a trial.

    Attributes:
        arguments: of `glassgpt`.
        run: folder that it trains into.
        log: file for its output.
        environment: variables that differ from those of this process.
    """

    arguments: Sequence[str]
    run: Path
    log: Path
    environment: Mapping[str, str]


class TrialRun:
    """A running trial.

    It has its own session: Ctrl-C reaches the sweep alone, which then has its trials save and stop.

    Args:
        command: how it is started.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, command: TrialCommand) -> None:
        self._command, self._run = command, RunFolder(command.run)
        self._metrics = MetricsReader(self._run.metrics)
        self._asked_at: float | None = None
        command.log.parent.mkdir(parents=True, exist_ok=True)
        with open(command.log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "glassgpt", *command.arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, **command.environment}, preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )  # fmt: skip

    def validations(self) -> list[tuple[int, float]]:
        """Return the validations since the last call: step and loss."""
        return self._metrics.new()

    def outcome(self) -> Outcome | None:
        """Return how the process ended, or None while it runs."""
        code = self._process.poll()
        if code is None:
            if self._asked_at is not None and time.monotonic() - self._asked_at > PATIENCE_SECONDS:
                self._process.kill()
            return None
        return trial_outcome(self._run, code, self._command.log)

    def stop(self) -> None:
        """Ask it to save and stop."""
        if self._asked_at is None and self._process.poll() is None:
            self._asked_at = time.monotonic()
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once; it can be resumed from its last checkpoint."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def _end_with_parent() -> None:
    """Have the kernel stop this process when the sweep dies, however it dies; only Linux can."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class MetricsReader:
    """Reads the validations of a growing `metrics.jsonl`, each step once.

    A process that resumes a run replaces the file; then it is read from its start again.

    Args:
        file: it need not exist yet.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._inode, self._offset = 0, 0
        self._seen: set[int] = set()

    def new(self) -> list[tuple[int, float]]:
        """Return the validations that were not returned before: step and loss."""
        try:
            with open(self._file, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset = status.st_ino, 0
                file.seek(self._offset)
                content = file.read()
        except OSError:  # not there yet
            return []
        complete = content[: content.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [point for line in complete.splitlines() if (point := self._point(line)) is not None]

    def _point(self, line: bytes) -> tuple[int, float] | None:
        if b'"validation_loss"' not in line:
            return None
        try:
            values: dict[str, Any] = json.loads(line)
            step, loss = int(values["step"]), float(values["validation_loss"])
        except (ValueError, KeyError, TypeError):  # damaged by a crash
            return None
        if step in self._seen:
            return None
        self._seen.add(step)
        return step, loss


def trial_outcome(run: RunFolder, exit_code: int, log: Path) -> Outcome:
    """Return how the process of a trial ended, from its exit code and the files of its run."""
    files = RunLog.read(run)
    losses = [float(line["validation_loss"]) for line in files.validations if math.isfinite(line["validation_loss"])]
    seconds = float(files.steps[-1].get("seconds") or 0.0) if files.steps else 0.0
    found: dict[str, Any] = {"loss": min(losses, default=math.nan), "step": files.last_step, "seconds": seconds}
    found["code"] = _worst_code(files)
    if exit_code == 0:
        return Outcome("complete", **found) if losses else Outcome("failed", **found, message="it was never validated")
    message = last_error(log) or f"it ended with exit code {exit_code}"
    if files.event("diverged"):
        return Outcome("diverged", **found, message=message)
    if NO_SPACE.search(message):
        return Outcome("disk-full", **found, message=message)
    if exit_code in (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM) or files.event("interrupted"):
        return Outcome("stopped", **found)
    if exit_code < 0 or exit_code == 128 + signal.SIGKILL:
        return Outcome("killed", **found, message=f"it was ended by signal {abs(exit_code)}")
    return Outcome("failed", **found, message=message)


def _worst_code(log: RunLog) -> str:
    """Return the code of the most severe finding, the newest of several; empty if there is none but notes."""
    findings = [finding for _, finding in log.latest_findings() if finding.severity != "note"]
    worst = min(findings[::-1], key=lambda finding: SEVERITIES.index(finding.severity), default=None)
    return "" if worst is None else worst.code


def last_error(log: Path) -> str:
    """Return the last error message in the output of a command, or an empty string."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    starts = [n for n, line in enumerate(lines) if re.match(r"(error|오류): ", line)]
    if not starts:
        return next((line.strip() for line in reversed(lines) if re.match(r"\w*Error\b", line)), "")
    return " ".join(line.strip() for line in lines[starts[-1] :][:2]).split(": ", 1)[1]
