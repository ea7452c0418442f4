"""The time of one decoding step: that of a long text less that of a short one, over the steps between."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Sequence

SETTLE_SECONDS = 0.3
"""Pause before each turn: threads of the system before wait for work for a while, busily."""
SHORT = 8
"""Tokens of the short text."""

Write = Callable[[int], None]
"""Writes so many tokens in every row of the batch."""
Clock = Callable[[], float]


def clock_for(threads: int) -> Clock:
    """Processor time for one thread, which other programs hardly touch; the wall's for several."""
    return cpu_seconds if threads == 1 else time.perf_counter


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def settle() -> None:
    """Let the system before come to rest."""
    gc.collect()
    time.sleep(SETTLE_SECONDS)


def step_seconds(write: Write, new_tokens: int, clock: Clock) -> float:
    """Seconds of one step of a text of `new_tokens`."""
    settle()
    start = clock()
    write(SHORT)
    middle = clock()
    write(new_tokens)
    return ((clock() - middle) - (middle - start)) / (new_tokens - SHORT)


def require_token_counts(texts: Sequence[Sequence[int]], wanted: int) -> None:
    """End where a system wrote less or more than it was asked for."""
    lengths = [len(text) for text in texts]
    if any(length != wanted for length in lengths):
        raise SystemExit(f"texts of {lengths} tokens, and {wanted} were asked for")
