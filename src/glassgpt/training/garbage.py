"""Keep Python's garbage collector from pausing the host inside a training step."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def manual_garbage_collection() -> Generator[None]:
    """Run a block in which only `gc.collect()` collects garbage.

    Objects that exist already are frozen, so that the collections between steps have little to look at.
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
