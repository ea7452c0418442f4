"""Find files and read the documents in them: text, Markdown, HTML, PDF and JSON lines.

A file that cannot be used is skipped with a reason, and the others are read.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import re
import zlib
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from glassgpt.data import json_rows
from glassgpt.data.decompress import Bounded, decompressed, is_compressed, max_expanded_bytes, uncompressed_suffix
from glassgpt.data.encodings import has_nul_bytes, likely_encoding
from glassgpt.errors import DataError, WrongDataError
from glassgpt.retrieval.html_text import html_text
from glassgpt.retrieval.manifest import is_index
from glassgpt.retrieval.pdf_text import pdf_text

MAX_DOCUMENT_BYTES = 256 * 1024 * 1024
"""Largest file that is one document. JSON lines may be of any size: they are read row by row."""
TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst", ".tex")
HTML_SUFFIXES = (".html", ".htm", ".xhtml")
JSON_SUFFIXES = (".jsonl", ".ndjson")
PDF_SUFFIX = ".pdf"
KNOWN_SUFFIXES = (*TEXT_SUFFIXES, *HTML_SUFFIXES, *JSON_SUFFIXES, PDF_SUFFIX)
CHARSET = re.compile(rb"charset\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)
CHARSET_BYTES = 2048
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class SourceDocument:
    """A document to be indexed.

    Attributes:
        text: its text.
        source: its name: the field `source` of its row, or the path of its file.
        path: its file.
    """

    text: str
    source: str
    path: str

    @property
    def searched_name(self) -> str:
        """The words of its name that a search finds: not the number of a row without `source`, which says nothing."""
        return self.path if self.source.startswith(f"{self.path}:") else self.source


@dataclass(frozen=True)
class FoundFile:
    """A file to be indexed.

    Attributes:
        name: its path as the user names it.
        path: its absolute path.
    """

    name: str
    path: Path

    def size(self) -> int:
        """Return its size in bytes; 0 if it is gone."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def modified(self) -> int:
        """Return the time of its last change, in nanoseconds; 0 if it is gone."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0

    def digest(self) -> str:
        """Return the SHA-256 (hex) of its content, by which it is recognized when it is renamed.

        Raises:
            DataError: it cannot be read, or could not be indexed.
        """
        digest = hashlib.sha256()
        try:
            self.require_usable()  # a FIFO may block, a device may have no end, and reading what is too large takes long
            with self.path.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
        except OSError as error:
            raise _unreadable(error) from error
        return digest.hexdigest()

    def require_usable(self) -> None:
        """Check that it is a file, and not too large for the document that it is.

        Raises:
            DataError: it is something else, or too large.
        """
        if not self.path.is_file():
            raise DataError("it is not a regular file; name the file itself")
        if self.size() > MAX_DOCUMENT_BYTES and uncompressed_suffix(self.path) not in JSON_SUFFIXES:
            raise DataError(
                f"it has {self.size() >> 20:,} MB, and one document must have at most {MAX_DOCUMENT_BYTES >> 20:,} MB; "
                "split it, or write it as JSON lines"
            )


@dataclass(frozen=True)
class FoundFiles:
    """Files to be indexed.

    Attributes:
        files: in order, without repetition.
        ignored: number of files in folders that are of other types, by suffix.
        links: number of links that lead out of a folder, which are not followed.
        problems: place and reason for each folder or named file that is gone or cannot be read.
    """

    files: tuple[FoundFile, ...]
    ignored: dict[str, int]
    links: int = 0
    problems: tuple[tuple[str, str], ...] = ()


def find_files(roots: Sequence[tuple[str, str]], *, may_be_gone: Collection[tuple[str, str]] = ()) -> FoundFiles:
    """Return the files that are named, and of folders those of the known types.

    Args:
        roots: files and folders: the name that was given, and the absolute path.
        may_be_gone: those of them that were indexed before; that one is gone is a problem, not an error.

    Raises:
        WrongDataError: another one does not exist.
    """
    files: dict[Path, FoundFile] = {}
    ignored: dict[str, int] = {}
    problems: list[tuple[str, str]] = []
    links = 0
    for given in roots:
        name, root = given[0], Path(given[1])
        if not root.exists():
            if given not in may_be_gone:
                raise WrongDataError(
                    f"{name} does not exist; give files or folders of text, Markdown, HTML, PDF or JSON lines"
                )
            problems.append((_shown(name), "it no longer exists"))
            continue
        if not root.is_dir():
            files[root] = FoundFile(_shown(name), root)
            continue
        errors: list[OSError] = []
        for path in _walk(root, errors.append):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
                links += 1
            elif path.is_file() and uncompressed_suffix(path) in KNOWN_SUFFIXES:
                files[path] = FoundFile(_shown(str(Path(name) / path.relative_to(root))), path)
            else:
                ignored[path.suffix] = ignored.get(path.suffix, 0) + 1
        problems += [
            (_shown(str(Path(name) / Path(error.filename).relative_to(root))), str(_unreadable(error)))
            for error in errors
        ]
    return FoundFiles(tuple(files.values()), ignored, links, tuple(problems))


def _shown(name: str) -> str:
    """Return a name with a question mark for each byte that is not UTF-8; it is shown, and read by models."""
    return name.encode("utf-8", "replace").decode()


def _walk(folder: Path, on_error: Callable[[OSError], None]) -> Iterator[Path]:
    """Yield the files and linked folders in a folder, in order, without what is hidden and without indexes."""
    for place, folders, names in os.walk(folder, onerror=on_error):
        linked = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (Path(place, name) for name in sorted([*names, *linked]) if not name.startswith("."))
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not is_index(Path(place, name))
        )  # the vocabulary of an index is a text file


def read_documents(file: FoundFile, skip: Callable[[str, str], None]) -> Iterator[SourceDocument]:
    """Yield the documents of a file.

    Args:
        file: to read.
        skip: called with the place and the reason for each row of JSON that cannot be used.

    Raises:
        DataError: the file cannot be used; the message does not name it.
        MissingExtraError: a package that reading it needs is not installed.
    """
    try:
        yield from _documents(file, skip)
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> DataError:
    return DataError(f"it cannot be read: {error.strerror or error}")


def _documents(file: FoundFile, skip: Callable[[str, str], None]) -> Iterator[SourceDocument]:
    path = file.path
    suffix = uncompressed_suffix(path)
    file.require_usable()
    if suffix in JSON_SUFFIXES:
        yield from _rows(file, skip)
        return
    if suffix == PDF_SUFFIX:
        text = pdf_text(path)
    else:
        with open_file(path) as stream:
            raw = stream.read(MAX_DOCUMENT_BYTES + 1)
        if len(raw) > MAX_DOCUMENT_BYTES:
            raise DataError(
                f"it has more than {MAX_DOCUMENT_BYTES >> 20:,} MB when decompressed; split it, or write it as JSON lines"
            )
        text = html_text(_html(raw)) if suffix in HTML_SUFFIXES else decode(raw)
    if not text.strip():
        raise DataError("it contains no text")
    yield SourceDocument(text, file.name, file.name)


def decode(raw: bytes) -> str:
    """Return text from bytes: UTF-8, or the encoding that they look like.

    Raises:
        DataError: they are not text.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        name = likely_encoding(raw, error.start)
        try:
            return raw.decode(name or "utf-8")
        except UnicodeDecodeError:
            raise DataError("it is neither text in UTF-8 nor in an encoding that can be told from it") from error
    if has_nul_bytes(raw) or "\0" in text[:BLOCK_BYTES]:
        raise DataError("it is binary, not text")
    return text


