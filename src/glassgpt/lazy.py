"""Deferred imports, and imports of large packages. A base module: it imports nothing of this package."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def lazy_attribute(package: str, modules: Mapping[str, str], name: str, hint: str = "") -> Any:
    """Return an attribute of a package, from the module that defines it.

    Args:
        package: name of the package.
        modules: full name of the module by attribute.
        name: of the attribute.
        hint: text after the message of the error.

    Raises:
        AttributeError: the package has no such attribute.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}")
    return getattr(import_module(modules[name]), name)


MOST_FROZEN_BY_PYTHON = 1000
"""Python 3.12 exempts 375 objects when it starts, other versions none; a program has thousands."""
_frozen_for_good = 0
"""Number of objects that were exempt when a command had imported what it needs; some of them may be gone."""


@contextmanager
def without_collecting() -> Generator[None]:
    """Run a block of imports without looking for garbage, of which they leave none.

    It takes a tenth of the time of importing torch. What was imported counts as old afterwards, as if it had been searched.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Not if objects are exempt for good, which unfreezing would undo; to count those of a command takes 20 ms.
        if not _frozen_for_good and gc.get_freeze_count() <= MOST_FROZEN_BY_PYTHON:
            gc.freeze()
            gc.unfreeze()  # into the oldest generation: the next collection would search it, as it is new
        if was_enabled:
            gc.enable()


def import_for_good(module: str) -> None:
    """Import a module, if it is not there yet, and exempt all objects that exist then from garbage collection.

    They would be searched again when the process ends. For commands, not for libraries: what a caller has created is
    exempt, too.
    """
    global _frozen_for_good
    if module in sys.modules:
        return
    with without_collecting():
        import_module(module)
    gc.freeze()
    _frozen_for_good = gc.get_freeze_count()


def caller_has_frozen() -> bool:
    """Return whether the program that uses this package has exempted objects from garbage collection.

    Python can only include all of them again, so that what it has exempted stays so. What Python itself and a command of
    ours exempt does not count.
    """
    return gc.get_freeze_count() > max(MOST_FROZEN_BY_PYTHON, _frozen_for_good)
