"""Read untrusted files with a size limit and one-line error messages, and say why files cannot be written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, cast

from glassgpt.data.files import is_disk_full
from glassgpt.errors import InterchangeError

MAX_JSON_BYTES = 256 * 2**20
MAX_SHOWN = 100
"""Characters of a foreign value that an error message repeats."""

Json = dict[str, Any]


def write_error(folder: Path, error: BaseException) -> Exception:
    """Return the error to raise if a file in `folder` cannot be written.

    If the disk is full, it is an OSError without a name: the folder is a temporary one of a caller, who names its own.
    """
    if is_disk_full(error):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return InterchangeError(f"{folder} cannot be written: {error}")


def shown(value: object) -> str:
    """Return an untrusted value for an error message, shortened."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def name_of(value: object) -> str:
    """Return a foreign name for an error message: without quotes, shortened."""
    return value if isinstance(value, str) and len(value) <= MAX_SHOWN else shown(value)


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, shortened."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 2 * MAX_SHOWN else f"{text[: 2 * MAX_SHOWN]}…"


def read_text(path: Path) -> str:
    """Return the content of a text file.

    Raises:
        InterchangeError: it is missing, not a regular file, too large, or not UTF-8.
    """
    try:
        if not path.is_file():  # a named pipe would block
            raise InterchangeError(f"{path} is missing or not a file")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InterchangeError(f"{path} is larger than {MAX_JSON_BYTES:,} bytes, so it is not read")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InterchangeError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InterchangeError(f"{path} is not UTF-8 text: {reason(error)}") from error


def read_json(path: Path) -> Json:
    """Return the JSON object in a file.

    Raises:
        InterchangeError: the file cannot be read, or holds no JSON object.
    """
    text = read_text(path)
    try:
        content: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InterchangeError(f"{path} is not valid JSON: {reason(error)}") from error
    if not isinstance(content, dict):
        raise InterchangeError(f"{path} is not valid JSON for this purpose: it must hold an object")
    return cast(Json, content)
