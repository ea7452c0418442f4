"""Walk through the files of a folder, in an order that does not depend on the file system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from glassgpt.errors import DataError


def walk(folder: Path, follow_links: bool) -> Iterator[tuple[Path, bool]]:
    """Yield the paths in a folder in order, without folders that are read, and whether each is hidden.

    Raises:
        DataError: a folder cannot be read.
    """

    def unreadable(error: OSError) -> NoReturn:
        raise DataError(
            f"{error.filename} cannot be read: {error.strerror}; make it readable, or name the others as sources"
        ) from error

    visited: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=unreadable, followlinks=follow_links):
        links = [] if follow_links else [name for name in folders if os.path.islink(os.path.join(place, name))]
        hidden = _is_hidden(Path(place), folder)
        for name in sorted([*files, *links]):
            yield Path(place, name), hidden or name.startswith(".")
        real = os.path.realpath(place)
        folders[:] = [] if real in visited else sorted(folders)  # a link may lead back to a folder above it
        visited.add(real)


def leads_out(path: Path, folder: Path) -> bool:
    """Return whether a path is, by its links, outside of a folder."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
