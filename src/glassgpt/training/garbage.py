"""Keep Python's garbage collector from pausing the host inside a training step."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def manual_garbage_collection() -> Generator[Callable[[], None]]:
    """Run a block in which only the function that it yields collects garbage.

    Objects that exist already are frozen, and so is what survives the first collection: compiling a model leaves tens of
    thousands of objects, and looking through them takes a third of a second each time. What a caller has frozen stays so; then
    nothing more is frozen, as Python can only unfreeze everything.
    """
    was_enabled, has_frozen = gc.isenabled(), gc.get_freeze_count() > 0
    freezes = not has_frozen

    def collect() -> None:
        nonlocal freezes
        gc.collect()
        if freezes:
            gc.freeze()
            freezes = False

    gc.collect()
    if not has_frozen:
        gc.freeze()
    gc.disable()
    try:
        yield collect
    finally:
        if not has_frozen:
            gc.unfreeze()
        if was_enabled:
            gc.enable()
