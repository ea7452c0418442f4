"""Examine files of source code in several processes: read, filter and sketch each; see `selection`.

Filtering is Python that holds the interpreter's lock, so that threads would not help; see `glassgpt.data.processes`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from glassgpt.data.code.exclude import ExcludedText, read_excluded
from glassgpt.data.code.filters import EXCLUDED, LARGE, MAX_BYTES, NOT_TEXT, reason_to_drop
from glassgpt.data.code.near_duplicates import require_rensa, sketch_of
from glassgpt.data.documents import text_digest
from glassgpt.data.processes import processes
from glassgpt.data.threads import worker_threads
from glassgpt.errors import DataError

IN_PROCESS_BYTES = 8_000_000
"""Up to this size files are examined in this process, in about three seconds; starting others takes almost one."""


@dataclass(frozen=True)
class Examined:
    """Facts about a file by itself.

    Attributes:
        size: its size in bytes.
        reason: to leave it out, one of `filters.REASONS`; None if there is none in the file alone.
        digest: of its text, to find exact copies.
        sketch: see `near_duplicates.sketch_of`.
    """

    size: int
    reason: str | None
    digest: int = 0
    sketch: bytes | None = None


def read_code(path: Path) -> str | None:
    """Return the text of a file; None if it is not UTF-8.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def examine(path: Path, excluded: ExcludedText, *, sketches: bool) -> Examined:
    """Read and filter a file.

    Args:
        path: the file.
        excluded: text that it must not have.
        sketches: compute what near-duplicates are found by.

    Raises:
        DataError: it cannot be read.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        return Examined(size, LARGE)
    if (text := read_code(path)) is None:
        return Examined(size, NOT_TEXT)
    reason = reason_to_drop(text) or (EXCLUDED if excluded.occurs_in(text) else None)
    if reason is not None or not sketches:
        return Examined(size, reason)
    return Examined(size, None, text_digest(text.encode()), sketch_of(text))


def examine_all(paths: Sequence[Path], exclude: Sequence[Path], *, sketches: bool) -> Generator[Examined]:
    """Yield the facts about each file, in their order, which does not depend on the number of processes.

    Args:
        paths: the files.
        exclude: files and folders of problems whose text must not be in them.
        sketches: see `examine`.

    Raises:
        DataError: a file cannot be read.
        MissingExtraError: the library that computes sketches is not installed.
    """
    if sketches:
        require_rensa()
    excluded, workers = read_excluded(exclude), worker_threads()
    if workers == 1 or sum(path.stat().st_size for path in paths) <= IN_PROCESS_BYTES:
        yield from (examine(path, excluded, sketches=sketches) for path in paths)
        return
    with processes(workers, threads=1) as pool:
        yield from pool.map(partial(_examine, exclude=tuple(exclude), sketches=sketches), paths)


def _examine(path: Path, exclude: tuple[Path, ...], *, sketches: bool) -> Examined:
    return examine(path, _excluded(exclude), sketches=sketches)


@lru_cache(maxsize=1)
def _excluded(exclude: tuple[Path, ...]) -> ExcludedText:
    """Read what is excluded once in each worker process: hashes of words differ from process to process."""
    return read_excluded(exclude)
