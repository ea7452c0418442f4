"""The kernels of queued training steps: their time by name, and the gaps between them."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import torch

from gpu_parts.steps import kind_of

STEPS = 3


class Interval(NamedTuple):
    """Activity of a GPU, from start to end in microseconds."""

    start: float
    end: float
    name: str


def timeline(variant: Any) -> dict[str, Any]:
    """Profile some steps of a `gpu_fp8_speed.Variant`, behind others that keep the GPU busy.

    Returns:
        Milliseconds per step: kernels by kind and name, the time in which the GPU was busy, all of it, the largest gaps with
        the kernels around them, and the host's time to queue a step.
    """
    from torch.profiler import ProfilerActivity, profile

    cuda = torch.cuda.is_available()
    host: list[float] = []
    with variant.step.hardware.kernels():
        variant.run(5)
        with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
            for _ in range(STEPS):
                host.append(_queue(variant))
            variant.finish()
    intervals = sorted(
        Interval(event.time_range.start, event.time_range.end, event.name)
        for event in profiler.events() or ()
        if not cuda or (event.device_type.name == "CUDA" and not event.is_user_annotation)
    )
    return {"host_ms": [round(ms, 2) for ms in host], **summary(intervals, STEPS)}


def _queue(variant: Any) -> float:
    """Queue a step and return the milliseconds that took, without the wait for the step before."""
    start, ends = time.perf_counter(), [0.0]

    def mark(phase: str) -> None:
        ends[0] = time.perf_counter()

    kept, variant.step.mark = variant.step.mark, mark
    variant.run(1)
    variant.step.mark = kept
    return 1e3 * (ends[0] - start)


def summary(intervals: list[Interval], steps: int) -> dict[str, Any]:
    """Return milliseconds per step by kind and kernel, busy and in all, and the largest gaps, of sorted intervals."""
    kinds, names, counts = defaultdict[str, float](float), defaultdict[str, float](float), Counter[str]()
    busy, gaps, last = 0.0, list[tuple[float, str, str]](), None
    for one in intervals:
        ms = (one.end - one.start) / 1e3 / steps
        kinds[kind_of(one.name)] += ms
        names[one.name] += ms
        counts[one.name] += 1
        if last is not None and one.start > last.end:
            gaps.append(((one.start - last.end) / 1e3, last.name[:60], one.name[:60]))
        busy += max(0.0, one.end - max(one.start, last.end if last else one.start)) / 1e3 / steps
        last = one if last is None or one.end > last.end else last
    whole = (last.end - intervals[0].start) / 1e3 / steps if last else 0.0
    return {
        "busy_ms": round(busy, 2),
        "whole_ms": round(whole, 2),
        "kernels": round(len(intervals) / steps),
        "ms_by_kind": {kind: round(ms, 2) for kind, ms in _descending(kinds)},
        "longest": [[name[:110], round(ms, 3), round(counts[name] / steps, 1)] for name, ms in _descending(names)[:60]],
        "largest_gaps_ms": [[round(ms, 3), before, after] for ms, before, after in sorted(gaps, reverse=True)[:12]],
    }


def _descending(times: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(times.items(), key=lambda item: -item[1])
