"""The number of worker threads, shared by our thread pools and the Rust tokenizer libraries."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

THREADS_VARIABLE = "RAYON_NUM_THREADS"
"""Environment variable read by the Rust libraries; our thread pools follow it too, so that one number controls both."""
FASTOKENS_VARIABLE = "FASTOKENS_BPE_THREADS"
"""Environment variable read by fastokens, once, instead of the other one."""

WAITING_AT_ONCE = 16
"""Threads that wait for a network."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def worker_threads() -> int:
    """Return the number of threads to use: RAYON_NUM_THREADS if set, else the cores available to this process."""
    requested = os.environ.get(THREADS_VARIABLE, "")
    if requested.isdecimal() and int(requested):
        return int(requested)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_variables(count: int) -> dict[str, str]:
    """Return the environment of a process whose tokenizers use this many threads."""
    return dict.fromkeys((THREADS_VARIABLE, FASTOKENS_VARIABLE), str(count))


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


def map_waiting(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return `function(item)` for each item, several at once: for requests, which are mostly waiting."""
    with ThreadPoolExecutor(WAITING_AT_ONCE) as pool:
        return list(pool.map(function, items))
