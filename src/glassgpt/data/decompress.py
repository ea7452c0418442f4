"""Reading .gz, .xz and .zst files as plain bytes."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

from glassgpt.errors import DataError, MissingExtraError

COMPRESSED_SUFFIXES = (".gz", ".xz", ".zst")
DAMAGED = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)
"""Errors of a compressed file that is truncated or not what its name says."""
READ_BLOCK_BYTES = 1 << 11
"""Bytes of a .zst file decompressed at once: at most 32,000 times as many bytes come out of them."""
MAX_EXPANSION = 200
"""Times its size that a compressed file may expand to, beyond `ALWAYS_EXPANDED_BYTES`. Text reaches 3 to 20."""
ALWAYS_EXPANDED_BYTES = 64 * 1024 * 1024


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


def max_expanded_bytes(size: int) -> int:
    """Return the number of bytes that a file of this size may expand to."""
    return max(ALWAYS_EXPANDED_BYTES, MAX_EXPANSION * size)


def expansion_problem(label: str, limit: int) -> str:
    """Return the message for a file that expands to more than `limit` bytes, and what to do."""
    return (
        f"{label} expands to more than {limit >> 20:,} MB, {MAX_EXPANSION} times its size or more: it looks like a "
        "decompression bomb; if it is not, decompress it first"
    )


def opened(
    path: Path, stack: ExitStack, label: str, buffer_bytes: int = io.DEFAULT_BUFFER_SIZE
) -> tuple[IO[bytes], IO[bytes]]:
    """Open a file that may be compressed.

    Args:
        path: the file.
        stack: closes what is opened.
        label: name of the file, for the error message.
        buffer_bytes: size of the buffer.

    Returns:
        Its decompressed bytes, which end with a `DataError` if it looks like a decompression bomb, and the file itself.
    """
    raw = stack.enter_context(path.open("rb", buffering=buffer_bytes))
    if not is_compressed(path):
        return raw, raw
    stream = stack.enter_context(decompressed(raw, path))
    limit = max_expanded_bytes(path.stat().st_size)
    return cast("IO[bytes]", io.BufferedReader(Bounded(stream, limit, label), buffer_bytes)), raw


class Bounded(io.RawIOBase):
    """A stream that must not be longer than a limit.

    Args:
        stream: the decompressed bytes.
        limit: maximum number of bytes.
        label: name of the source, for the error message.
    """

    def __init__(self, stream: IO[bytes], limit: int, label: str) -> None:
        self._stream, self._limit, self._label = stream, limit, label
        self._bytes = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer and return the number of bytes.

        Raises:
            DataError: the stream is longer than the limit.
        """
        block = self._stream.read(len(buffer))
        self._bytes += len(block)
        if self._bytes > self._limit:
            raise DataError(expansion_problem(self._label, self._limit))
        buffer[: len(block)] = block
        return len(block)


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
