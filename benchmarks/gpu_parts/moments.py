"""Moments on the clock of a GPU, or of the host if there is none, and rates of what arrives."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

HAS_GPU = torch.cuda.is_available()
WARM_UPS, REPEATS = 3, 10 if HAS_GPU else 1


class Moment:
    """A moment on the device's clock, or on the host's if there is no GPU."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event(enable_timing=True) if HAS_GPU else None
        self._host = time.perf_counter()
        if self._event is not None:
            self._event.record()

    def until(self, later: Moment) -> float:
        """Return the seconds until a later moment; the device must have reached both."""
        if self._event is None or later._event is None:
            return later._host - self._host
        return self._event.elapsed_time(later._event) / 1e3


def wait() -> None:
    """Wait until the device has done all that was queued."""
    if HAS_GPU:
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object]) -> float:
    """Return the time of a call on the device."""
    began = Moment()
    work()
    ended = Moment()
    wait()
    return began.until(ended)


def milliseconds(work: Callable[[], object]) -> float:
    """Return the median time of a call, after some to compile and warm up."""
    times = [1e3 * seconds_of(work) for _ in range(WARM_UPS + REPEATS)]
    return round(statistics.median(times[WARM_UPS:]), 4)


def later_rate(arrivals: Sequence[Sequence[float]]) -> float:
    """Return tokens per second between the last sequence's first token and the first sequence's last.

    Args:
        arrivals: seconds at which each sequence's tokens arrived. Those of one launch arrive together, which is why tokens
            within a millisecond of the start are left out.
    """
    begin, end = max(times[0] for times in arrivals) + 1e-3, min(times[-1] for times in arrivals)
    last_before = max((at for times in arrivals for at in times if at <= begin), default=begin)
    later = sum(begin < at <= end for times in arrivals for at in times)
    return later / (end - last_before) if later else float("nan")
