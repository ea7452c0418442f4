"""Iterators whose prompts hold something, such as the vectors of a picture, and give it back however the iteration ends."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class ReleasingIterator(Iterator[T], Generic[T]):
    """Items, and what is to be released when they are exhausted, fail, are closed or are collected, even before the first.

    A generator cannot do that by itself: its `finally` does not run before it has been started.

    Args:
        items: the items; closed first if they can be.
        release: called once; must not refer to this iterator.
    """

    def __init__(self, items: Iterator[T], release: Callable[[], object]) -> None:
        self._items = items
        self._release = weakref.finalize(self, _close, items, release)
        self._release.atexit = False

    def __next__(self) -> T:
        """Return the next item."""
        if not self._release.alive:
            raise StopIteration
        try:
            return next(self._items)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the iteration; may be called several times."""
        self._release()

    def __enter__(self) -> Self:
        """Return itself, to be closed at the end of a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """See `close`."""
        self.close()


def _close(items: Iterator[object], release: Callable[[], object]) -> None:
    try:
        if (close := getattr(items, "close", None)) is not None:
            close()
    finally:
        release()
