"""Text, JSON-lines and Parquet files, compressed or not, as streams of documents."""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from glassgpt.data.decompress import decompressed, is_compressed, uncompressed_suffix
from glassgpt.data.documents import Document
from glassgpt.errors import DataError, MissingExtraError

TEXT_BLOCK_BYTES = 16 * 1024 * 1024
"""Size up to which a text file is one document; a larger file is cut at blank lines into documents of this size."""

TEXT_SUFFIXES = (".txt", ".md", ".text")
JSON_SUFFIXES = (".jsonl", ".ndjson")
PARQUET_SUFFIX = ".parquet"
KNOWN_SUFFIXES = (*TEXT_SUFFIXES, *JSON_SUFFIXES, PARQUET_SUFFIX)

FILE_BUFFER_BYTES = 1 << 20
PARQUET_BATCH_ROWS = 256
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class FileSource:
    """A text, JSON-lines or Parquet file, compressed or not.

    Attributes:
        path: the file.
        field: name of the JSON field or Parquet column that holds the text.
        label: name of the source in error messages.
    """

    path: Path
    field: str
    label: str

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size

    def documents(self) -> Iterator[Document]:
        """Yield the documents in file order.

        Raises:
            DataError: the file is empty, damaged, not UTF-8, or lacks the field.
        """
        empty = True
        for document in self._read():
            empty = False
            yield document
        if empty:
            raise DataError(f"{self.label} is empty: it contains no document; remove it from the sources")

    def _read(self) -> Iterator[Document]:
        suffix = uncompressed_suffix(self.path)
        if suffix == PARQUET_SUFFIX:
            return _parquet_documents(self)
        if suffix in JSON_SUFFIXES:
            return _json_documents(self)
        return _text_documents(self)


def _text_documents(source: FileSource) -> Iterator[Document]:
    with _open(source) as (stream, position):
        line = 1
        for block in _blocks(stream):
            yield Document(_decode(block, source.label, line), f"{source.label}, line {line}", position())
            line += block.count(b"\n")


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    pending = stream.read(TEXT_BLOCK_BYTES).removeprefix(BYTE_ORDER_MARK)
    while following := stream.read(TEXT_BLOCK_BYTES):
        end = _cut_position(pending)
        yield pending[:end]
        pending = pending[end:] + following
    if pending:
        yield pending


def _cut_position(block: bytes) -> int:
    """Return where to cut a full block: after its last blank line, else its last line, else its last character."""
    for separator in (b"\n\n", b"\n"):
        found = block.rfind(separator)
        if found > len(block) // 2:
            return found + len(separator)
    end = len(block) - 1
    while end > len(block) - 4 and block[end] & 0xC0 == 0x80:  # a UTF-8 continuation byte: not a character boundary
        end -= 1
    return end


def _decode(raw: bytes, label: str, first_line: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = first_line + raw.count(b"\n", 0, error.start)
        raise DataError(
            f"{label}, line {line}: invalid UTF-8 (byte 0x{raw[error.start]:02X}); "
            "convert the file with: iconv -f ENCODING -t UTF-8"
        ) from error


def _json_documents(source: FileSource) -> Iterator[Document]:
    with _open(source) as (stream, position):
        for number, line in enumerate(stream, start=1):
            if not line.isspace():
                origin = f"{source.label}, line {number}"
                fields = _parse(_decode(line.removeprefix(BYTE_ORDER_MARK), source.label, number), origin)
                yield Document(text_field(fields, source.field, origin), origin, position())


def _parse(line: str, origin: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{origin}: not valid JSON ({error}); each line must be one JSON object") from error
    if not isinstance(fields, dict):
        raise DataError(f"{origin}: expected a JSON object, got {type(fields).__name__}")
    return cast("dict[str, Any]", fields)


def text_field(fields: dict[str, Any], field: str, origin: str) -> str:
    """Return the text of one row.

    Raises:
        DataError: the field is missing or does not hold text.
    """
    if field not in fields:
        available = ", ".join(fields) or "none"
        raise DataError(f"{origin}: no field {field!r} (available: {available}); choose one with --field")
    text = fields[field]
    if not isinstance(text, str):
        raise DataError(f"{origin}: field {field!r} holds {type(text).__name__}, not text")
    return text


def _parquet_documents(source: FileSource) -> Iterator[Document]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", "reading Parquet") from error
    with _open(source) as (stream, _), _seekable(stream, source) as file:
        try:
            yield from _parquet_rows(parquet.ParquetFile(file), source)
        except arrow.ArrowException as error:
            raise DataError(f"{source.label} is damaged or not Parquet: {error}") from error


def _parquet_rows(table: Any, source: FileSource) -> Iterator[Document]:
    names: list[str] = table.schema_arrow.names
    text_field(dict.fromkeys(names, ""), source.field, source.label)
    total, row = table.metadata.num_rows, 0
    for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[source.field]):
        for text in batch.column(0).to_pylist():
            row += 1
            origin = f"{source.label}, row {row}"
            position = source.size * row // total
            yield Document(text_field({source.field: text}, source.field, origin), origin, position)


@contextmanager
def _seekable(stream: IO[bytes], source: FileSource) -> Generator[IO[bytes], None, None]:
    """Yield a seekable stream: Parquet is read from its end, so a compressed file is decompressed first."""
    if not is_compressed(source.path):
        yield stream
        return
    with tempfile.TemporaryFile() as whole:
        shutil.copyfileobj(stream, whole)
        whole.seek(0)
        yield whole


@contextmanager
def _open(source: FileSource) -> Generator[tuple[IO[bytes], Callable[[], int]], None, None]:
    """Yield the decompressed bytes of a file, and a function that returns how many bytes were read from disk."""
    try:
        with (
            source.path.open("rb", buffering=FILE_BUFFER_BYTES) as raw,
            decompressed(raw, source.path) as stream,
        ):
            yield stream, raw.tell
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{source.label} is truncated or not what its name says: {error}") from error
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise DataError(f"{source.label} cannot be read: {error.strerror}") from error
