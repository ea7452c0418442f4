"""The number of worker threads, shared by our thread pools and the Rust tokenizer libraries."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

THREADS_VARIABLE = "RAYON_NUM_THREADS"
"""Environment variable read by the Rust libraries; our thread pools follow it too, so that one number controls both."""


def worker_threads() -> int:
    """Return the number of threads to use: RAYON_NUM_THREADS if set, else the cores available to this process."""
    requested = os.environ.get(THREADS_VARIABLE, "")
    if requested.isdecimal() and int(requested):
        return int(requested)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def limited_threads(count: int) -> Generator[None, None, None]:
    """Use `count` threads inside the context; 0 leaves the number unchanged.

    A Rust library whose thread pool is already running keeps its number of threads.
    """
    before = os.environ.get(THREADS_VARIABLE)
    if count:
        os.environ[THREADS_VARIABLE] = str(count)
    try:
        yield
    finally:
        if before is not None:
            os.environ[THREADS_VARIABLE] = before
        elif count:
            del os.environ[THREADS_VARIABLE]
