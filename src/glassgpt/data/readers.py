"""Text, JSON-lines and Parquet files, compressed or not, as streams of documents."""

from __future__ import annotations

import io
import shlex
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import IO, Any, Literal, cast

from glassgpt.data import json_rows, text_cuts
from glassgpt.data.bad_rows import BadRows
from glassgpt.data.decompress import (
    DAMAGED,
    expansion_problem,
    is_compressed,
    max_expanded_bytes,
    opened,
    uncompressed_suffix,
)
from glassgpt.data.documents import Document
from glassgpt.data.encodings import Transcoder, has_nul_bytes, likely_encoding
from glassgpt.data.json_rows import text_field
from glassgpt.data.text_cuts import BYTE_ORDER_MARK, FILE_BUFFER_BYTES, ByteRange, counted, separated_texts, text_blocks
from glassgpt.errors import DataError, MissingExtraError

TEXT_SUFFIXES = (".txt", ".md", ".text")
JSON_SUFFIXES = (".jsonl", ".ndjson")
PARQUET_SUFFIX = ".parquet"
KNOWN_SUFFIXES = (*TEXT_SUFFIXES, *JSON_SUFFIXES, PARQUET_SUFFIX)
AMBIGUOUS_SUFFIX = ".json"
"""The suffix of JSON lines, of arrays and of single values alike; the content decides."""
Layout = Literal["text", "lines", "values", "parquet"]

