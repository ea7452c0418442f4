"""The loop of a sweep: ask for settings, start trials, follow them, prune, and tell how they ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from glassgpt.errors import GlassGPTError
from glassgpt.sweep.records import ENDINGS, Outcome, TrialRecord

POLL_SECONDS = 0.2
SAVE_SECONDS = 5.0
MOST_RESTARTS = 2
"""Times that a killed trial is resumed before it counts as failed."""
FIRST_FAILURES = 3
"""The sweep ends if its first trials, as many as this, all failed: something is wrong with all of them."""


class Running(Protocol):
    """A running trial; see `glassgpt.sweep.trial_run.TrialRun`."""

    def validations(self) -> list[tuple[int, float]]:
        """Return the validations since the last call: step and loss."""
        ...

    def outcome(self) -> Outcome | None:
        """Return how it ended, or None while it runs."""
        ...

    def stop(self) -> None:
        """Ask it to save and stop."""
        ...


class Study(Protocol):
    """The methods of a study that the loop needs; see `glassgpt.sweep.study.SweepStudy`."""

    @property
    def seconds(self) -> float:
        """Time that was spent on trials so far."""
        ...

    @seconds.setter
    def seconds(self, value: float) -> None: ...

    @property
    def count(self) -> int:
        """Number of trials that were begun."""
        ...

    @property
    def is_exhausted(self) -> bool:
        """True if there is nothing left to try."""
        ...

    def ask(self) -> TrialRecord:
        """Begin a trial."""
        ...

    def report(self, number: int, step: int, loss: float) -> bool:
        """Record a validation; return whether the trial is to be pruned."""
        ...

    def finish(self, number: int, outcome: Outcome) -> None:
        """Record how a trial ended."""
        ...

    def unfinished(self) -> list[TrialRecord]:
        """Return the trials that were begun and have not ended."""
        ...

    def records(self) -> list[TrialRecord]:
        """Return all trials."""
        ...


class DiskFullError(GlassGPTError):
    """The disk is full; every trial would fail."""


@dataclass
class _Active:
    record: TrialRecord
    run: Running
    is_pruned: bool = False
    restarts: int = 0


class SweepLoop:
    """Runs the trials of a sweep.

    Args:
        study: their memory.
        start: starts a trial, or resumes it, on one of the devices 0 … jobs - 1.
        jobs: number of trials that run at once.
        is_stopped: returns whether the user asked to stop.
        on_begin: called with each trial that is started or resumed.
        on_end: called with each trial that has ended for good, and how.
        on_validation: called with a trial, the step and the loss of each validation.
        clock: returns seconds.
        wait: waits for a number of seconds.
    """

    def __init__(
        self,
        study: Study,
        start: Callable[[TrialRecord, int], Running],
        jobs: int,
        *,
        is_stopped: Callable[[], bool] = lambda: False,
        on_begin: Callable[[TrialRecord], None] = lambda record: None,
        on_end: Callable[[TrialRecord, Outcome], None] = lambda record, outcome: None,
        on_validation: Callable[[TrialRecord, int, float], None] = lambda record, step, loss: None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._study, self._start, self._jobs = study, start, jobs
        self._is_stopped, self._clock, self._wait = is_stopped, clock, wait
        self._on_begin, self._on_end, self._on_validation = on_begin, on_end, on_validation
        self._active: dict[int, _Active] = {}
        self._stopping = False
        self._problem: GlassGPTError | None = None

    def run(self, trials: int, seconds: float) -> None:
        """Run trials until as many were begun and all have ended, or until the time is over.

        The time counts that of earlier processes of the sweep. When it is over, or the user asks to stop, running trials
        save and stop; they stay unfinished, and the next call resumes them first.

        Raises:
            GlassGPTError: the disk is full, or the first trials all failed.
        """
        waiting, last = self._study.unfinished(), self._clock()
        spent = saved = self._study.seconds
        try:
            while True:
                now = self._clock()
                spent, last = spent + now - last, now
                if not self._stopping and (self._is_stopped() or spent >= seconds):
                    self._stop_all()
                while not self._stopping and len(self._active) < self._jobs:
                    if not waiting and (self._study.count >= trials or self._study.is_exhausted):
                        break
                    self._begin(waiting.pop(0) if waiting else self._study.ask())
                if not self._active:
                    break
                has_ended = sum(self._follow(slot) for slot in list(self._active)) > 0
                if has_ended or spent > saved + SAVE_SECONDS:
                    self._study.seconds = saved = spent
                self._wait(POLL_SECONDS)
        except BaseException:
            for active in self._active.values():
                active.run.stop()
            raise
        self._study.seconds = spent
        if self._problem is not None:
            raise self._problem

    def _begin(self, record: TrialRecord) -> None:
        slot = next(n for n in range(self._jobs) if n not in self._active)
        self._on_begin(record)
        self._active[slot] = _Active(record, self._start(record, slot))

    def _stop_all(self) -> None:
        self._stopping = True
        for active in self._active.values():
            active.run.stop()

    def _follow(self, slot: int) -> bool:
        """Record what a trial did since the last time; return whether its process ended."""
        active = self._active[slot]
        outcome = active.run.outcome()  # first: what it wrote before its end is then complete
        for step, loss in active.run.validations():
            self._on_validation(active.record, step, loss)
            if self._study.report(active.record.number, step, loss) and not active.is_pruned and outcome is None:
                active.is_pruned = True
                active.run.stop()
        if outcome is None:
            return False
        self._end(slot, active, outcome)
        return True

    def _end(self, slot: int, active: _Active, outcome: Outcome) -> None:
        if active.is_pruned and outcome.kind in ("stopped", "killed"):
            outcome = Outcome("pruned", outcome.loss, outcome.step, outcome.seconds, outcome.code)
        if outcome.kind == "disk-full" and self._problem is None:
            self._problem = DiskFullError(
                f"the disk is full: {outcome.message}; free some space and run the same command again, which continues"
            )
            self._stop_all()
        if outcome.kind in ("stopped", "killed") and not self._stopping:
            if active.restarts < MOST_RESTARTS:
                self._active[slot] = _Active(
                    active.record, self._start(active.record, slot), restarts=active.restarts + 1
                )
                return
            message = outcome.message or "something else stopped it"
            outcome = Outcome("failed", outcome.loss, outcome.step, outcome.seconds, outcome.code, message)
        del self._active[slot]
        if outcome.kind not in ENDINGS:
            return  # unfinished; the next process of the sweep resumes it
        self._study.finish(active.record.number, outcome)
        self._on_end(active.record, outcome)
        self._check_failures(outcome)

    def _check_failures(self, outcome: Outcome) -> None:
        if outcome.kind != "failed" or self._problem is not None:
            return
        ended = [each.outcome for each in self._study.records() if each.outcome is not None]
        if len(ended) >= FIRST_FAILURES and all(each.kind == "failed" for each in ended):
            first = next(each.message for each in ended)
            self._problem = GlassGPTError(f"the first {len(ended)} trials all failed: {first}")
            self._stop_all()
