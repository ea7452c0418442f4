"""Rows of the files that an evaluation reads: one JSON object per line. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from glassgpt.data import json_rows
from glassgpt.errors import UsageError, WrongDataError


def require_file(option: str, path: Path | None) -> None:
    """Check that the file of an option exists, if one is given.

    Raises:
        UsageError: it does not.
    """
    if path is not None and not path.is_file():
        raise UsageError(f"{option} is {path}, which is not a file; give a file with one JSON object per line")


def read_rows(path: Path) -> Iterator[tuple[dict[str, object], str]]:
    """Yield the rows of a file as `json_rows.read_rows` does.

    Raises:
        DataError: the file has no rows, or see `json_rows.read_rows`.
    """
    found = False
    for row in json_rows.read_rows(path):
        found = True
        yield row
    if not found:
        raise WrongDataError(f"{path} has no rows; give a file with one JSON object per line")


def text_of(row: dict[str, object], field: str, origin: str) -> str:
    """Return the text in a field of a row.

    Raises:
        WrongDataError: there is none.
    """
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise WrongDataError(f"{origin}: the field {field} must be text that is not empty, not {value!r:.40}")
    return value