def _html(raw: bytes) -> str:
    found = CHARSET.search(raw[:CHARSET_BYTES])
    name = found[1].decode() if found else "utf-8"
    if name.lower().startswith("utf"):  # a page whose charset can be read like this is not UTF-16
        return decode(raw)
    try:
        text = raw.decode(name)
        text.encode()  # some of Python's encodings give lone surrogates
    except (LookupError, ValueError):
        return decode(raw)
    return text


def _rows(file: FoundFile, skip: Callable[[str, str], None]) -> Iterator[SourceDocument]:
    with open_file(file.path) as stream:
        for number, line in enumerate(json_rows.lines(stream), start=1):
            origin = f"{file.name}, line {number}"
            if line is not None and not line.strip():
                continue
            try:
                if line is None:
                    raise DataError(json_rows.too_long())
                row = json_rows.parse_row(json_rows.decode_line(line, origin, first=number == 1), origin)
                text = json_rows.text_field(row, "text", origin)
                source = row.get("source")
                text.encode()
                if isinstance(source, str):
                    source.encode()
            except (DataError, UnicodeEncodeError) as error:
                skip(origin, str(error).removeprefix(f"{origin}: "))
                continue
            if text.strip():
                yield SourceDocument(text, source if isinstance(source, str) else f"{file.name}:{number}", file.name)


@contextmanager
def open_file(path: Path) -> Generator[IO[bytes], None, None]:
    """Yield the decompressed bytes of a file; damage that is found while they are read is a `DataError`."""
    try:
        with path.open("rb") as raw:
            stream = decompressed(raw, path)
            if is_compressed(path):
                limit = max_expanded_bytes(path.stat().st_size)
                stream = cast("IO[bytes]", io.BufferedReader(Bounded(stream, limit, "it")))
            yield stream
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"it is truncated or not what its name says: {error}") from error
    except OSError as error:
        raise _unreadable(error) from error
