"""Devices and their memory: pick a device, ask how much memory is free, handle running out of it.

A base module: it imports nothing of this package but `errors`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from glassgpt.errors import ConfigError

T = TypeVar("T")

NO_CGROUP_LIMIT = 1 << 60
"""Control groups without a limit report a number near 2**63."""
OUT_OF_MEMORY = re.compile("can't allocate memory|out of memory|STATUS_ALLOC_FAILED")
"""In the messages of errors about memory that have no type of their own."""


def pick_device(requested: str = "auto") -> torch.device:
    """Return the requested device, or the best one available for `auto` (CUDA, then MPS, then CPU).

    Under `torchrun` each process gets the GPU of its local rank.

    Raises:
        ConfigError: the device is not available, or there are more local processes than GPUs.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if requested == "auto":
        requested = available[0]
    if requested not in available:
        raise ConfigError([f"device {requested} is not available; available devices: {', '.join(available)}"])
    return _of_local_rank(torch.device(requested))


def require_gpus(requested: str, processes: int) -> None:
    """Raise if more processes are to be started than this machine has GPUs, unless the CPU is asked for.

    Raises:
        ConfigError: there are too few GPUs.
    """
    started_by_torchrun = "RANK" in os.environ  # then WORLD_SIZE may span machines; the local rank is checked instead
    if started_by_torchrun or requested not in ("auto", "cuda"):
        return
    if processes > 1 and not torch.cuda.is_available():
        raise ConfigError(
            [
                f"--gpus is {processes}, but this machine has no GPU; to train in {processes} processes on the CPU, add "
                "--train.device cpu"
            ]
        )
    count = torch.cuda.device_count()
    if processes > max(1, count):
        raise ConfigError(
            [f"--gpus is {processes}, but this machine has {count} GPU{'s' if count > 1 else ''}; use at most {count}"]
        )


def _of_local_rank(device: torch.device) -> torch.device:
    if device.type != "cuda" or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if rank >= torch.cuda.device_count():
        raise ConfigError(
            [f"more processes than GPUs on this machine ({torch.cuda.device_count()}); start fewer processes"]
        )
    return torch.device("cuda", rank)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that this process can still allocate on a device, or None if unknown.

    On a CPU this is the smaller of the machine's available memory and what its control group leaves.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    known = [_available_memory(Path("/proc/meminfo")), _cgroup_headroom(Path("/sys/fs/cgroup"))]
    return min((n for n in known if n is not None), default=None)


def _available_memory(meminfo: Path) -> int | None:
    if not meminfo.is_file():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return 1024 * int(lines["MemAvailable"].split()[0]) if "MemAvailable" in lines else None


def _cgroup_headroom(group: Path) -> int | None:
    limit, used = group / "memory.max", group / "memory.current"
    if not limit.is_file() or not used.is_file():
        return None
    most = limit.read_text().strip()
    return None if most == "max" or int(most) > NO_CGROUP_LIMIT else int(most) - int(used.read_text())


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error means that memory ran out.

    PyTorch raises `torch.OutOfMemoryError` for its own memory on a device only; failed allocations of the host, the driver
    (a CUDA graph, pinned memory), Triton and NVIDIA's libraries are known by their messages.
    """
    return isinstance(error, torch.OutOfMemoryError) or OUT_OF_MEMORY.search(str(error)) is not None


def unless_out_of_memory(work: Callable[[], T]) -> T | None:
    """Return the result of `work`, or None if memory ran out in it."""
    try:
        return work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    return None  # outside of the handler: an exception that is being handled keeps its tensors alive


def halve_until_it_fits(work: Callable[[int], T], count: int) -> tuple[T, int] | None:
    """Call `work(count)`; each time memory runs out, retry with half the count.

    Returns:
        The result and the count that succeeded, or None if memory ran out even with 1.
    """
    while (result := unless_out_of_memory(partial(work, count))) is None:
        if count == 1:
            return None
        count //= 2
    return result, count
