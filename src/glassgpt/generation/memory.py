"""Work for which memory may not suffice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from glassgpt.training.hardware import is_shortage

T = TypeVar("T")


def unless_out_of_memory(work: Callable[[], T]) -> T | None:
    """What the work gives, or None where memory ran out in it."""
    try:
        return work()
    except RuntimeError as error:
        if not is_shortage(error):
            raise
    return None  # only here, because an error that is being handled keeps its tensors alive
