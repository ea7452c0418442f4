"""Stop a stranger's program that runs for too long, by counting the lines it runs."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StepLimitError(Exception):
    """The program ran more lines than it may."""


@contextmanager
def limited_steps(most: int) -> Generator[None]:
    """Context manager in which this thread may run `most` lines of Python functions that are called within it.

    Raises:
        StepLimitError: it ran more.
    """
    steps = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > most:
            raise StepLimitError(f"it runs for more than {most:,} steps, perhaps without end")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
