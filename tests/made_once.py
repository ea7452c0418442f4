"""Shared work: the first pytest worker that needs it does it, and the others read the result."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

SESSION: list[Path] = []
"""The temporary folder that all workers share, once it is known."""


def session_folder(tmp_path_factory) -> Path:
    """Return the temporary folder that all workers of this session share."""
    folder = tmp_path_factory.getbasetemp()
    SESSION[:] = [folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder]
    return SESSION[0]


def shared(name: str, make: Callable[[Path], object]) -> Path:
    """Return `made_once` in the session's folder, for helpers that are no fixtures."""
    return made_once(SESSION[0], name, make)


def made_once(folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    """Return the path `name` in `folder`, after `make(path)` in this process or another one; tests must not modify it."""
    path, finished = folder / name, folder / f"{name}.finished"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            shutil.rmtree(path, ignore_errors=True)  # of another worker that failed: this one fails for the same reason
            make(path)
            finished.touch()
    return path
