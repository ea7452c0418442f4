"""A dataset on an object store, as a folder of this machine whose shards arrive when they are needed.

The folder has the small files at once: the summary, the tokenizer, and the 128-byte header of every shard. The shards
themselves are copied by the thread that verifies the dataset (`data.verification`), the validation split first. A
window of a shard that is not there yet is read from the store by its range of bytes, so that training starts before the
first shard is complete, and in the same order as on a local copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.files import read_regular, write_atomically
from glassgpt.data.remote.priority import WINDOWS
from glassgpt.data.remote.store import ObjectStore, WrongURLError
from glassgpt.data.shard_format import DTYPES, HEADER, ShardHeader, map_tokens, verify_checksum
from glassgpt.data.summary import SUMMARY_FILE, DatasetSummary
from glassgpt.data.threads import map_waiting
from glassgpt.errors import DataError

REMOTE_FILE = "remote.json"
"""Marks a folder as the copy of a dataset; holds its URL and the headers and sizes of the shards."""
CACHE_VARIABLE = "GLASSGPT_CACHE"
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def cache_folder(kind: str, url: str) -> Path:
    """Return the folder of this machine for a copy of what is at a URL.

    It is in `GLASSGPT_CACHE`, or else in `glassgpt` of the user's cache. Nothing is deleted there: a dataset takes as much
    as on the store.
    """
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    root = Path(os.environ.get(CACHE_VARIABLE) or Path(base) / "glassgpt")
    return root / kind / f"{url.rpartition('/')[2]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


@cache
def mirror(url: str) -> Path:
    """Copy the small files of a dataset, and return the folder; once per process, so that it stays the same while a run lasts.

    Raises:
        RemoteError: the store cannot be read, or there is no dataset.
    """
    store, folder = ObjectStore(url), cache_folder("data", url)
    sizes = {name: size for name, size in store.sizes().items() if SAFE_NAME.fullmatch(name)}
    if SUMMARY_FILE not in sizes:
        raise WrongURLError(f"there is no dataset at {url}: it lacks {SUMMARY_FILE}")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / SUMMARY_FILE, store.read(SUMMARY_FILE))
    info = DatasetSummary.read(folder / SUMMARY_FILE)
    shards = [*info.train.shards, *info.validation.shards]
    if missing := [name for name in shards if name not in sizes]:
        raise DataError(f"{url} lacks the shard {missing[0]}; copy the whole dataset there")
    headers = dict(zip(shards, map_waiting(partial(store.read, start=0, end=HEADER.size), shards), strict=True))
    others = [name for name in sizes if name not in shards and name != SUMMARY_FILE]

    def copy(name: str) -> None:
        write_atomically(folder / name, store.read(name))

    map_waiting(copy, others)
    for name, header in headers.items():
        _drop_if_changed(folder / name, header)
    record = {"url": url, "shards": {name: [sizes[name], headers[name].hex()] for name in shards}}
    write_atomically(folder / REMOTE_FILE, json.dumps(record).encode())
    return folder


def _drop_if_changed(path: Path, header: bytes) -> None:
    """Delete the copy of a shard that was prepared again since: its header has the checksum of its tokens."""
    if path.is_file():
        with path.open("rb") as file:
            is_same = file.read(HEADER.size) == header
        if not is_same:
            path.unlink()


class RemoteShards:
    """The shards of a copied dataset.

    Args:
        folder: the copy, with a `remote.json`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            record: dict[str, Any] = json.loads(read_regular(folder / REMOTE_FILE))
            self.url = str(record["url"])
            self._shards = {str(n): (int(size), bytes.fromhex(raw)) for n, (size, raw) in record["shards"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / REMOTE_FILE} is damaged: {error}; delete that folder") from error

    @cached_property
    def store(self) -> ObjectStore:
        """The object store."""
        return ObjectStore(self.url)

    def header(self, name: str) -> ShardHeader:
        """Return the header of a shard."""
        if name not in self._shards:
            raise DataError(f"{self._folder / REMOTE_FILE} does not list {name}; delete that folder")
        size, raw = self._shards[name]
        return ShardHeader.unpack(Path(f"{self.url}/{name}"), raw, size)

    def is_here(self, name: str) -> bool:
        """Return whether a shard was copied completely, and verified."""
        return (self._folder / name).is_file()

    def missing(self) -> list[str]:
        """Return the names of the shards that were not copied yet."""
        return [name for name in self._shards if not self.is_here(name)]

    def fetch(self, name: str, is_stopped: Callable[[], bool] = bool) -> bool:
        """Copy a shard if it is missing, and compare it with its checksum; return False if it was stopped.

        Raises:
            DataError: it is damaged.
            RemoteError: the store cannot be read.
        """
        if self.is_here(name):
            return True
        header, part = self.header(name), self._folder / f".{name}.{os.getpid()}.part"
        try:
            if not self.store.download(name, part, self._shards[name][0], is_stopped):
                return False
            try:
                verify_checksum(part, header)
            except DataError as error:
                raise DataError(
                    f"{self.url}/{name} is damaged: its checksum does not match; copy it there again"
                ) from error
            os.replace(part, self._folder / name)
        finally:
            part.unlink(missing_ok=True)
        return True

    def array(self, name: str, header: ShardHeader) -> Any:
        """Return the `RemoteArray` of a shard, which `TokenArray` reads like any other."""
        return RemoteArray(self, name, self._folder / name, header)


class RemoteArray:
    """The tokens of a shard: from this machine once it was copied, until then from the store, range by range.

    Args:
        shards: where it is.
        name: of the shard.
        path: of its copy.
        header: its header.
    """

    def __init__(self, shards: RemoteShards, name: str, path: Path, header: ShardHeader) -> None:
        self._shards, self._name, self._path, self._header = shards, name, path, header
        self._dtype = DTYPES[header.bytes_per_token]
        self._mapped: NDArray[Any] | None = None

    def __len__(self) -> int:
        return self._header.tokens

    def __getitem__(self, part: slice) -> NDArray[Any]:
        start, stop, _ = part.indices(len(self))
        if self._mapped is None and self._path.is_file():
            self._mapped = map_tokens(self._path, self._header)
        if self._mapped is not None:
            return self._mapped[start:stop]
        size = self._dtype.itemsize
        first, end = HEADER.size + start * size, HEADER.size + max(start, stop) * size
        with WINDOWS.one_more():
            return np.frombuffer(self._shards.store.read(self._name, first, end), self._dtype)
