"""Files of an index that hold documents and passages: text as bytes, tables as arrays, all of them memory-mapped.

| file | holds |
|---|---|
| `texts.bin` | the documents' texts in UTF-8, one after the other |
| `headings.bin` | the headings of passages |
| `sources.bin` | source and path of each document, as JSON |
| `documents.npy` | one record per document, see `DOCUMENT` |
| `passages.npy` | one record per passage, see `PASSAGE` |
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.documents import text_digest
from glassgpt.data.files import read_regular, regular_only
from glassgpt.retrieval.documents import SourceDocument
from glassgpt.retrieval.passages import Passage, Span

TEXTS, HEADINGS, SOURCES = "texts.bin", "headings.bin", "sources.bin"
DOCUMENTS, PASSAGES = "documents.npy", "passages.npy"
PASSAGE = np.dtype(
    [
        ("document", np.uint32), ("start", np.uint32), ("end", np.uint32), ("digest", np.uint64),
        ("text_at", np.uint64), ("text_bytes", np.uint32), ("heading_at", np.uint64), ("heading_bytes", np.uint32),
    ]
)  # fmt: skip
"""A passage: its document, its character offsets there, a hash of its text, and where text and headings are."""
DOCUMENT = np.dtype(
    [
        ("file", np.uint32), ("first_passage", np.uint32), ("passages", np.uint32),
        ("text_at", np.uint64), ("text_bytes", np.uint64), ("source_at", np.uint64), ("source_bytes", np.uint32),
    ]
)  # fmt: skip
"""A document: its file, its passages, and where its text and its source are."""


class PassageStore:
    """The documents and passages of an index.

    Args:
        folder: of the index.
    """

    def __init__(self, folder: Path) -> None:
        self.documents: NDArray[Any] = load_array(folder / DOCUMENTS)
        self.passages: NDArray[Any] = load_array(folder / PASSAGES)
        self.texts, self._headings, self._sources = (map_bytes(folder / name) for name in (TEXTS, HEADINGS, SOURCES))

    def __len__(self) -> int:
        return len(self.passages)

    def passage(self, number: int) -> Passage:
        """Return a passage."""
        row = self.passages[number]
        source, path = self.source(int(row["document"]))
        heading = _slice(self._headings, row["heading_at"], row["heading_bytes"]).decode()
        text = _slice(self.texts, row["text_at"], row["text_bytes"]).decode()
        return Passage(number, source, path, heading, int(row["start"]), int(row["end"]), text)

    def source(self, document: int) -> tuple[str, str]:
        """Return source and path of a document."""
        row = self.documents[document]
        source, path = json.loads(_slice(self._sources, row["source_at"], row["source_bytes"]))
        return source, path

    def text(self, document: int) -> str:
        """Return the whole text of a document."""
        row = self.documents[document]
        return _slice(self.texts, row["text_at"], row["text_bytes"]).decode()

    def find(self, text: str) -> int | None:
        """Return the first document that contains a text, or None."""
        place = self.texts.find(text.encode())
        if place < 0:
            return None
        return int(np.searchsorted(self.documents["text_at"], np.uint64(place), side="right")) - 1

    def spans(self, document: int) -> Iterator[Span]:
        """Yield the passages of a document as offsets."""
        row = self.documents[document]
        first = int(row["first_passage"])
        for each in self.passages[first : first + int(row["passages"])]:
            heading = _slice(self._headings, each["heading_at"], each["heading_bytes"]).decode()
            yield Span(int(each["start"]), int(each["end"]), heading)


class StoreWriter:
    """Writes documents and passages in order; complete after `finish`.

    Args:
        folder: to write into.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {name: (folder / name).open("xb") for name in (TEXTS, HEADINGS, SOURCES)}
        self._documents: list[tuple[int, ...]] = []
        self._passages: list[tuple[int, ...]] = []
        self._heading: tuple[str, int, int] = ("", 0, 0)

    @property
    def n_documents(self) -> int:
        """Documents written so far."""
        return len(self._documents)

    @property
    def n_passages(self) -> int:
        """Passages written so far."""
        return len(self._passages)

    def add(self, document: SourceDocument, spans: list[Span], file: int) -> None:
        """Write a document and its passages.

        Args:
            document: to write.
            spans: its passages, in order.
            file: number of its file.
        """
        texts = self._files[TEXTS]
        text_at = texts.tell()
        first, position = self.n_passages, 0
        for span in spans:
            texts.write(document.text[position : span.start].encode())
            content = document.text[span.start : span.end].encode()
            heading_at, heading_bytes = self._write_heading(span.heading)
            self._passages.append(
                (
                    self.n_documents,
                    span.start,
                    span.end,
                    text_digest(content),
                    texts.tell(),
                    len(content),
                    heading_at,
                    heading_bytes,
                )
            )
            texts.write(content)
            position = span.end
        texts.write(document.text[position:].encode())
        sources = self._files[SOURCES]
        source_at = sources.tell()
        sources.write(json.dumps([document.source, document.path], ensure_ascii=False).encode("utf-8", "surrogatepass"))
        self._documents.append(
            (file, first, len(spans), text_at, texts.tell() - text_at, source_at, sources.tell() - source_at)
        )

    def _write_heading(self, heading: str) -> tuple[int, int]:
        if heading != self._heading[0]:
            file, content = self._files[HEADINGS], heading.encode()
            self._heading = (heading, file.tell(), len(content))
            file.write(content)
        return self._heading[1:]

    def finish(self) -> NDArray[Any]:
        """Write the tables, close all files and return the passages' table."""
        for file in self._files.values():
            file.close()
        passages = np.array(self._passages, PASSAGE)
        np.save(self._folder / DOCUMENTS, np.array(self._documents, DOCUMENT))
        np.save(self._folder / PASSAGES, passages)
        return passages


def load_array(path: Path) -> NDArray[Any]:
    """Return an array of an index, memory-mapped; nothing in the file can be run.

    Raises:
        UnsafeFileError: it is not a regular file.
        ValueError: it is not an array.
    """
    with open(path, "rb", opener=regular_only) as file:  # checked before numpy opens it by its name
        empty = not file.read(1)
    if empty:
        raise ValueError(f"{path.name} is empty")
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))  # slices of a memmap are slow


def map_bytes(path: Path) -> mmap.mmap | bytes:
    """Return the content of a file of an index, memory-mapped.

    Raises:
        UnsafeFileError: it is not a regular file.
    """
    with open(path, "rb", opener=regular_only) as file:
        if not file.seek(0, 2):
            return b""  # an empty file cannot be mapped
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def read_text(path: Path) -> str:
    """Return a file of an index as text."""
    return read_regular(path).decode()


def _slice(content: mmap.mmap | bytes, start: Any, length: Any) -> bytes:
    return content[int(start) : int(start) + int(length)]
