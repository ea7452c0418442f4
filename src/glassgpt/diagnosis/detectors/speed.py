"""Steps that wait for data (GG-SPD-002), became slower (GG-SPD-001) or compete for the CPU (GG-SPD-004)."""

from __future__ import annotations

import dataclasses
import statistics
from collections import deque
from collections.abc import Callable, Collection

from glassgpt.diagnosis.detectors.base import Detector
from glassgpt.diagnosis.findings import Finding
from glassgpt.training.observers import StepMetrics


class _StepTimer:
    """Converts the cumulative training time to the duration of each step."""

    def __init__(self) -> None:
        self._last: StepMetrics | None = None

    def seconds(self, metrics: StepMetrics) -> float | None:
        """Return the duration of this step, or None if the previous step is unknown."""
        last, self._last = self._last, metrics
        return metrics.seconds - last.seconds if last is not None and metrics.step == last.step + 1 else None


class DataWaitDetector(Detector):
    """Reports a note when a large share of the step time is spent waiting for the next batch."""

    codes = ("GG-SPD-002",)
    sees_skipped_steps = True
    STEPS = 50
    SHARE = 0.25
    """A tenth, the usual first threshold, was crossed when other programs used the machine."""

    def __init__(self) -> None:
        self._timer = _StepTimer()
        self._seconds: deque[float] = deque(maxlen=self.STEPS)
        self._waits: deque[float] = deque(maxlen=self.STEPS)

    def on_step(self, metrics: StepMetrics) -> Finding | None:
        """Return GG-SPD-002 when waiting takes too much of the last `STEPS` steps."""
        seconds = self._timer.seconds(metrics)
        if seconds is None:
            return None
        self._seconds.append(seconds)
        self._waits.append(metrics.data_seconds)
        if len(self._waits) < self.STEPS or sum(self._waits) <= self.SHARE * sum(self._seconds):
            return None
        return Finding("GG-SPD-002", "note", {"share": 100 * sum(self._waits) / sum(self._seconds)})


@dataclasses.dataclass(frozen=True)
class _Duration:
    """Seconds of a step: in all, waiting for data, and of computing, which is the process's CPU time."""

    wall: float
    data: float
    cpu: float


class SlowdownDetector(Detector):
    """Reports a note when steps take twice as long as at the beginning, and tells three causes apart.

    A slow loader shows in the time spent waiting for data, which `DataWaitDetector` reports. Other programs that compete
    for the cores leave the process's own CPU time as it was (GG-SPD-004). What remains is a step that does more, or a
    slower machine (GG-SPD-001). A run folder does not hold the CPU time, so only the live run can tell these apart.

    Args:
        cpu_clock: returns the CPU seconds of this process so far; None where wall time alone decides.
    """

    codes = ("GG-SPD-001", "GG-SPD-004")
    sees_skipped_steps = True
    SETTLING_STEPS = 20
    """First steps, which compile, allocate and fill caches."""
    STEPS = 50
    """Steps whose median is the usual duration at the beginning, and the current one."""
    RATIO, MIN_SECONDS = 2.0, 0.02
    """Slower by this factor and by this time: steps of a few milliseconds vary more than that on any machine."""

    def __init__(self, cpu_clock: Callable[[], float] | None = None) -> None:
        self._cpu_clock = cpu_clock
        self._cpu_time = cpu_clock() if cpu_clock else 0.0
        self._timer = _StepTimer()
        self._first: list[_Duration] = []
        self._usual: _Duration | None = None
        self._recent: deque[_Duration] = deque(maxlen=self.STEPS)

    def on_step(self, metrics: StepMetrics) -> Finding | None:
        """Return GG-SPD-001 or GG-SPD-004 when the last `STEPS` steps were much slower than the first ones."""
        seconds, cpu_seconds = self._timer.seconds(metrics), self._cpu_seconds()
        if seconds is None:
            return None
        duration = _Duration(seconds, metrics.data_seconds, cpu_seconds)
        if len(self._first) < self.SETTLING_STEPS + self.STEPS:
            self._first.append(duration)
            return None
        self._recent.append(duration)
        if len(self._recent) < self.STEPS:
            return None
        if self._usual is None:
            self._usual = _median(self._first[self.SETTLING_STEPS :])
        usual = self._usual
        wall = statistics.median(recent.wall for recent in self._recent)
        lost = wall - usual.wall
        if wall <= self.RATIO * usual.wall or lost <= self.MIN_SECONDS:  # most steps end here
            return None
        now = _median(self._recent)
        if now.data - usual.data > lost / 2:
            return None
        values = {"ratio": now.wall / usual.wall, "now": 1e3 * now.wall, "before": 1e3 * usual.wall}
        if self._cpu_clock is not None and now.cpu < self.RATIO * usual.cpu:
            cpu_values = {"cpu": 1e3 * now.cpu, "cpu_before": 1e3 * usual.cpu}
            return Finding("GG-SPD-004", "note", {**values, **cpu_values})
        return Finding("GG-SPD-001", "note", values)

    def _cpu_seconds(self) -> float:
        if self._cpu_clock is None:
            return 0.0
        before, self._cpu_time = self._cpu_time, self._cpu_clock()
        return self._cpu_time - before


def _median(durations: Collection[_Duration]) -> _Duration:
    return _Duration(
        statistics.median(each.wall for each in durations),
        statistics.median(each.data for each in durations),
        statistics.median(each.cpu for each in durations),
    )
