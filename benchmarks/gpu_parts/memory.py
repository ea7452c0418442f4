"""Memory of a GPU that other programs use, too."""

from __future__ import annotations

import time

import torch

POLL_SECONDS, LINE_SECONDS = 2.0, 30.0


def reserve_memory(own_gb: float, others_gb: float = 0.0, *, seconds: float) -> None:
    """Wait until the GPU has enough free memory, and keep it in PyTorch's cache for this process.

    It is allocated and not only looked at, because several processes may wait for the same memory. Nothing is done
    without a GPU.

    Args:
        own_gb: GB that this process will need.
        others_gb: GB that must be left for processes that belong to it.
        seconds: longest time to wait.

    Raises:
        SystemExit: there was not enough memory in this time.
    """
    if not torch.cuda.is_available():
        return
    start, next_line = time.monotonic(), 0.0
    while (free := _try_to_reserve(own_gb, others_gb)) is not None:
        waited = time.monotonic() - start
        state = f"{own_gb + others_gb:g} GB of GPU memory needed, {free:.1f} GB free"
        if waited >= seconds:
            raise SystemExit(f"{state} after {waited:.0f} s. End other programs on this GPU, or raise --wait-seconds.")
        if waited >= next_line:
            print(f"waiting for memory, {waited:.0f} of {seconds:.0f} s: {state}", flush=True)
            next_line = waited + LINE_SECONDS
        time.sleep(min(POLL_SECONDS, seconds - waited))


def _try_to_reserve(own_gb: float, others_gb: float) -> float | None:
    """Return the GB that are free if they are too few, None if memory was reserved."""
    free = torch.cuda.mem_get_info()[0] / 1e9
    if free < own_gb + others_gb:
        return free
    try:
        torch.empty(int(1e9 * own_gb), dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:  # another process was faster
        return free
    return None
