"""A folder that appears complete or not at all, whatever happens while it is being made."""

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
    """Not an Exception, so that no library between the signal and us takes it for an error of its own."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__()


@contextmanager
def staged(out: Path, *, force: bool) -> Generator[tuple[Path, Path], None, None]:
    """Yield a folder to fill and a scratch folder; at the end the first is renamed to `out`.

    Raises:
        UsageError: `out` is there already, and is no data set or `force` is not given.
        DataError: the disk is full, or cannot be written to.
        Interrupted: Ctrl-C or SIGTERM came; both folders are gone.
    """
    _refuse_existing(out, force)
    try:
        with _stop_signals(), _temporary_folders(out) as (staging, scratch):
            yield staging, scratch
            _publish(staging, out)
    except _Stopped as stop:
        raise Interrupted(f"stopped; nothing was written to {out}", stop.number) from stop
    except OSError as error:
        what = "the disk is full" if is_disk_full(error) else error.strerror or str(error)
        where = error.filename or out
        raise DataError(f"{what} ({where}); nothing was written to {out}") from error


def _refuse_existing(out: Path, force: bool) -> None:
    if not os.path.lexists(out):
        return
    if not (out / SUMMARY_FILE).is_file():
        raise UsageError(f"{out} exists and is no data set, so it is left alone; give another --out")
    if not force:
        raise UsageError(f"{out} holds a data set already; replace it with --force, or give another --out")


@contextmanager
def _temporary_folders(out: Path) -> Generator[tuple[Path, Path], None, None]:
    """Beside `out`, on the same file system, so that renaming is one step."""
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
    """Turn SIGINT and SIGTERM into an exception that lets everything be cleaned up."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for each in STOP_SIGNALS:  # a second signal must not interrupt the cleaning up
            signal.signal(each, signal.SIG_IGN)
        raise _Stopped(number)

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
