"""Keep Python's garbage collector from pausing the host inside a training step."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def manual_garbage_collection() -> Generator[None]:
    """Run a block in which only `gc.collect()` collects garbage.

    Objects that exist already are frozen, so that the collections between steps have little to look at. What a caller
    has frozen stays so; then nothing more is frozen, as Python can only unfreeze everything.
    """
    was_enabled, has_frozen = gc.isenabled(), gc.get_freeze_count() > 0
    gc.collect()
    if not has_frozen:
        gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        if not has_frozen:
            gc.unfreeze()
        if was_enabled:
            gc.enable()
