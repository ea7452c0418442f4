"""The kernels of a profile: when they ran, their time by name, and the gaps between them."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from gpu_parts.moments import HAS_GPU
from gpu_parts.steps import kind_of

STEPS = 3


DEVICE, CPU = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU  # pyright: ignore[reportPrivateImportUsage]


class Kernel(NamedTuple):
    """A kernel's name, and when it ran, in microseconds."""

    name: str
    start: float
    end: float


def kernels_of(profile: torch.profiler.profile, *, device: Any = DEVICE) -> list[Kernel]:
    """Return all that a profile saw running on a type of device, the GPU if none is given."""
    return [
        Kernel(event.name, event.time_range.start, event.time_range.end)
        for event in profile.events() or ()
        if event.device_type == device and not getattr(event, "is_user_annotation", False)
    ]


def union(kernels: Iterable[Kernel]) -> list[tuple[float, float]]:
    """Return the intervals in which at least one kernel ran, in order."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted((kernel.start, kernel.end) for kernel in kernels):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def total(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length of all intervals together."""
    return sum(end - start for start, end in intervals)


def timeline(variant: Any) -> dict[str, Any]:
    """Profile some steps of a `gpu_fp8_speed.Variant`, behind others that keep the GPU busy.

    Returns:
        Milliseconds per step: kernels by kind and name, the time in which the GPU was busy, all of it, the largest gaps with
        the kernels around them, and the host's time to queue a step.
    """
    host: list[float] = []
    activity = torch.profiler.ProfilerActivity
    with variant.step.hardware.kernels():
        variant.run(5)
        with torch.profiler.profile(activities=[activity.CUDA if HAS_GPU else activity.CPU]) as profile:
            for _ in range(STEPS):
                host.append(_queue(variant))
            variant.finish()
    return {
        "host_ms": [round(ms, 2) for ms in host],
        **summary(kernels_of(profile, device=DEVICE if HAS_GPU else CPU), STEPS),
    }


def _queue(variant: Any) -> float:
    """Queue a step and return the milliseconds that took, without the wait for the step before."""
    start, ends = time.perf_counter(), [0.0]

    def mark(phase: str) -> None:
        ends[0] = time.perf_counter()

    kept, variant.step.mark = variant.step.mark, mark
    variant.run(1)
    variant.step.mark = kept
    return 1e3 * (ends[0] - start)


def summary(kernels: Sequence[Kernel], steps: int) -> dict[str, Any]:
    """Return milliseconds per step by kind and kernel, busy and in all, and the largest gaps."""
    kinds, names, counts = defaultdict[str, float](float), defaultdict[str, float](float), Counter[str]()
    gaps, last = list[tuple[float, str, str]](), None
    for one in sorted(kernels, key=lambda kernel: (kernel.start, kernel.end)):
        ms = (one.end - one.start) / 1e3 / steps
        kinds[kind_of(one.name)] += ms
        names[one.name] += ms
        counts[one.name] += 1
        if last is not None and one.start > last.end:
            gaps.append(((one.start - last.end) / 1e3, last.name[:60], one.name[:60]))
        last = one if last is None or one.end > last.end else last
    busy = union(kernels)
    whole = busy[-1][1] - busy[0][0] if busy else 0.0
    return {
        "busy_ms": round(total(busy) / 1e3 / steps, 2),
        "whole_ms": round(whole / 1e3 / steps, 2),
        "kernels": round(len(kernels) / steps),
        "ms_by_kind": {kind: round(ms, 2) for kind, ms in _descending(kinds)},
        "longest": [[name[:110], round(ms, 3), round(counts[name] / steps, 1)] for name, ms in _descending(names)[:60]],
        "largest_gaps_ms": [[round(ms, 3), before, after] for ms, before, after in sorted(gaps, reverse=True)[:12]],
    }


def _descending(times: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(times.items(), key=lambda item: -item[1])
