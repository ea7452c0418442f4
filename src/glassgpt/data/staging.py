"""An output folder that appears complete or not at all, even if the process is interrupted."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from glassgpt.data.files import is_disk_full, new_folders, require_local, sync_folder
from glassgpt.data.renames import exchange, rename_new
from glassgpt.data.summary import SUMMARY_FILE
from glassgpt.errors import CheckpointError, DataError, Interrupted, UsageError

try:
    import fcntl
except ImportError:  # Windows; there, leftovers look like the folders of a live process, so they are kept
    fcntl = None

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOCK_FILE = "lock"
"""Locked while a process fills its staging folder; the kernel releases the lock when the process dies."""
REPLACED = "replaced"
"""Temporary name of the old dataset, on systems that cannot exchange two folders in one operation."""


class _Stopped(KeyboardInterrupt):
    """Not an `Exception`, so that no library between the signal and our code catches it."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__()


@contextmanager
def staged_folder(
    out: Path,
    *,
    force: bool,
    what: str = "dataset",
    marker: str = SUMMARY_FILE,
    on_leftover: Callable[[Path], None] | None = None,
) -> Generator[tuple[Path, Path], None, None]:
    """Yield a folder to fill and a scratch folder; on success the first is renamed to `out`.

    Whatever appears at `out` in the meantime is kept: without `force` the finished folder gets another name, which the
    error tells. With `force` the folder there is exchanged for the new one, so that `out` is never missing.

    Args:
        out: folder to create; an empty folder there is replaced.
        force: whether a folder of the same kind at `out` may be replaced.
        what: what the folder holds, for messages.
        marker: file by which a folder of this kind is recognized.
        on_leftover: called with each staging folder of a killed process that was removed.

    Raises:
        UsageError: `out` exists and is of another kind, `force` is not given, or `out` is a URL.
        DataError: the disk is full or not writable, or something appeared at `out`.
        CheckpointError: passed on, except for a full disk.
        Interrupted: SIGINT or SIGTERM was received; both folders have been removed.
    """
    require_local(out)
    target = Path(os.path.realpath(out))  # a link stays a link: the folder it leads to is replaced
    published = False
    try:
        for leftover in _remove_leftovers(target):
            if on_leftover:
                on_leftover(leftover)
        _check_existing(out, force, what, marker)
        with new_folders(target.parent), _stop_signals(), _temporary_folders(target) as (staging, scratch):
            yield staging, scratch
            _publish(staging, target, force, what, marker)
            published = True
    except _Stopped as stop:
        state = f"the {what} {out} is complete" if published else f"nothing was written to {out}"
        raise Interrupted(f"stopped; {state}", stop.number) from stop
    except CheckpointError as error:
        # It names the staging folder, and earlier checkpoints, which a new run does not have.
        if not is_disk_full(error):
            raise
        raise DataError(f"the disk is full ({out}); nothing was written to {out}") from error
    except OSError as error:
        problem = "the disk is full" if is_disk_full(error) else error.strerror or str(error)
        where = error.filename or out
        raise DataError(f"{problem} ({where}); nothing was written to {out}") from error


def _check_existing(out: Path, force: bool, what: str, marker: str) -> None:
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    if force and (out / marker).is_file():
        return
    if what != "dataset" or not (out / marker).is_file():
        raise UsageError(f"{out} exists and is not a {what}, so it is not replaced; choose another --out")
    raise UsageError(f"{out} already holds a dataset; replace it with --force, or choose another --out")


@contextmanager
def _temporary_folders(out: Path) -> Generator[tuple[Path, Path], None, None]:
    # Next to `out`, on the same file system, so that the rename is atomic.
    folder, lock = _locked_folder(out)
    try:
        staging, scratch = folder / "data", folder / "scratch"
        staging.mkdir()
        scratch.mkdir()
        yield staging, scratch
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked_folder(out: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
        with suppress(FileNotFoundError):  # another process mistook it for a leftover before it was locked
            lock = os.open(folder / LOCK_FILE, os.O_CREAT | os.O_RDWR, 0o600)
            if fcntl is None or lock_file(lock, wait=True) is False or os.fstat(lock).st_nlink:
                return folder, lock
            os.close(lock)


def lock_file(file: int, *, wait: bool) -> bool | None:
    """Return True if the lock was taken, None if another process has it, False if the file system has no locks."""
    assert fcntl is not None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return None
    except OSError:
        return False
    return True


def _remove_leftovers(out: Path) -> list[Path]:
    """Remove staging folders of `out` whose process was killed, and return them.

    A dataset that was killed between the two renames of a replacement is put back first.
    """
    removed: list[Path] = []
    for folder in _staging_folders(out):
        try:
            lock = os.open(folder / LOCK_FILE, os.O_RDWR)
        except OSError:  # being created, or of another user
            continue
        try:
            if fcntl is None or not lock_file(lock, wait=False):
                continue
            if (folder / REPLACED).is_dir() and not os.path.lexists(out):
                rename_new(folder / REPLACED, out)
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
        finally:
            os.close(lock)
    return removed


def _staging_folders(out: Path) -> list[Path]:
    name = re.compile(rf"\.{re.escape(out.name)}\.[a-z0-9_]{{8}}\.partial")
    if not out.parent.is_dir():
        return []
    return sorted(path for path in out.parent.iterdir() if name.fullmatch(path.name) and not path.is_symlink())


def _publish(staging: Path, out: Path, force: bool, what: str, marker: str) -> None:
    sync_folder(staging)
    if force and (out / marker).is_file():
        exchange(staging, out, staging.with_name(REPLACED))
        if not (staging / marker).is_file():  # the folder was itself replaced in the meantime
            exchange(staging, out, staging.with_name(REPLACED))
            raise DataError(_kept(staging, out, what))
    else:
        with suppress(OSError):
            out.rmdir()  # does nothing unless it is an empty folder
        try:
            rename_new(staging, out)
        except FileExistsError as error:
            raise DataError(_kept(staging, out, what)) from error
    sync_folder(out.parent)


def _kept(staging: Path, out: Path, what: str) -> str:
    """Rename a finished folder to a free name beside `out`, and return the message that says so."""
    number = 2
    while True:
        kept = out.with_name(f"{out.name}-{number}")
        try:
            rename_new(staging, kept)
        except FileExistsError:
            number += 1
            continue
        sync_folder(out.parent)
        return f"{out} appeared while this {what} was being prepared and is not replaced; the new {what} is {kept}"


@contextmanager
def _stop_signals() -> Generator[None, None, None]:
    """Turn SIGINT and SIGTERM into an exception, so that the temporary folders are removed."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for each in STOP_SIGNALS:  # a second signal must not interrupt the cleanup
            signal.signal(each, signal.SIG_IGN)
        raise _Stopped(number)

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
