"""Windows before shards: copying in the background makes way for what training waits for.

A batch is a few kilobytes, a shard hundreds of megabytes. On a slow connection the first batch would otherwise wait in line
behind whole shards. On a fast one nothing is held up: a block of a shard that arrives quickly does not get in the way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

FIRST_BLOCK_BYTES = 64 << 10
"""The first request of a copy: as much as a slow connection delivers at once."""
MAX_BLOCK_BYTES = 8 << 20
"""Most bytes that are requested at once: a lost connection costs one block."""
FAST_SECONDS, SLOW_SECONDS = 0.25, 1.0
"""A block that took less is followed by a larger one, and by another at once; one that took more, by a smaller one."""
PATIENCE = 8
"""Times that a slow block took, for which the next one waits while windows are wanted: so that copying continues."""


class WindowReads:
    """Counts the windows that are being read, of all datasets of this process."""

    def __init__(self) -> None:
        self._count, self._changed = 0, threading.Condition()

    @contextmanager
    def one_more(self) -> Generator[None, None, None]:
        """Count a window within the context."""
        with self._changed:
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until no window is wanted, at most this long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._count, seconds)


WINDOWS = WindowReads()


class BlockSizes:
    """The size and the time of the next request for a part of a file; learned from how long the last block took.

    Args:
        windows: what goes first.
    """

    def __init__(self, windows: WindowReads = WINDOWS) -> None:
        self._windows = windows
        self._size, self._seconds = FIRST_BLOCK_BYTES, SLOW_SECONDS

    def read(self, left: int, read: Callable[[int], bytes]) -> bytes:
        """Return the next block of a file that has `left` bytes left; `read` gets their number, and returns as many."""
        if self._seconds > FAST_SECONDS:
            self._windows.wait(PATIENCE * self._seconds)
        began = time.monotonic()
        block = read(min(self._size, left))
        self._seconds = time.monotonic() - began
        if self._seconds > SLOW_SECONDS:
            self._size = max(FIRST_BLOCK_BYTES, self._size // 2)
        elif self._seconds < FAST_SECONDS and left > self._size:
            self._size = min(MAX_BLOCK_BYTES, 2 * self._size)
        return block
