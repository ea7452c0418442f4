"""Downloading a URL that the user named."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlparse

from glassgpt.data.observer import PrepareObserver
from glassgpt.errors import DataError

BLOCK_BYTES = 1 << 16
TIMEOUT_SECONDS = 30


def download(url: str, folder: Path, observer: PrepareObserver) -> Path:
    """Download `url` into `folder` under its own file name.

    Raises:
        DataError: the server cannot be reached, returns an error, or the connection breaks.
    """
    import http.client  # with the library of TLS, which local files do not need
    import urllib.error
    import urllib.request

    name = PurePosixPath(urlparse(url).path).name
    path = folder / (name if name not in ("", "..") else "download.txt")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, path.open("wb") as file:
            _copy(response, file, url, observer)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(f"cannot download {url}: {error}; download it yourself and name the file") from error
    return path


def _copy(response: Any, file: IO[bytes], url: str, observer: PrepareObserver) -> None:
    length = response.headers.get("Content-Length")
    total = int(length) if length else None
    with observer.progress(f"downloading {url}", total) as advance:
        while block := response.read(BLOCK_BYTES):
            file.write(block)
            advance(len(block))
    if total is not None and file.tell() != total:
        raise ConnectionError(f"connection closed after {file.tell()} of {total} bytes")
