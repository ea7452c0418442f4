"""Detectors of what only the training process knows: its memory (GG-MEM-010, 011) and recompilations (GG-SPD-003)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch

from glassgpt.diagnosis.detectors.base import Detector
from glassgpt.diagnosis.findings import Finding
from glassgpt.training.observers import StepMetrics

GIGA = 1e9
CHECK_EVERY = 10
"""Steps between two measurements, which take up to milliseconds."""


def memory_in_use() -> float:
    """Return the bytes allocated on the GPU, or without one those resident in this process; 0 if unknown."""
    if torch.cuda.is_available():
        return float(torch.cuda.memory_allocated())
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux
        return 0.0
    return float(pages * 4096)


class MemoryGrowthDetector(Detector):
    """Warns when memory in use rises without pause.

    Args:
        measure: returns the bytes in use.
    """

    codes = ("GG-MEM-010",)
    sees_skipped_steps = True
    SAMPLES = 10
    """Measurements that must all rise: caches that fill up stop rising sooner."""
    GROWTH, MIN_BYTES = 1.2, 100e6
    """Growth over these measurements: by this factor and by this much."""

    def __init__(self, measure: Callable[[], float] = memory_in_use) -> None:
        self._measure = measure
        self._samples: deque[float] = deque(maxlen=self.SAMPLES)

    def on_step(self, metrics: StepMetrics) -> Finding | None:
        """Return GG-MEM-010 when the last measurements all rose, and far enough."""
        if metrics.step % CHECK_EVERY:
            return None
        self._samples.append(self._measure())
        samples = list(self._samples)
        is_rising = all(after > before for before, after in pairwise(samples))
        least_growth = max(self.MIN_BYTES, (self.GROWTH - 1) * samples[0])
        if len(samples) < self.SAMPLES or not is_rising or samples[-1] - samples[0] <= least_growth:
            return None
        return Finding("GG-MEM-010", "warning", {"before": samples[0] / GIGA, "now": samples[-1] / GIGA})


class MemoryFragmentationDetector(Detector):
    """Reports a note when the CUDA allocator had to retry and holds far more memory than was ever in use."""

    codes = ("GG-MEM-011",)
    sees_skipped_steps = True
    RATIO = 2.0
    """Reserved over used memory. Below, retries come from a device that is simply full."""

    def on_step(self, metrics: StepMetrics) -> Finding | None:
        """Return GG-MEM-011 when reserved memory is fragmented."""
        if metrics.step % CHECK_EVERY or not torch.cuda.is_available():
            return None
        reserved, used = torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated()
        retries = torch.cuda.memory_stats().get("num_alloc_retries", 0)
        if retries == 0 or reserved <= self.RATIO * used:
            return None
        return Finding("GG-MEM-011", "note", {"reserved": reserved / GIGA, "used": used / GIGA})


class RecompilationDetector(Detector):
    """Reports a note when `torch.compile` keeps recompiling during the run."""

    codes = ("GG-SPD-003",)
    sees_skipped_steps = True
    COMPILATIONS = 3
    """Compilations after the first measurement, when the train step is already compiled; validation may add one or two."""

    def __init__(self) -> None:
        self._first: int | None = None

    def on_step(self, metrics: StepMetrics) -> Finding | None:
        """Return GG-SPD-003 when the model was recompiled several times."""
        if metrics.step % CHECK_EVERY:
            return None
        from torch._dynamo.utils import counters  # imports the compiler, which takes a second

        compiled = int(counters["stats"]["unique_graphs"])
        if self._first is None:
            self._first = compiled
        if compiled - self._first < self.COMPILATIONS:
            return None
        return Finding("GG-SPD-003", "note", {"count": compiled - self._first})
