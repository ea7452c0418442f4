"""Rename folders without replacing anything by accident, and without a moment in which a name does not exist.

Linux has both as one operation of the kernel (renameat2). Elsewhere, and on file systems without it, the fallbacks
keep the first promise always, and the second except for the moment between two renames.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
AT_FDCWD = -100
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP)
"""Errors of a kernel, a sandbox or a file system without renameat2 or without its flags."""


def rename_new(source: Path, target: Path) -> None:
    """Rename a folder to a name that must be free.

    Raises:
        FileExistsError: there is something at `target`.
    """
    if _renameat2(source, target, RENAME_NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    try:
        os.rename(source, target)  # the kernel itself refuses to put a folder in the place of a file or a filled folder
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise


def exchange(first: Path, second: Path, aside: Path) -> None:
    """Exchange two folders.

    Args:
        first: a folder.
        second: the other one; it is never missing where the system can exchange in one operation.
        aside: a free name on the same file system, used where it cannot.
    """
    if _renameat2(first, second, RENAME_EXCHANGE):
        return
    os.rename(second, aside)
    try:
        os.rename(first, second)
    except BaseException:
        os.rename(aside, second)
        raise
    os.rename(aside, first)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Return whether the system supports the call; other errors are raised."""
    function = _system_renameat2()
    if function is None:
        return False
    if function(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


@cache
def _system_renameat2() -> Any:
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
