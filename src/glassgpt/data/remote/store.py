"""A folder on an object store: read, written and listed through fsspec, with repeated attempts. Extra: cloud.

Credentials are found by the libraries themselves (environment, profiles, instance roles); nothing here reads or prints them.
"""

from __future__ import annotations

import importlib
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from glassgpt.data.remote.priority import BlockSizes
from glassgpt.errors import GlassGPTError, MissingExtraError, UsageError

T = TypeVar("T")

LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub", "file": "fsspec", "memory": "fsspec"}
"""The kinds of URL, and the package that each needs besides fsspec."""
URL = re.compile(rf"({'|'.join(LIBRARIES)}):/+([^/].*)")
ATTEMPTS, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 6, 0.2, 10.0
NOT_REPEATED = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError, ValueError, ImportError)


class RemoteError(GlassGPTError):
    """An object store that cannot be reached, or refuses."""


class WrongURLError(RemoteError, UsageError):
    """A URL, given by the user, where there is nothing or something else."""


def remote_url(given: str | Path) -> str | None:
    """Return the URL of a folder on an object store in its usual form, or None for a path of this machine.

    `pathlib` merges slashes, so `s3:/bucket/folder` is the same as `s3://bucket/folder`.

    Raises:
        UsageError: the URL holds credentials.
    """
    match = URL.fullmatch(str(given))
    if match is None:
        return None
    kind, rest = match[1], match[2].rstrip("/")
    if "@" in rest.split("/")[0] and kind != "hf":
        raise UsageError(f"a {kind} URL must not hold credentials; {LIBRARIES[kind]} finds them in the environment")
    return f"{kind}:///{rest}" if kind == "file" else f"{kind}://{rest}"


class ObjectStore:
    """A folder on an object store.

    Args:
        url: of the folder; see `remote_url`.

    Raises:
        MissingExtraError: the package for this kind of URL is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url, self._kind = url, url.partition(":")[0]
        self._blocks = BlockSizes()
        for package in ("fsspec", LIBRARIES[self._kind]):
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise MissingExtraError(package, "cloud", f"{self._kind}://") from error

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system and the path of the folder in it."""
        from fsspec.core import url_to_fs

        def connect() -> tuple[Any, str]:
            return url_to_fs(self.url, use_listings_cache=False)

        return self._repeated("", connect)

    def sizes(self) -> dict[str, int]:
        """Return the sizes of all files in the folder and below, by name relative to it; empty if it does not exist."""
        files, root = self._opened
        prefix = root.rstrip("/") + "/"

        def find() -> dict[str, Any]:
            try:
                return files.find(root, detail=True)
            except FileNotFoundError:
                return {}

        found = self._repeated("", find)
        named = {path[path.index(prefix) + len(prefix) :]: info for path, info in found.items() if prefix in path}
        return {name: int(info["size"] or 0) for name, info in named.items()}

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes from `start` to `end` of a file.

        Raises:
            RemoteError: it does not exist, or cannot be read after several attempts.
        """
        files, root = self._opened

        def cat() -> bytes:
            content = files.cat_file(f"{root}/{name}", start=start, end=end)
            if start is not None and end is not None and len(content) != end - start:
                raise ConnectionError(f"the connection ended after {len(content)} of {end - start} bytes")
            return content

        return self._repeated(name, cat)

    def download(self, name: str, path: Path, size: int, is_stopped: Callable[[], bool] = lambda: False) -> bool:
        """Copy a file to a new file, in blocks between which windows go first; return False if it was stopped."""
        with path.open("wb") as file:
            while (start := file.tell()) < size:
                if is_stopped():
                    return False
                file.write(self._blocks.read(size - start, lambda n, at=start: self.read(name, at, at + n)))
        return True

    def upload(self, path: Path, name: str) -> None:
        """Copy a file to the store; readers see the old content or the new one."""
        files, root = self._opened
        self._repeated(name, lambda: self._put(files, path, f"{root}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file; see `upload`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "content")
            path.write_bytes(content)
            self.upload(path, name)

    def _put(self, files: Any, path: Path, target: str) -> None:
        if self._kind == "file":
            files.makedirs(target.rpartition("/")[0], exist_ok=True)
        files.put_file(str(path), target)

    def delete(self, names: Sequence[str]) -> None:
        """Delete files."""
        files, root = self._opened
        for name in names:
            self._repeated(name, lambda name=name: files.rm_file(f"{root}/{name}"))

    def _repeated(self, name: str, work: Callable[[], T]) -> T:
        """Return what `work` returns for a file, trying again after a pause if it fails.

        Raises:
            RemoteError: it failed at every attempt, or in a way that another attempt does not change.
        """
        pause, left = FIRST_PAUSE_SECONDS, ATTEMPTS
        while True:
            try:
                return work()
            except Exception as error:
                left -= 1
                if not left or isinstance(error, NOT_REPEATED):
                    where = f"{self.url}/{name}" if name else self.url
                    raise RemoteError(f"no access to {where}: {_reason(error)}") from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _reason(error: Exception) -> str:
    """Return one line about an error, without the query of a URL, which may hold a signature."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    text = re.sub(r"(https?://[^\s?]+)\?\S+", r"\1", text)[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
