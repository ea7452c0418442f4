"""`--media-folder`: the only files of the server that a request may name. Free of torch."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from glassgpt.errors import DataError, UsageError
from glassgpt.serving.content_parts import FILE_SCHEME

LOCAL_HOSTS = ("", "localhost")


@dataclass(frozen=True)
class MediaFolder:
    """A folder of pictures and sounds, from which requests may name files with `file:` URLs.

    No link is followed, neither to a file nor to a folder, so that nothing outside can be reached, whoever may write there.

    Attributes:
        root: the folder, an absolute path without links.
    """

    root: Path

    @classmethod
    def open(cls, folder: Path) -> MediaFolder:
        """Return the folder.

        Raises:
            UsageError: it does not exist, or the system cannot open files without following links.
        """
        if not folder.is_dir():
            raise UsageError(f"--media-folder {folder} is not a folder")
        if os.open not in os.supports_dir_fd or not hasattr(os, "O_NOFOLLOW"):
            raise UsageError("--media-folder needs a system that can open files without following links; leave it out")
        return cls(folder.resolve())

    def read(self, url: str, max_bytes: int) -> bytes:
        """Return the content of a file.

        Args:
            url: `file:` URL, absolute or relative to the folder.
            max_bytes: largest file that is read.

        Raises:
            DataError: it is not a regular file in the folder, or too large; the message continues after its name.
        """
        parts = self._parts(url)
        try:
            folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
            try:
                for name in parts[:-1]:
                    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                    os.close(folder)
                    folder = inner
                # Without waiting: a FIFO would have the thread wait for a writer.
                file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise DataError("there is no such file in the folder of the server (links are not followed)") from error
        try:
            return _content(file, max_bytes)
        finally:
            os.close(file)

    def _parts(self, url: str) -> list[str]:
        """Return the names from the folder to the file.

        Raises:
            DataError: the URL leads out of the folder.
        """
        place = url[len(FILE_SCHEME) :]
        if place.startswith("//"):
            host, slash, rest = place[2:].partition("/")
            if host.lower() not in LOCAL_HOSTS:
                raise DataError("it is a file of another machine, which is not read")
            place = slash + rest
        path = unquote(place)
        if path.startswith("/"):
            prefix = f"{str(self.root).rstrip('/')}/"
            path = path[len(prefix) :] if path.startswith(prefix) else ""
        parts = path.split("/")
        if "\0" in path or any(part in ("", ".", "..") for part in parts):
            raise DataError("it is not in the folder of the server whose files may be named (--media-folder)")
        return parts


def _content(file: int, max_bytes: int) -> bytes:
    """Return the content of an open file.

    Raises:
        DataError: it is not a regular file, or too large.
    """
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise DataError("it is not a regular file")
    with os.fdopen(file, "rb", closefd=False) as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise DataError(f"it has more than {max_bytes:,} bytes (--max-media-bytes)")
    return content
