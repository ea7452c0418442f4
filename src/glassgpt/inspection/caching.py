"""A small least-recently-used cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """Keeps the most recently used values within a budget, and always the last one.

    Args:
        budget: total size to keep.
        size_of: size of a value; by default each counts as 1.
    """

    def __init__(self, budget: int, size_of: Callable[[V], int] = lambda _: 1) -> None:
        self._budget, self._size_of = budget, size_of
        self._values: dict[K, V] = {}

    def get(self, key: K, compute: Callable[[], V]) -> V:
        """Return the cached value, or compute and store it; evict the values unused for longest."""
        value = self._values.pop(key) if key in self._values else compute()
        self._values[key] = value  # dicts keep insertion order: the first is the least recently used
        while len(self._values) > 1 and sum(map(self._size_of, self._values.values())) > self._budget:
            del self._values[next(iter(self._values))]
        return value

    def peek(self, key: K) -> V | None:
        """Return the cached value without counting it as used, or None."""
        return self._values.get(key)

    def __len__(self) -> int:
        """Return the number of values kept."""
        return len(self._values)
