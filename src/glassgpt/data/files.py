"""Atomic file writes, durable folders, files that are opened without following links, and checks of output paths."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from glassgpt.data.remote.store import remote_url
from glassgpt.errors import UnsafeFileError, UsageError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error, or one that caused it, means a full disk or an exhausted quota."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            return True
        cause = cause.__cause__ or cause.__context__
    # Libraries written in other languages pass on the text only, and numpy how many numbers it could write.
    return re.search(r"No space left on device|^\d+ requested and \d+ written$", str(error)) is not None


def require_regular(path: Path) -> None:
    """Check that a file of a run or dataset, if it exists, is a regular file and not a link.

    Such folders may come from strangers: a link would let them choose what is read or appended to, and opening a FIFO
    or a device can block or have effects.

    Raises:
        UnsafeFileError: it is something else.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode):
        raise UnsafeFileError(f"{path} is {_kind(mode)}, not a regular file; replace it with the file itself")


def require_own_folder(path: Path) -> None:
    """Check that a folder inside a run or dataset, if it exists, is not a link to another location.

    Raises:
        UnsafeFileError: it is a link, or not a folder.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISDIR(mode):
        raise UnsafeFileError(f"{path} is {_kind(mode)}, not a folder; replace it with the folder itself")


def regular_only(path: str, flags: int) -> int:
    """Open a file of a run or dataset without following a link; the `opener` of `open`.

    Raises:
        UnsafeFileError: it is a symbolic link, a FIFO, a device or a folder.
    """
    require_regular(Path(path))
    safe = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    file = os.open(path, flags | safe, 0o644)
    mode = os.fstat(file).st_mode  # it may have been exchanged since
    if not stat.S_ISREG(mode):
        os.close(file)
        raise UnsafeFileError(f"{path} is {_kind(mode)}, not a regular file; replace it with the file itself")
    return file


def read_regular(path: Path) -> bytes:
    """Return the content of a file of a run or dataset; see `regular_only`."""
    with open(path, "rb", opener=regular_only) as file:
        return file.read()


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISLNK, "a symbolic link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"), (stat.S_ISREG, "a file"),
    )  # fmt: skip
    return next((name for test, name in kinds if test(mode)), "a device")


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file, fsync and rename: readers see the old file or the new one, never a partial one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:  # not mkstemp: the user's umask decides who may read it
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)  # without it, a power failure could undo the rename
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def apply_umask(path: Path) -> None:
    """Give a file the permissions of a new one: safetensors writes a temporary file, which only its owner can read."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(probe, "xb") as file:  # to ask for the umask is to change it, for other threads too
        mode = os.fstat(file.fileno()).st_mode
    probe.unlink()
    path.chmod(stat.S_IMODE(mode))


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


@contextmanager
def new_folders(folder: Path) -> Generator[None]:
    """Create a folder and its parents; at the end remove those of them that are new and still empty."""
    new = list(takewhile(lambda each: not each.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for each in new:
            try:
                each.rmdir()
            except OSError:  # not empty: the work succeeded, or somebody else uses it
                break


def require_local(folder: Path) -> None:
    """Check that a folder to create is one of this machine: `Path` would take a URL for a folder named `s3:`.

    Raises:
        UsageError: it is a URL of an object store.
    """
    if url := remote_url(folder):
        raise UsageError(
            f"cannot create {url}: only train writes to an object store; create a folder here and copy it there"
        )


def require_creatable(folder: Path) -> None:
    """Check that a folder of this machine exists and is writable, or can be created.

    Raises:
        UsageError: it cannot.
    """
    require_local(folder)
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(f"cannot create {folder}: {existing} is not a writable folder")


def sync_folder(folder: Path) -> None:
    """Fsync a folder, so that newly created and renamed files in it survive a crash."""
    if os.name == "nt":  # Windows cannot open folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
