"""Verify the shards of a dataset once per version of a file, optionally in the background."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any, cast

from glassgpt.data.files import read_regular, write_atomically
from glassgpt.data.shard_format import outside_vocabulary, verify_checksum, verify_file
from glassgpt.data.shards import Split, TokenDataset
from glassgpt.errors import DataError, GlassGPTError

MEMORY_FILE = ".verified.json"
"""Record, in the dataset's folder, of the version of each file that was found intact."""

Version = list[int]


@singledispatch
def other_files(dataset: TokenDataset) -> Mapping[str, str]:
    """Return the SHA-256 (hex) by name of the files beside the shards that a kind of data adds; text has none."""
    return {}


def verify_once(
    dataset: TokenDataset, splits: Sequence[Split] = ("validation", "train"), stop: threading.Event | None = None
) -> None:
    """Verify the shards and the other files of a dataset that have changed since they were last verified.

    A version of a file is its size, times of change (of content and of inode) and inode.

    Args:
        dataset: the dataset.
        splits: splits to verify, in this order.
        stop: ends the work early when set.

    Raises:
        DataError: a file is damaged, or a token is outside the vocabulary.
    """
    folder = dataset.folder
    verified = _read_memory(folder)
    for name in [name for split in splits for name in dataset.info.split(split).shards]:
        if not dataset.files.fetch(name, stop.is_set if stop else bool):
            return
        version, header = file_version(folder / name), dataset.headers[name]
        if verified.get(name) == version:
            continue
        highest = verify_checksum(folder / name, header, stop)
        if highest is None:
            return
        if highest >= header.vocab_size:
            raise DataError(outside_vocabulary(str(folder / name), highest, header.vocab_size))
        verified = _remember(folder, name, version)
    for name, sha256 in other_files(dataset).items():
        version = file_version(folder / name)
        if verified.get(name) == version:
            continue
        if not verify_file(folder / name, sha256, stop):
            return
        verified = _remember(folder, name, version)


class BackgroundVerification:
    """Verifies all shards of a dataset in a thread while something else is done; see `verify_once`.

    Args:
        dataset: the dataset.
        mixed_in: another one, whose training text is mixed into the dataset's.
    """

    def __init__(self, dataset: TokenDataset, mixed_in: TokenDataset | None = None) -> None:
        self._dataset, self._mixed_in = dataset, mixed_in
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def check(self, *, wait: bool, timeout: float | None = None) -> None:
        """Raise if damage was found by now.

        Args:
            wait: until everything is verified.
            timeout: seconds to wait at most; None waits as long as it takes.

        Raises:
            DataError: a shard is damaged.
        """
        if wait:
            self._thread.join(timeout)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop verifying."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            verify_once(self._dataset, stop=self._stop)
            if self._mixed_in is not None:
                verify_once(self._mixed_in, ("train",), self._stop)
        except (GlassGPTError, OSError) as error:  # raised again by `check`, in the thread that waits for it
            self._error = error


def file_version(path: Path) -> Version:
    """Return what changes when a file does: its size, its times of change and its inode."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read_memory(folder: Path) -> dict[str, Version]:
    try:
        content: object = json.loads(read_regular(folder / MEMORY_FILE))
    except (OSError, ValueError, RecursionError, GlassGPTError):  # absent or damaged: everything is verified again
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _remember(folder: Path, name: str, version: Version) -> dict[str, Version]:
    """Record that a file was found intact, and return what is recorded: others may verify the same dataset at the same time."""
    verified = {**_read_memory(folder), name: version}
    _write_memory(folder, verified)
    return verified


def _write_memory(folder: Path, verified: Mapping[str, Version]) -> None:
    try:
        write_atomically(folder / MEMORY_FILE, json.dumps(verified).encode())
    except OSError:  # a dataset that cannot be written to is verified at every start
        return
