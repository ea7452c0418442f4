"""An output folder that appears complete or not at all, even if the process is interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from glassgpt.data.files import is_disk_full, sync_folder
from glassgpt.data.summary import SUMMARY_FILE
from glassgpt.errors import DataError, Interrupted, UsageError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Stopped(KeyboardInterrupt):
    """Not an `Exception`, so that no library between the signal and our code catches it."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__()


@contextmanager
def staged_folder(out: Path, *, force: bool) -> Generator[tuple[Path, Path], None, None]:
    """Yield a folder to fill and a scratch folder; on success the first is renamed to `out`.

    Raises:
        UsageError: `out` exists and is not a dataset, or `force` is not given.
        DataError: the disk is full or not writable.
        Interrupted: SIGINT or SIGTERM was received; both folders have been removed.
    """
    _check_existing(out, force)
    try:
        with _stop_signals(), _temporary_folders(out) as (staging, scratch):
            yield staging, scratch
            _publish(staging, out)
    except _Stopped as stop:
        raise Interrupted(f"stopped; nothing was written to {out}", stop.number) from stop
    except OSError as error:
        problem = "the disk is full" if is_disk_full(error) else error.strerror or str(error)
        where = error.filename or out
        raise DataError(f"{problem} ({where}); nothing was written to {out}") from error


def _check_existing(out: Path, force: bool) -> None:
    if not os.path.lexists(out):
        return
    if not (out / SUMMARY_FILE).is_file():
        raise UsageError(f"{out} exists and is not a dataset, so it is not replaced; choose another --out")
    if not force:
        raise UsageError(f"{out} already holds a dataset; replace it with --force, or choose another --out")


@contextmanager
def _temporary_folders(out: Path) -> Generator[tuple[Path, Path], None, None]:
    # Next to `out`, on the same file system, so that the rename is atomic.
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".partial", dir=parent) as folder:
        staging, scratch = Path(folder, "data"), Path(folder, "scratch")
        staging.mkdir()
        scratch.mkdir()
        yield staging, scratch


def _publish(staging: Path, out: Path) -> None:
    sync_folder(staging)
    replaced = staging.with_name("replaced")
    if out.exists():
        os.replace(out, replaced)
    try:
        os.replace(staging, out)
    except BaseException:
        if replaced.exists():
            os.replace(replaced, out)
        raise
    sync_folder(out.absolute().parent)
    shutil.rmtree(replaced, ignore_errors=True)


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