PARQUET_BATCH_ROWS = 256


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading the files of all sources.

    Attributes:
        encoding: encoding of text and JSON; None means UTF-8.
        separator: text between two documents of a text file, which is left out; None means one document per file.
        bad_rows: counts the rows that are skipped, and ends the reading where they are too many.
    """

    encoding: str | None = None
    separator: str | None = None
    bad_rows: BadRows = dataclass_field(default_factory=BadRows)


@dataclass(frozen=True)
class FileSource:
    """A text, JSON or Parquet file, compressed or not.

    Attributes:
        path: the file.
        field: name of the JSON field or Parquet column that holds the text.
        label: name of the source in error messages.
        options: how it is read.
        layout: what the file holds; None goes by its name.
        span: bytes of the file to read, up to but not including the second; None reads all of it.
    """

    path: Path
    field: str
    label: str
    options: ReadOptions = dataclass_field(default_factory=ReadOptions)
    layout: Layout | None = None
    span: tuple[int, int] | None = None

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.span[1] - self.span[0] if self.span else self.path.stat().st_size

    @property
    def format(self) -> Layout:
        """The layout of the file."""
        return self.layout or _layout_by_name(self.path)

    def documents(self) -> Iterator[Document]:
        """Yield the documents in file order.

        Raises:
            DataError: the file is empty, damaged, not UTF-8, or lacks the field.
        """
        empty = True
        for document in self._read():
            empty = False
            yield document
        if empty and not self.span and not len(self.options.bad_rows):
            raise DataError(no_document(self.label))

    def _read(self) -> Iterator[Document]:
        readers = {
            "text": _text_documents,
            "lines": _json_documents,
            "values": _json_value_documents,
            "parquet": _parquet_documents,
        }
        return readers[self.format](self)

    def json_layout(self, *, strict: bool) -> Layout | None:
        """Return how a file that may hold rows of JSON is laid out, by its first bytes; None if it is not JSON.

        Args:
            strict: whether the first row must have the field that holds the text.
        """
        with _open(self) as (stream, _):
            found = json_rows.layout(stream.read(json_rows.HEAD_BYTES), self.field, strict=strict)
        return cast("Layout | None", found)


def no_document(label: str) -> str:
    """Return the message for a source without any document."""
    return f"{label} is empty: it contains no document; remove it from the sources"


def _layout_by_name(path: Path) -> Layout:
    suffix = uncompressed_suffix(path)
    if suffix == PARQUET_SUFFIX:
        return "parquet"
    return "lines" if suffix in JSON_SUFFIXES else "text"


def _text_documents(source: FileSource) -> Iterator[Document]:
    separator = source.options.separator
    with _open(source) as (stream, position):
        line = 1
        if separator:
            blocks = separated_texts(_after_mark(stream, source), separator.encode())
        elif source.span:  # a document of its own, see `glassgpt.data.blocks.spans`
            blocks = iter([counted(stream.read())])
        else:
            blocks = text_blocks(stream)
        for block, n_lines in blocks:
            yield Document(_decode(block, source, line), f"{source.label}, line {line}", position())
            line += n_lines


def _after_mark(stream: IO[bytes], source: FileSource) -> Iterator[bytes]:
    """Yield the bytes of a stream without the byte-order mark at the start of its file."""
    at_start = not source.span or source.span[0] == 0
    while block := stream.read(text_cuts.TEXT_BLOCK_BYTES):
        yield block.removeprefix(BYTE_ORDER_MARK) if at_start else block
        at_start = False


def _decode(raw: bytes, source: FileSource, first_line: int) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = first_line + raw.count(b"\n", 0, error.start)
        problem = f"invalid UTF-8 (byte 0x{raw[error.start]:02X})"
        raise DataError(f"{source.label}, line {line}: {problem}; {_conversion(source, raw, error.start)}") from error
    if has_nul_bytes(raw):
        raise DataError(f"{source.label}, line {first_line}: not UTF-8 (NUL bytes); {_conversion(source, raw, 0)}")
    return text


def _conversion(source: FileSource, raw: bytes, position: int) -> str:
    name = likely_encoding(raw, position)
    file = shlex.quote(str(source.path))
    command = f"iconv -f {name or 'ENCODING'} -t UTF-8 {file}"
    if name is None:
        return f"name its encoding with --encoding, or convert the file with: {command}"
    return f"it looks like {name}: add --encoding {name.lower()}, or convert the file with: {command}"


def _json_documents(source: FileSource) -> Iterator[Document]:
    with _open(source) as (stream, position):
        for number, line in enumerate(json_rows.lines(stream), start=1):
            if line is None or not line.isspace():
                yield from _row(source, f"{source.label}, line {number}", line, number, position())


def _row(source: FileSource, origin: str, line: bytes | None, number: int, position: int) -> Iterator[Document]:
    try:
        if line is None:
            raise DataError(f"{origin}: {json_rows.too_long()}")
        row = json_rows.parse_row(_decode(line.removeprefix(BYTE_ORDER_MARK), source, number), origin)
        documents = _documents_of(text_field(row, source.field, origin), origin, position)
    except DataError as error:
        source.options.bad_rows.skip(origin, error)
        return
    yield from documents


def _json_value_documents(source: FileSource) -> Iterator[Document]:
    with _open(source) as (stream, position):
        try:
            for number, value in enumerate(json_rows.values(stream, source.label), start=1):
                yield from _value(source, value, f"{source.label}, value {number}", position())
        except UnicodeDecodeError as error:
            advice = _conversion(source, error.object, error.start)
            raise DataError(
                f"{source.label}: invalid UTF-8 (byte 0x{error.object[error.start]:02X}); {advice}"
            ) from error


def _value(source: FileSource, value: Any, origin: str, position: int) -> Iterator[Document]:
    try:
        if not isinstance(value, (str, dict)):
            raise DataError(f"{origin}: expected a JSON object or a text, got {type(value).__name__}")
        row = {source.field: value} if isinstance(value, str) else cast("dict[str, Any]", value)
        documents = _documents_of(text_field(row, source.field, origin), origin, position)
    except DataError as error:
        source.options.bad_rows.skip(origin, error)
        return
    yield from documents


def _documents_of(text: str, origin: str, position: int) -> Iterable[Document]:
    """Return the text of a row, cut like a text file if it is as large as one.

    Raises:
        DataError: it contains a lone surrogate.
    """
    try:
        if len(text) <= text_cuts.TEXT_BLOCK_BYTES:
            document = Document(text, origin, position)
            _ = document.digest  # raises the error, without converting the text once more than the digest needs
            return [document]
        stream = io.BytesIO(text.encode())
    except UnicodeEncodeError as error:
        raise json_rows.surrogate_error(text, error, origin) from error
    return (Document(block.decode(), origin, position) for block, _ in text_blocks(stream))


def _parquet_documents(source: FileSource) -> Iterator[Document]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", "reading Parquet") from error
    with _open(source) as (stream, _), _seekable(stream, source) as file:
        try:
            columns: list[str] = parquet.ParquetFile(file).schema_arrow.names
            text_field(dict.fromkeys(columns, ""), source.field, source.label)
            # As a dictionary, a text that is repeated a million times is in memory once.
            table = parquet.ParquetFile(file, read_dictionary=[source.field], buffer_size=FILE_BUFFER_BYTES)
            yield from _parquet_rows(table, source)
        except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:  # OSError: damaged compressed pages
            if isinstance(error, OSError) and error.errno:
                raise
            raise DataError(f"{source.label} is damaged or not Parquet: {error}") from error


def _parquet_rows(table: Any, source: FileSource) -> Iterator[Document]:
    total, row = table.metadata.num_rows, 0
    expanded, limit = 0, max_expanded_bytes(source.size)
    _check_expansion(source, _stored_bytes(table, source.field), limit)
    for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[source.field], use_threads=False):
        for value in batch.column(0):
            row += 1
            origin = f"{source.label}, row {row}"
            text = _parquet_text(value, source, origin)
            if text is not None:
                expanded += len(text)
                _check_expansion(source, expanded, limit)
                yield from _documents_of(text, origin, source.size * row // total)


def _parquet_text(value: Any, source: FileSource, origin: str) -> str | None:
    try:
        try:
            content = value.as_py()
        except UnicodeDecodeError as error:
            raise DataError(f"{origin}: invalid UTF-8 (byte 0x{error.object[error.start]:02X})") from error
        return text_field({source.field: content}, source.field, origin)
    except DataError as error:
        source.options.bad_rows.skip(origin, error)
        return None


def _stored_bytes(table: Any, column: str) -> int:
    """Return the size of a column after decompression, as the file itself gives it."""
    groups = (table.metadata.row_group(number) for number in range(table.metadata.num_row_groups))
    chunks = (group.column(number) for group in groups for number in range(group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)


def _check_expansion(source: FileSource, expanded: int, limit: int) -> None:
    if expanded > limit:
        raise DataError(expansion_problem(source.label, limit))


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
    """Yield the decompressed bytes of a file, as UTF-8, and a function that returns how many were read from disk."""
    try:
        with ExitStack() as stack:
            if source.span:
                raw = stack.enter_context(source.path.open("rb", buffering=FILE_BUFFER_BYTES))
                stream = cast("IO[bytes]", io.BufferedReader(ByteRange(raw, *source.span), FILE_BUFFER_BYTES))
                yield stream, lambda: raw.tell() - source.span[0] if source.span else 0
                return
            stream, raw = opened(source.path, stack, source.label, FILE_BUFFER_BYTES)
            if source.options.encoding and source.format != "parquet":
                stream = cast("IO[bytes]", io.BufferedReader(Transcoder(stream, source.options.encoding)))
            yield stream, raw.tell
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source.label} is not {source.options.encoding}: {error.reason} (byte 0x{error.object[error.start]:02X}); "
            "give its true --encoding"
        ) from error
    except DAMAGED as error:
        raise DataError(f"{source.label} is truncated or not what its name says: {error}") from error
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise DataError(f"{source.label} cannot be read: {error.strerror}") from error
