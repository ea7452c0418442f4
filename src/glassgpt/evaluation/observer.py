"""Observer of an evaluation: domain code reports progress to it, and only display code prints."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager


class EvaluationObserver:
    """Receives progress and notices of an evaluation. This base class ignores them; see `show.ConsoleObserver`."""

    @contextmanager
    def progress(self, label: str, total: int, unit: str = "tokens") -> Generator[Callable[[int], None]]:
        """Return a context manager for a task of `total` tokens, or other units.

        Args:
            label: what is being done.
            total: units to process.
            unit: their name, in the plural.

        Yields:
            A function to call with the number of units just processed.
        """
        yield _ignore

    def notice(self, message: str) -> None:
        """Called with a note about what is evaluated and how."""

    def warning(self, message: str) -> None:
        """Called with a warning that limits what the results mean."""


def _ignore(_: int) -> None:
    pass


SILENT = EvaluationObserver()
