"""Rows of a source that cannot be used, and how many of them may be skipped."""

from __future__ import annotations

from glassgpt.errors import DataError, WrongDataError

SHOWN_BAD_ROWS = 3


class BadRows:
    """Counts the rows that were skipped; a row that is read again counts once.

    Args:
        limit: number of rows that may be skipped.

    Attributes:
        limit: see above.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self._skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._skipped)

    @property
    def first(self) -> str:
        """The problem with the first one; empty if there is none."""
        return next(iter(self._skipped.values()), "")

    @property
    def problems(self) -> list[str]:
        """The problem with each row that was skipped."""
        return list(self._skipped.values())

    def note(self) -> str:
        """Return a note of how many rows and files were skipped, with the first problems."""
        shown = "".join(f"\n  {problem}" for problem in self.problems[:SHOWN_BAD_ROWS])
        return f"bad rows and files skipped: {len(self):,}, such as:{shown}"

    def skip(self, origin: str, error: DataError) -> None:
        """Skip a row.

        Args:
            origin: file and row.
            error: the problem with it.

        Raises:
            DataError: there are more bad rows than the limit.
        """
        if origin in self._skipped:
            return
        if len(self._skipped) < self.limit:
            self._skipped[origin] = str(error)
        elif isinstance(error, WrongDataError):  # all rows are of another kind: skipping some is no way out
            raise error
        elif self.limit:
            raise DataError(f"{error}; {self.limit} bad rows were skipped before, as --skip-bad permits") from error
        else:
            raise DataError(f"{error}; skip such rows with --skip-bad N") from error
