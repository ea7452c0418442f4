"""Observers of a training run: the loop notifies them of events; they cannot influence it.

`Observer` is what displays, log files and monitors derive from. This module has the one that writes files; the
display is in `glassgpt.training.show`, trackers are in `glassgpt.training.trackers`.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from glassgpt.data.files import regular_only, write_atomically
from glassgpt.errors import CheckpointError
from glassgpt.training.loss import ValidationLoss
from glassgpt.training.run_folder import RunFolder, read_jsonl, read_lines


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of one optimizer step.

    Attributes:
        step: number of the step; the first is 1.
        loss: mean over the batch before the update, nats per token.
        learning_rate: rate of the update.
        grad_norm: global norm before clipping.
        tokens: tokens trained on so far.
        seconds: time trained so far.
        tokens_per_second: over the last steps.
        mfu: share of the hardware's peak FLOP/s, or None if that is unknown.
        data_seconds: seconds of the step in which the host waited for its batch.
        skipped: whether the gradient scaler skipped the update because the gradient overflowed.
        loss_metrics: what the loss measured besides itself, by name.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    tokens_per_second: float
    mfu: float | None
    data_seconds: float = 0.0
    skipped: bool = False
    loss_metrics: dict[str, float] = field(default_factory=dict[str, float])


class Probe(Protocol):
    """Reads weights and gradients within a step. It must change neither, nor consume random numbers."""

    def before_update(self, step: int) -> None:
        """Called when gradients are complete and clipped, before weights are updated."""
        ...

    def after_update(self, step: int) -> None:
        """Called after weights are updated and gradients are cleared."""
        ...


class Observer:
    """Base class that ignores everything; override the methods you need."""

    def on_step(self, metrics: StepMetrics) -> None:
        """Called for each step, one step late, so that a GPU never waits for the host."""

    def on_validation(self, step: int, validation: ValidationLoss, is_best: bool) -> None:
        """Called after each validation."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """Called after each checkpoint."""

    def on_event(self, step: int, event: str, details: Mapping[str, Any]) -> None:
        """Called at an event that a reader of the run should know about."""

    def on_rollback(self, step: int) -> None:
        """Called when training continues from an earlier step; the metrics of later steps are no longer valid."""

    def on_stop_request(self) -> None:
        """Called in the signal handler when the user asks to stop; the run stops at the next step boundary."""

    def close(self) -> None:
        """Called when the loop ends, for any reason."""


class JsonlLogger(Observer):
    """Writes `metrics.jsonl` and `events.jsonl`.

    Args:
        run: the run.
        step: the step that training continues from. Lines of later steps, which an earlier process wrote before it was
            killed, are dropped, so that each step has one line.
    """

    def __init__(self, run: RunFolder, step: int) -> None:
        self._run = run
        with _reported(run.path):
            self._events = open(run.events, "a", encoding="utf-8", opener=regular_only)  # noqa: SIM115 - closed by close()
            self._metrics = self._truncated(step)

    def on_step(self, metrics: StepMetrics) -> None:
        """Write a line."""
        line = asdict(metrics)
        loss_metrics = line.pop("loss_metrics")
        self._write(self._metrics, line | loss_metrics)

    def on_validation(self, step: int, validation: ValidationLoss, is_best: bool) -> None:
        """Write a line."""
        self._write(self._metrics, {"step": step, **validation.metrics(), "best": is_best})

    def on_event(self, step: int, event: str, details: Mapping[str, Any]) -> None:
        """Write a line."""
        self._write(self._events, {"step": step, "event": event, **details})

    def on_rollback(self, step: int) -> None:
        """Move the metrics of later steps to `abandoned.jsonl`."""
        with _reported(self._run.metrics):
            self._metrics.close()
        dropped = [line for line in read_jsonl(self._run.metrics) if _step(line) > step]
        with (
            _reported(self._run.abandoned),
            open(self._run.abandoned, "a", encoding="utf-8", opener=regular_only) as file,
        ):
            for line in dropped:
                self._write(file, line)
        with _reported(self._run.metrics):
            self._metrics = self._truncated(step)

    def _truncated(self, step: int) -> TextIO:
        """Truncate the metrics after a step; return the file, open for appending."""
        lines, unreadable = read_lines(self._run.metrics)
        if unreadable:
            self.on_event(step, "unreadable lines dropped", {"file": self._run.metrics.name, "lines": unreadable})
        kept = [line for line in lines if 0 <= _step(line) <= step]
        write_atomically(self._run.metrics, "".join(json.dumps(line) + "\n" for line in kept).encode())
        return open(self._run.metrics, "a", encoding="utf-8", opener=regular_only)

    def close(self) -> None:
        """Close both files."""
        with _reported(self._run.path):
            try:
                self._metrics.close()
            finally:
                self._events.close()

    @staticmethod
    def _write(file: TextIO, line: Mapping[str, Any]) -> None:
        with _reported(Path(file.name)):
            file.write(json.dumps(line) + "\n")
            file.flush()


def _step(line: Mapping[str, Any]) -> int:
    """Return the step of a line; -1 if it has none."""
    step = line.get("step")
    return step if isinstance(step, int) else -1


@contextmanager
def _reported(path: Path) -> Generator[None]:
    """Raise errors of the file system as `CheckpointError`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot write {error.filename or path}: {error.strerror}") from error


def append_event(run: RunFolder, step: int, event: str, details: Mapping[str, Any]) -> None:
    """Append a line to `events.jsonl`, for processes that do not keep the file open.

    Raises:
        CheckpointError: it cannot be written.
    """
    with _reported(run.events), open(run.events, "a", encoding="utf-8", opener=regular_only) as file:
        file.write(json.dumps({"step": step, "event": event, **details}) + "\n")
