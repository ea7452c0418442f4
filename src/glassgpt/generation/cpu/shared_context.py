"""A context manager that several threads are in at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager


class SharedContext:
    """A context for state of the whole process: the first thread to come enters it, the last one to go leaves it.

    Args:
        create: returns a new context manager.
    """

    def __init__(self, create: Callable[[], AbstractContextManager[object]]) -> None:
        self._create, self._lock = create, threading.Lock()
        self._context: AbstractContextManager[object] | None = None
        self._n_inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._context is None:
                context = self._create()
                context.__enter__()
                self._context = context
            self._n_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if not self._n_inside and self._context is not None:
                context, self._context = self._context, None
                context.__exit__(None, None, None)
