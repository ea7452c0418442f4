"""Read the media of documents, ahead of what is written and in several threads, and store them."""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from glassgpt.data.bad_rows import BadRows
from glassgpt.errors import DataError
from glassgpt.multimodal.audio_files import MAX_SECONDS, decode_audio
from glassgpt.multimodal.documents import Document, StoredMedium, Turn
from glassgpt.multimodal.image_files import MAX_PIXELS, Fit, decode_image
from glassgpt.multimodal.media import Geometry, MediaItem
from glassgpt.multimodal.media_store import MediaWriter
from glassgpt.multimodal.sources import MediaSource, SourceDocument

MAX_FILE_BYTES = 256 << 20
"""Bytes of a file that may be read."""
AHEAD = 64
"""Documents that are decoded ahead."""


@dataclass(frozen=True)
class DecodeOptions:
    """Settings of decoding.

    Attributes:
        geometry: of the dataset.
        fit: how pictures become square.
        max_pixels: pictures with more pixels are refused.
        max_seconds: longer sounds are refused.
        workers: number of threads.
    """

    geometry: Geometry
    fit: Fit = "pad"
    max_pixels: int = MAX_PIXELS
    max_seconds: float = MAX_SECONDS
    workers: int = 1


@dataclass
class Remarks:
    """Remarks on the media that were read.

    Attributes:
        counts: number of media by remark: "names" of files in their text, "silent" sounds.
        examples: the first medium of each.
    """

    counts: Counter[str] = field(default_factory=Counter[str])
    examples: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, kind: str, example: str) -> None:
        """Count a remark."""
        self.counts[kind] += 1
        self.examples.setdefault(kind, example)

    def texts(self) -> Iterator[str]:
        """Yield each remark as a text."""
        first = self.examples
        if count := self.counts["names"]:
            yield (
                f"{count:,} texts contain the name of their file, which nobody can see in a picture or hear in a sound; remove "
                f"it; the first one: {first['names']}"
            )
        if count := self.counts["silent"]:
            yield f"{count:,} sounds are silent; the first one: {first['silent']}"


def load_medium(source: MediaSource, options: DecodeOptions) -> MediaItem:
    """Return a medium, decoded as the dataset has it.

    Raises:
        DataError: it cannot be read or decoded, or is too large.
    """
    raw = source.raw if source.path is None else _read_file(source.path)
    if source.modality == "image":
        return MediaItem("image", decode_image(raw, options.geometry.image_size, options.fit, options.max_pixels))
    return MediaItem("audio", decode_audio(raw, options.geometry.rate, options.max_seconds))


def store_documents(
    documents: Iterable[SourceDocument], media: MediaWriter, options: DecodeOptions, bad_rows: BadRows, remarks: Remarks
) -> Iterator[Document]:
    """Yield documents in order, whose media have been stored.

    Args:
        documents: the documents.
        media: stores the media.
        options: how they are decoded.
        bad_rows: receives the documents with a medium that cannot be decoded.
        remarks: receives what there is to say of the media.

    Raises:
        DataError: there are too many bad documents.
    """
    with warnings.catch_warnings():  # around the threads, which share the filters
        warnings.simplefilter("ignore")  # Pillow warns of oddities in files that it reads all the same
        stored: dict[MediaSource, StoredMedium] = {}
        for document, items in _decoded(documents, options, bad_rows, stored):
            yield _stored(document, items, media, options.geometry, remarks, stored)


def _decoded(
    documents: Iterable[SourceDocument],
    options: DecodeOptions,
    bad_rows: BadRows,
    stored: Mapping[MediaSource, StoredMedium],
) -> Iterator[tuple[SourceDocument, list[MediaItem | StoredMedium]]]:
    """Yield documents with their media in order, decoded unless they are stored already."""
    waiting: deque[tuple[SourceDocument, Callable[[], list[MediaItem | StoredMedium]]]] = deque()
    pool = ThreadPoolExecutor(options.workers)

    def done() -> Iterator[tuple[SourceDocument, list[MediaItem | StoredMedium]]]:
        document, load = waiting.popleft()
        try:
            yield document, load()
        except DataError as error:
            bad_rows.skip(document.origin, error)

    try:
        for document in documents:
            load = partial(_load_all, document, options, stored)
            is_stored = all(source in stored for source in document.media)
            waiting.append((document, load if is_stored else pool.submit(load).result))
            if len(waiting) > AHEAD:
                yield from done()
        while waiting:
            yield from done()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _load_all(
    document: SourceDocument, options: DecodeOptions, stored: Mapping[MediaSource, StoredMedium]
) -> list[MediaItem | StoredMedium]:
    items: list[MediaItem | StoredMedium] = []
    for source in document.media:
        try:
            items.append(stored.get(source) or load_medium(source, options))
        except DataError as error:
            where = "" if source.label == document.origin else f"{document.origin}: "
            raise DataError(f"{where}{source.label}: {error}") from error
    return items


def _stored(
    document: SourceDocument,
    items: Sequence[MediaItem | StoredMedium],
    media: MediaWriter,
    geometry: Geometry,
    remarks: Remarks,
    stored: dict[MediaSource, StoredMedium],
) -> Document:
    """Return the document with its media stored, and remember those that are files."""
    left = iter(items)
    turns: list[Turn] = []
    for turn in document.turns:
        parts: list[str | StoredMedium] = []
        for part in turn.parts:
            if isinstance(part, str):
                parts.append(part)
            elif isinstance(item := next(left), StoredMedium):
                parts.append(item)
            else:
                origin = str(part.path) if part.path else document.origin
                medium = StoredMedium(item.modality, media.add(item, origin), geometry.positions(item))
                parts.append(medium)
                if part.path:
                    stored[part] = medium
                if item.modality == "audio" and not np.any(item.data):
                    remarks.add("silent", origin)
        turns.append(Turn(tuple(parts), turn.learned, turn.role))
    _remark_names(document, remarks)
    return Document(tuple(turns), document.origin)


def _remark_names(document: SourceDocument, remarks: Remarks) -> None:
    """Note it if a learned text contains the name of a file; one without digits may be the word for what is to be seen."""
    names = [source.path for source in document.media if source.path is not None]
    texts = [part for turn in document.turns if turn.learned for part in turn.parts if isinstance(part, str)]
    for path in names:
        is_number_of_file = re.search(r"[A-Za-z_-]", path.stem) and re.search(r"\d", path.stem)
        wanted = path.stem if is_number_of_file else path.name
        if any(wanted in text for text in texts):
            remarks.add("names", document.origin)
            return


def _read_file(path: Path) -> bytes:
    """Return the content of a file, which must be a regular one: a FIFO or a device could block or have no end."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with io.open(file, "rb") as stream:  # noqa: UP020 - `open` of a descriptor
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise DataError("it is not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise DataError(f"it has {status.st_size:,} bytes, more than the {MAX_FILE_BYTES:,} that are read")
            return stream.read(MAX_FILE_BYTES)
    except (OSError, ValueError) as error:  # ValueError of a name with a null character
        raise DataError(f"it cannot be opened: {getattr(error, 'strerror', None) or error}") from error
