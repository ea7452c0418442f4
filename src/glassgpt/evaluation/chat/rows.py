"""Rows of the files that an evaluation reads: one JSON object per line. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from glassgpt.data.json_rows import lines, parse_row, too_long
from glassgpt.errors import DataError, UsageError, WrongDataError


def require_file(option: str, path: Path | None) -> None:
    """Check that the file of an option exists, if one is given.

    Raises:
        UsageError: it does not.
    """
    if path is not None and not path.is_file():
        raise UsageError(f"{option} is {path}, which is not a file; give a file with one JSON object per line")


def read_rows(path: Path) -> Iterator[tuple[dict[str, object], str]]:
    """Yield the object of each line that is not blank, and the line's place for messages.

    Raises:
        DataError: the file cannot be read, is empty, or a line is not a JSON object.
    """
    found = False
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(lines(stream), start=1):
                origin = f"{path}, line {number}"
                if line is None:
                    raise DataError(f"{origin}: {too_long()}")
                if line.strip():
                    found = True
                    yield parse_row(line.decode("utf-8-sig" if number == 1 else "utf-8"), origin), origin
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
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
