"""SHA-256 of a checkpoint's files, begun in a thread before it is needed. Free of torch.

Loading torch occupies one core for seconds, in which another one can read and hash half a gigabyte of weights.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from glassgpt.data.files import regular_only
from glassgpt.errors import GlassGPTError
from glassgpt.training.checkpoint_layout import (
    OPTIMIZER,
    list_checkpoints,
    named_model,
    require_checkpoint,
    resolve_pointer,
)
from glassgpt.training.run_folder import RunFolder

BLOCK_BYTES = 16 << 20
"""Bytes that are hashed at once. The thread needs the interpreter's lock between two blocks, and may wait 5 ms for it."""
Version = tuple[int, int, int]
"""Size, inode and modification time of a file: what was hashed is still there if they are the same."""


class _Hash:
    """A checksum that a thread computes.

    Attributes:
        version: of the file before it was read.
        value: the checksum once `is_done` is set; None if the file could not be read.
    """

    def __init__(self, path: Path) -> None:
        self.version = _version(path)
        self.value: str | None = None
        self.is_done = threading.Event()


_started: dict[Path, _Hash] = {}


def require_checkpoint_and_hash(run: RunFolder, which: str) -> None:
    """Check that a run has a checkpoint, and begin to compute the checksums of what a model is loaded from.

    Args:
        run: the run.
        which: see `require_checkpoint`, as for the errors.
    """
    require_checkpoint(run, which)
    begin_hashing(run, which)


def begin_hashing(run: RunFolder, which: str) -> None:
    """Begin to compute the checksums of what a model is loaded from, as `require_checkpoint_and_hash` does.

    Errors are left to whoever loads it: a checkpoint does not exist, or was pruned since.
    """
    with suppress(OSError, GlassGPTError):
        start_hashing(_files_to_load(run, which))


def _files_to_load(run: RunFolder, which: str) -> list[Path]:
    """Return the files of a checkpoint that a model is loaded from."""
    best = resolve_pointer(run, "best") if which == "best" else None
    newest = next(reversed(list_checkpoints(run)), None)
    checkpoint = best or (newest if which in ("best", "latest") else named_model(run, which))
    if checkpoint is None:
        return []
    return [
        path for path in checkpoint.iterdir() if path.name != OPTIMIZER and path.is_file() and not path.is_symlink()
    ]


def start_hashing(paths: Iterable[Path]) -> None:
    """Begin to compute the checksums of existing files in a thread, unless it is begun; `sha256` returns each of them once."""
    begun = [(path.absolute(), _Hash(path)) for path in paths]
    begun = [(path, each) for path, each in begun if path not in _started or _started[path].version != each.version]
    _started.update(begun)
    threading.Thread(target=_hash_all, args=(begun,), name="glassgpt-checksums", daemon=True).start()


def _hash_all(begun: Iterable[tuple[Path, _Hash]]) -> None:
    for path, each in begun:
        try:
            each.value = _compute(path)
        except Exception:  # noqa: BLE001 - `sha256` reads the file again, and raises the error to its caller
            each.value = None
        finally:
            each.is_done.set()


def sha256(path: Path) -> str:
    """Return a file's checksum in hexadecimal; if `start_hashing` has begun it, wait for that.

    Raises:
        OSError: the file cannot be read.
    """
    ahead = _started.pop(path.absolute(), None)
    if ahead is not None:
        ahead.is_done.wait()
        if ahead.value is not None and ahead.version == _version(path):
            return ahead.value
    return _compute(path)


def _compute(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0, opener=regular_only) as file:
        block = memoryview(bytearray(min(BLOCK_BYTES, 1 + os.fstat(file.fileno()).st_size)))
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def _version(path: Path) -> Version:
    status = os.stat(path)
    return status.st_size, status.st_ino, status.st_mtime_ns
