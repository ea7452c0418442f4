"""Feeds trackers from a run, each through a queue and a thread of its own.

A tracker writes files, talks to processes and servers, and may fail or hang at any time. Training must not notice: a
call only puts a record into a queue. If a tracker fails, the user is told once; after `MAX_FAILURES` failures in a row
it is given up; a queue that is full drops records; and the end of the run waits for at most `CLOSE_SECONDS`.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, Full, Queue, SimpleQueue
from typing import Any

from glassgpt.training.loss import ValidationLoss
from glassgpt.training.observers import Observer, StepMetrics
from glassgpt.training.trackers.base import Tracker

Emit = Callable[[str, Mapping[str, object]], None]
"""Records an event of the run: its name and details."""
Sample = Callable[[], str]
MAX_FAILURES = 3
CLOSE_SECONDS = 30.0
QUEUE_RECORDS = 100_000
EVENT = "tracker failed"
Call = Callable[[Tracker], None]


class TrackerThread:
    """Creates and calls one tracker in a thread.

    Args:
        name: of the tracker.
        build: creates it.

    Attributes:
        problems: details of what went wrong, for the thread of the training loop to record.
    """

    def __init__(self, name: str, build: Callable[[], Tracker]) -> None:
        self.name, self._build = name, build
        self.problems: SimpleQueue[dict[str, object]] = SimpleQueue()
        self._calls: Queue[Call | None] = Queue(QUEUE_RECORDS)
        self._is_open, self._is_reported = True, False
        # A daemon: the process can end although a tracker hangs.
        self._thread = threading.Thread(target=self._run, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def put(self, call: Call) -> None:
        """Have the tracker called, soon; nothing happens if it was given up."""
        if not self._is_open:
            return
        try:
            self._calls.put_nowait(call)
        except Full:
            self._report("it is too slow: records are left out", given_up=False)

    def close(self, deadline: float) -> None:
        """Have it closed, and wait for that until a time of `time.monotonic`."""
        with suppress(Full):
            self._calls.put(None, timeout=max(0.0, deadline - time.monotonic()))
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._is_reported = False
            self._report(f"it did not finish within {CLOSE_SECONDS:g} s", given_up=True)

    def _run(self) -> None:
        try:
            tracker = self._build()
        except Exception as error:  # noqa: BLE001 - whatever the library raises, training continues
            self._report(_one_line(error), given_up=True)
            self._is_open = False
            return
        failures = 0
        while failures < MAX_FAILURES and (call := self._calls.get()) is not None:
            failures = 0 if self._attempt(call, tracker, given_up=failures + 1 == MAX_FAILURES) else failures + 1
        self._is_open = False
        self._attempt(lambda opened: opened.close(), tracker, given_up=True)

    def _attempt(self, call: Call, tracker: Tracker, *, given_up: bool) -> bool:
        try:
            call(tracker)
        except Exception as error:  # noqa: BLE001 - see above
            self._report(_one_line(error), given_up=given_up)
            return False
        return True

    def _report(self, problem: str, *, given_up: bool) -> None:
        """Note a problem: the first one, and the one for which the tracker is given up."""
        if not self._is_reported or (given_up and self._is_open):
            self.problems.put(
                {"tracker": self.name, "error": problem, "given_up": given_up, "first": not self._is_reported}
            )
        self._is_reported = True


class Trackers(Observer):
    """Passes metrics, validations, events and samples of text to trackers.

    Args:
        builders: creates each tracker, by name.
        emit: records an event of the run.
        sample: returns a text that the model generates, called after each validation; None for no texts.
    """

    def __init__(self, builders: Mapping[str, Callable[[], Tracker]], emit: Emit, sample: Sample | None) -> None:
        self._threads = [TrackerThread(name, build) for name, build in builders.items()]
        self._emit, self._sample = emit, sample

    def on_step(self, metrics: StepMetrics) -> None:
        """Record loss, rate, gradient norm and tokens per second."""
        names = ("loss", "learning_rate", "grad_norm", "tokens_per_second")
        values = {name: float(getattr(metrics, name)) for name in names} | metrics.loss_metrics
        self._log(metrics.step, {f"train/{name}": value for name, value in values.items()})

    def on_validation(self, step: int, validation: ValidationLoss, is_best: bool) -> None:
        """Record the validation, and a text that the model generates."""
        values = {name.replace("_", "/", 1): float(value) for name, value in validation.metrics().items()}
        self._log(step, values)
        if self._sample is None:
            return
        try:
            text = self._sample()
        except Exception as error:  # noqa: BLE001 - the text is not worth a run
            self._sample = None
            self._emit("sample failed", {"error": _one_line(error)})
            return
        self._put(lambda tracker: tracker.write(step, "sample", text))

    def on_event(self, step: int, event: str, details: Mapping[str, Any]) -> None:
        """Record an event, findings among them; failures of trackers are none of their business."""
        if event != EVENT:
            text = f"{event}: {json.dumps(details, ensure_ascii=False, default=str)}"
            self._put(lambda tracker: tracker.write(step, "events", text))

    def on_checkpoint(self, step: int, path: Path) -> None:
        """Record that a checkpoint was saved."""
        self._put(lambda tracker: tracker.write(step, "events", f"checkpoint: {path.name}"))

    def close(self) -> None:
        """Finish all trackers, waiting a limited time for all of them together."""
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.close(deadline)
        self._report_problems()

    def _log(self, step: int, values: dict[str, float]) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}  # not every tracker takes NaN
        self._put(lambda tracker: tracker.log(step, finite))

    def _put(self, call: Call) -> None:
        for thread in self._threads:
            thread.put(call)
        self._report_problems()

    def _report_problems(self) -> None:
        """Record what went wrong in the threads: events are written by the thread of the training loop alone."""
        for thread in self._threads:
            try:
                while True:
                    self._emit(EVENT, thread.problems.get_nowait())
            except Empty:
                continue


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
