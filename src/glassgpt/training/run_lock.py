"""The lock of a run folder: only one process may train into it.

It is `flock` on a file in the folder, which the kernel releases when the process dies, however it dies. Readers
(generate, evaluate, inspect, doctor) need no lock: every file they read is replaced atomically or appended to.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Generator
from contextlib import contextmanager

from glassgpt.data.files import new_folders, regular_only, require_creatable
from glassgpt.errors import UsageError
from glassgpt.training.run_folder import RunFolder

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None

ATTEMPTS, PAUSE_SECONDS = 5, 0.05
"""Another process may hold the lock for a moment, only to see whether it is free."""


@contextmanager
def run_lock(run: RunFolder) -> Generator[bool]:
    """Hold the lock of a run folder, creating the folder if missing and removing it again if it stays empty.

    Yields:
        False if the file system or the operating system has no locks, so that nothing is held.

    Raises:
        UsageError: another process trains into the folder.
        OSError: the folder cannot be written to.
    """
    with new_folders(run.path):
        file, is_held = _acquire(run)
        try:
            os.truncate(file, 0)
            os.write(file, f"{os.getpid()} {platform.node()}\n".encode())
            yield is_held
        finally:
            if is_held:
                # Before it is released, so that a waiting process notices that it was deleted.
                run.lock.unlink(missing_ok=True)
            os.close(file)
            if not is_held:
                run.lock.unlink(missing_ok=True)


def require_startable(run: RunFolder, *, resume: bool) -> None:
    """Check that a run can be trained in a folder, before anything else is done.

    Raises:
        UsageError: another process trains into it, it is not writable, or it holds a run and `resume` is False.
    """
    require_unlocked(run)
    if not resume:
        run.require_new(can_resume=True)
    require_creatable(run.path)


def require_unlocked(run: RunFolder) -> None:
    """Check that no process trains into a run folder, without holding its lock.

    Raises:
        UsageError: another process does.
    """
    if not run.lock.is_file():
        return
    file = regular_only(str(run.lock), os.O_RDWR)
    try:
        _try_lock(file, run)
    finally:
        os.close(file)


def _acquire(run: RunFolder) -> tuple[int, bool]:
    """Return the open lock file, and whether it is locked."""
    while True:
        file = regular_only(str(run.lock), os.O_RDWR | os.O_CREAT)
        try:
            is_held = _try_lock(file, run)
        except BaseException:
            os.close(file)
            raise
        if not is_held or os.fstat(file).st_nlink:
            return file, is_held
        os.close(file)  # its owner ended, and removed it, between the two calls


def _try_lock(file: int, run: RunFolder) -> bool:
    if fcntl is None:
        return False
    for attempt in range(ATTEMPTS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if attempt < ATTEMPTS - 1:
                time.sleep(PAUSE_SECONDS)
        except OSError:  # ENOLCK, EOPNOTSUPP: the file system has no locks
            return False
    process, _, host = os.pread(file, 300, 0).decode(errors="replace").strip().partition(" ")
    owner = f"process {process} on {host}" if process.isdecimal() else "another process"
    raise UsageError(f"{owner} is training into {run.path}; wait for it, stop it, or choose another --out")
