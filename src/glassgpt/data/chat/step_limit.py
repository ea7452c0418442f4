"""Stop a stranger's program that runs for too long or makes too much, by counting the lines it runs and what it makes."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any, cast


class StepLimitError(Exception):
    """The program ran more lines than it may."""


class SizeLimitError(Exception):
    """The program made more than it may."""


ELEMENT_BYTES = 36
"""Memory of an element of a list, and of the number that it may be."""
_made: ContextVar[list[int] | None] = ContextVar("made", default=None)
"""Bytes that may be made, and that are made so far; None without a limit."""


@contextmanager
def limited_total(most_bytes: int) -> Generator[None]:
    """Context manager in which texts and lists of `most_bytes` may be made, as `count_made` counts them."""
    token = _made.set([most_bytes, 0])
    try:
        yield
    finally:
        _made.reset(token)


def count_made(value: Any) -> None:
    """Count the bytes of a text or a list that a program has made; nothing happens outside of `limited_total`.

    Raises:
        SizeLimitError: it is too much together with what was made before.
    """
    made = _made.get()
    if made is None or not isinstance(value, str | bytes | list | tuple | dict):
        return
    is_text = isinstance(value, str | bytes)
    made[1] += sys.getsizeof(value) if is_text else ELEMENT_BYTES * len(cast("Sized", value))
    if made[1] > made[0]:
        raise SizeLimitError(f"it makes texts and lists of more than {made[0] / 1e6:,.0f} MB in all")


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
