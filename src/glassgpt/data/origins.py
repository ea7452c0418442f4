"""Names of the validation documents of a dataset: the file and line or row that each comes from, in their order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from glassgpt.data.files import read_regular, write_atomically

ORIGINS_FILE = "validation-documents.json"
MAX_ORIGINS = 100_000
"""Documents whose origins are stored; a dataset with more has none, so that the file stays small."""


def write_origins(folder: Path, origins: Sequence[str]) -> None:
    """Store the origins in a dataset folder, unless there are too many."""
    if len(origins) <= MAX_ORIGINS:
        write_atomically(folder / ORIGINS_FILE, json.dumps(list(origins), indent=0).encode())


def read_origins(folder: Path, count: int) -> list[str]:
    """Return the origin of each of `count` validation documents; empty if they are not known.

    They only name documents, so a file that is missing, damaged or of other documents is no error.
    """
    try:
        found = json.loads(read_regular(folder / ORIGINS_FILE))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(found, list):
        return []
    origins = [each for each in cast("list[Any]", found) if isinstance(each, str)]
    return origins if len(origins) == len(cast("list[Any]", found)) == count else []


def shown_origin(origin: str) -> str:
    """Return an origin for a table: without the folder, and without the line of a text that begins its file."""
    name = Path(origin).name
    is_row = ".json" in name or ".ndjson" in name
    return name if is_row else name.removesuffix(", line 1")
