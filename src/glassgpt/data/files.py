"""Writing files so that they are there whole or not at all, and finding those of data packages."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from glassgpt.errors import UsageError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
THREADS_VARIABLE = "RAYON_NUM_THREADS"
"""The variable that the Rust libraries read; ours go by it too, so that one number rules them all."""


def worker_threads() -> int:
    """Threads to work with: what the variable says, else the cores this process may run on."""
    wanted = os.environ.get(THREADS_VARIABLE, "")
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def limited_threads(count: int) -> Generator[None, None, None]:
    """Work with `count` threads; 0 leaves the number as it is.

    A Rust library that already runs keeps the number it started with.
    """
    before = os.environ.get(THREADS_VARIABLE)
    if count:
        os.environ[THREADS_VARIABLE] = str(count)
    try:
        yield
    finally:
        if before is not None:
            os.environ[THREADS_VARIABLE] = before
        elif count:
            del os.environ[THREADS_VARIABLE]


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what it came from, is the system's word for a full disk or a used-up quota."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            return True
        cause = cause.__cause__ or cause.__context__
    return "No space left on device" in str(error)  # libraries in other languages say it in words alone


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, fsync, rename: a reader sees the old file or the new one, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def check_output_path(option: str, path: Path, endings: Sequence[str] = (), *, force: bool = False) -> None:
    """Refuse a file that could not be written, or would be written over, before the work for it begins.

    Args:
        option: that names the file, for the message.
        path: the file.
        endings: allowed ones, in small letters with their dots; none allows any.
        force: whether a file that is there may be written over.

    Raises:
        UsageError: says what is allowed.
    """
    folder = path.absolute().parent
    if endings and path.suffix.lower() not in endings:
        raise UsageError(f"{option} is {path}; allowed is a name that ends in {', '.join(endings)}")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"{option} is {path}; the folder {path.parent} does not exist or cannot be written to")
    if path.is_dir():
        raise UsageError(f"{option} is {path}, which is a folder; give a file's name")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already; write over it with --force, or choose another {option}")


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable, not only the contents of its files."""
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def package_folder(package: str) -> Path | None:
    """The folder of an installed package, found without importing it; None where there is none."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))
