"""Moments on the clock of a GPU, or of the host if there is none."""

from __future__ import annotations

import time

import torch

HAS_GPU = torch.cuda.is_available()


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
