"""Measure one decoding step: the time of a long text minus that of a short one, divided by the difference in steps."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Sequence

SETTLE_SECONDS = 0.3
"""Pause before each measurement: the previous system's threads spin for a while before they sleep."""
SHORT = 8
"""Tokens of the short text."""

Write = Callable[[int], None]
"""Generates a number of tokens in every sequence of the batch."""
Clock = Callable[[], float]


def clock_for(threads: int) -> Clock:
    """Return the clock to use: CPU time for one thread, which other programs hardly affect; wall time for several."""
    return cpu_seconds if threads == 1 else time.perf_counter


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the child processes that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def settle() -> None:
    """Wait until the previous system is idle."""
    gc.collect()
    time.sleep(SETTLE_SECONDS)


def step_seconds(write: Write, new_tokens: int, clock: Clock) -> float:
    """Return the seconds per decoding step of a text of `new_tokens` tokens."""
    settle()
    start = clock()
    write(SHORT)
    middle = clock()
    write(new_tokens)
    return ((clock() - middle) - (middle - start)) / (new_tokens - SHORT)


def require_token_counts(texts: Sequence[Sequence[int]], wanted: int) -> None:
    """Exit if a system generated fewer or more tokens than requested."""
    lengths = [len(text) for text in texts]
    if any(length != wanted for length in lengths):
        raise SystemExit(f"texts have {lengths} tokens, expected {wanted}")
