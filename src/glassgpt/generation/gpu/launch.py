"""Launch options of kernels: programmatic dependent launch and the split between shared memory and L1 cache."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
import triton

from glassgpt.generation.gpu.tiles import FEW_ROWS

SHARED_PERCENT_FEW_ROWS, SHARED_PERCENT = 30, 60
"""Shared-memory carveout that all kernels ask for, in percent; see `_set_shared_memory_carveout`."""


def launcher(kernel: Any, rows: int, grid: tuple[int, ...], warps: int, stages: int = 1) -> Callable[..., None]:
    """Return a function that launches a kernel with the given arguments.

    Args:
        kernel: a Triton kernel with an OVERLAP constant.
        rows: M, the number of sequences.
        grid: number of programs along each axis.
        warps: warps per program.
        stages: loads in flight in a pipelined loop.
    """
    options: dict[str, Any] = {"num_warps": warps, "num_stages": stages, "OVERLAP": _can_overlap()}
    if options["OVERLAP"]:
        options["launch_pdl"] = True

    def launch(*arguments: Any, **constants: Any) -> None:
        compiled = kernel[grid](*arguments, **constants, **options)
        if options["OVERLAP"]:
            percent = SHARED_PERCENT_FEW_ROWS if rows <= FEW_ROWS else SHARED_PERCENT
            _set_shared_memory_carveout(compiled.function, percent)

    return launch


def cache_lines(size: int) -> int:
    """Return the number of 128-byte cache lines that `size` bytes occupy, rounded up to a power of two."""
    return triton.next_power_of_2(triton.cdiv(size, 128))


def _set_shared_memory_carveout(function: int, percent: int) -> None:
    """Ask for a multiprocessor's shared-memory carveout in later launches of a kernel; the rest becomes L1 cache.

    By default the driver chooses it for each kernel, and a kernel that needs another carveout than the one before it
    cannot start before that has ended everywhere. Neither Triton nor PyTorch exposes this attribute.
    """
    status = ctypes.CDLL("libcuda.so.1").cuFuncSetAttribute(ctypes.c_void_p(function), 9, percent)
    if status:
        raise RuntimeError(f"cuFuncSetAttribute failed with status {status}")


@functools.cache
def _can_overlap() -> bool:
    """Return whether a kernel may start before the previous one has ended: since Hopper (compute capability 9)."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
