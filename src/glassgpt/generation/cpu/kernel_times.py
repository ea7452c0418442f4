"""Times of kernels that are kept for later processes.

Kernels round differently, and on a processor that is busy for a moment either of two can measure as the faster one. A
process that uses the times of an earlier one gives the same texts, and starts sooner. Times measured beside other programs
are measured again by the next processes, and the least time of each kernel counts. After `ENOUGH` measurements they are
final, too: otherwise, on a machine that is always shared, each start would measure again and might choose another kernel.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassgpt.data.files import read_regular
from glassgpt.generation.cpu.native import cache_folder, is_mine

LEAST_SHARE = 0.7
"""Share of a measurement in which the calling thread must have had a core for the times to hold at once."""
ENOUGH = 3
"""Measurements beside other programs after which the least times hold."""
CPU_INFO = Path("/proc/cpuinfo")
CPU_LINES = ("vendor_id", "model", "stepping", "flags", "CPU", "Features")
"""Beginnings of the lines in that file that never change, on x86 and on ARM."""


@dataclass(frozen=True)
class KernelTimes:
    """Times of kernels.

    Attributes:
        milliseconds: by kernel name, for the same products.
        measurements: number of processes that have measured them; `ENOUGH` if one had the cores for itself.
        are_earlier: nothing was measured now.
    """

    milliseconds: dict[str, float]
    measurements: int
    are_earlier: bool = False


def remembered_times(
    names: Collection[str], conditions: Collection[object], measure: Callable[[], dict[str, float]]
) -> KernelTimes:
    """Return the times of kernels as measured by earlier processes, or measure them and keep them.

    Args:
        names: of the kernels.
        conditions: on which the times depend, besides the processor.
        measure: returns the times by name.
    """
    key = "\n".join([processor(), *map(str, conditions), *names])
    path = cache_folder() / f"times-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    kept = _read(path, names)
    if kept is not None and kept.measurements >= ENOUGH:
        return kept
    began, used = time.perf_counter(), time.thread_time()
    measured = measure()
    if time.thread_time() - used >= LEAST_SHARE * (time.perf_counter() - began):
        times = KernelTimes(measured, ENOUGH)
    elif kept is None:
        times = KernelTimes(measured, 1)
    else:
        least = {name: min(measured[name], kept.milliseconds[name]) for name in names}
        times = KernelTimes(least, kept.measurements + 1)
    with suppress(OSError):  # the folder cannot be written: the next process measures again
        _write(path, json.dumps({"milliseconds": times.milliseconds, "measurements": times.measurements}))
    return times


def _read(path: Path, names: Collection[str]) -> KernelTimes | None:
    """Return the times in a file, or None if it is not there, damaged, or could be someone else's."""
    try:
        kept: Any = json.loads(read_regular(path)) if is_mine(path) else None
        times, measurements = kept["milliseconds"], kept["measurements"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    is_valid = _are_times(times, names) and isinstance(measurements, int) and measurements > 0
    return KernelTimes(times, measurements, are_earlier=True) if is_valid else None


def processor() -> str:
    """Return what tells processors apart: model and instructions."""
    with suppress(OSError):
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0].splitlines()
        return "\n".join(line for line in lines if line.startswith(CPU_LINES))
    return f"{platform.machine()} {platform.processor()}"


def processor_name() -> str:
    """Return the model of the processor, if the system tells it, and a short checksum of `processor`."""
    described = processor()
    models = [
        line.partition(":")[2].strip() for line in described.splitlines() if line.split()[:2] == ["model", "name"]
    ]
    return " ".join([*models, hashlib.sha256(described.encode()).hexdigest()[:8]])


def _are_times(kept: Any, names: Collection[str]) -> bool:
    if not isinstance(kept, dict) or kept.keys() != {*names}:  # pyright: ignore[reportUnknownMemberType]
        return False
    return all(isinstance(taken, float) and 0 < taken < float("inf") for taken in kept.values())  # pyright: ignore


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(path.parent, 0o700)  # it may have been made with another mode
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
