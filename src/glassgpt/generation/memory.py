"""Work for which memory may not suffice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def unless_out_of_memory(work: Callable[[], T]) -> T | None:
    """What the work gives, or None where memory ran out in it."""
    try:
        return work()
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
    return None  # only here, because an error that is being handled keeps its tensors alive


def _is_out_of_memory(error: RuntimeError) -> bool:
    # Of a CPU's memory PyTorch tells in words only.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
