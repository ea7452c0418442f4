"""Keep Python's garbage collector from pausing the host inside a training step."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager

from glassgpt.lazy import caller_has_frozen

COLLECT_EVERY_STEPS = 100
"""Steps between two collections, of which the first follows the first step."""


@contextmanager
def manual_garbage_collection() -> Generator[Callable[[], None]]:
    """Run a block in which only the function that it yields, to be called after each step, collects garbage.

    Objects that exist already are frozen, and so is what survives the first collection: compiling a model leaves tens of
    thousands of objects, and looking through them takes a third of a second each time. What a caller has frozen stays so;
    then nothing more is frozen, as Python can only unfreeze everything.
    """
    was_enabled, has_frozen = gc.isenabled(), caller_has_frozen()
    steps = 0

    def after_step() -> None:
        nonlocal steps
        if steps % COLLECT_EVERY_STEPS == 0:
            gc.collect()
            if steps == 0 and not has_frozen:
                gc.freeze()
        steps += 1

    gc.collect()
    if not has_frozen:
        gc.freeze()
    gc.disable()
    try:
        yield after_step
    finally:
        if not has_frozen:
            gc.unfreeze()
        if was_enabled:
            gc.enable()
