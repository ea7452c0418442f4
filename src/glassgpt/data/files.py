"""Atomic file writes, durable folders, and checks of output paths."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from glassgpt.errors import UsageError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error, or one that caused it, means a full disk or an exhausted quota."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            return True
        cause = cause.__cause__ or cause.__context__
    return "No space left on device" in str(error)  # libraries written in other languages pass on the text only


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file, fsync and rename: readers see the old file or the new one, never a partial one."""
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


def check_output_path(option: str, path: Path, suffixes: Sequence[str] = (), *, force: bool = False) -> None:
    """Check that an output file can be written, before any work is done for it.

    Args:
        option: option that names the file, for the error message.
        path: the file.
        suffixes: accepted suffixes, lower-case with the dot; empty accepts any.
        force: whether an existing file may be overwritten.

    Raises:
        UsageError: the path cannot be written, exists, or has another suffix.
    """
    folder = path.absolute().parent
    if suffixes and path.suffix.lower() not in suffixes:
        raise UsageError(f"{option} is {path}; the name must end in {', '.join(suffixes)}")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"{option} is {path}; the folder {path.parent} does not exist or is not writable")
    if path.is_dir():
        raise UsageError(f"{option} is {path}, which is a folder; give a file name")
    if path.exists() and not force:
        raise UsageError(f"{path} already exists; overwrite it with --force, or choose another {option}")


def sync_folder(folder: Path) -> None:
    """Fsync a folder, so that newly created and renamed files in it survive a crash."""
    if os.name == "nt":  # Windows cannot open folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
