"""Reading .gz, .xz and .zst files as plain bytes."""

from __future__ import annotations

import gzip
import io
import lzma
from pathlib import Path
from typing import IO, Any, cast

from glassgpt.errors import MissingExtraError

COMPRESSED_SUFFIXES = (".gz", ".xz", ".zst")
READ_BLOCK_BYTES = 1 << 16


def is_compressed(path: Path) -> bool:
    """Return whether the suffix names a supported compression."""
    return path.suffix.lower() in COMPRESSED_SUFFIXES


def uncompressed_suffix(path: Path) -> str:
    """Return the suffix in front of a compression suffix: `.jsonl` for `a.jsonl.xz`."""
    name = path.with_suffix("") if is_compressed(path) else path
    return name.suffix.lower()


def decompressed(raw: IO[bytes], path: Path) -> IO[bytes]:
    """Return a stream of the decompressed bytes of `raw`, by the suffix of `path`.

    Raises:
        MissingExtraError: the file is .zst and zstandard is not installed.
    """
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast("IO[bytes]", gzip.open(raw))
    if suffix == ".xz":
        return cast("IO[bytes]", lzma.open(raw))
    return cast("IO[bytes]", io.BufferedReader(_ZstandardReader(raw))) if suffix == ".zst" else raw


class _ZstandardReader(io.RawIOBase):
    """Decompresses Zstandard frames; unlike the library's own reader it detects truncated files."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._library = _zstandard()
        self._frame: Any = None
        self._compressed = self._output = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            self._compressed = self._compressed or self._raw.read(READ_BLOCK_BYTES)
            if not self._compressed:
                return self._end_of_file()
            self._decompress()
        count = min(len(buffer), len(self._output))
        buffer[:count], self._output = self._output[:count], self._output[count:]
        return count

    def _decompress(self) -> None:
        self._frame = self._frame or self._library.ZstdDecompressor().decompressobj()
        try:
            self._output = self._frame.decompress(self._compressed)
        except self._library.ZstdError as error:
            raise EOFError(str(error)) from error
        self._compressed = b""
        if self._frame.eof:
            self._compressed, self._frame = self._frame.unused_data, None

    def _end_of_file(self) -> int:
        if self._frame is not None:
            raise EOFError("the last Zstandard frame is incomplete")
        return 0


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtraError("zstandard", "data", "reading .zst files") from error
    return zstandard
