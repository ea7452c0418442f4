"""Cut sources into blocks: picklable sources of documents that are read alone, in any process."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from glassgpt.data.bad_rows import BadRows
from glassgpt.data.blocks.spans import BLOCK_BYTES, Span, line_spans, separated_spans, text_spans
from glassgpt.data.code.selection import CodeSource
from glassgpt.data.decompress import is_compressed
from glassgpt.data.documents import Document
from glassgpt.data.pipeline import RuledSource
from glassgpt.data.readers import FileSource
from glassgpt.data.remembered import RememberedSource
from glassgpt.data.sources import DocumentSource
from glassgpt.data.splitting import LaterSplit, SplitRule
from glassgpt.errors import DataError


@dataclass(frozen=True)
class Block:
    """A part of a source.

    Attributes:
        source: its documents.
        rule: how each is divided between the splits.
        number: of the source among all sources.
        label: name of the source in messages.
        size: bytes, for progress.
        identity: what determines the documents, as text. No two blocks with different documents have the same.
        is_range: whether lines are counted from the start of the block, not of the file.
    """

    source: DocumentSource
    rule: SplitRule
    number: int
    label: str
    size: int
    identity: str
    is_range: bool = False


def plan_blocks(sources: Sequence[RuledSource], scratch: Path) -> Iterator[Block]:
    """Yield the blocks of all sources in order.

    Args:
        sources: the sources with their rules.
        scratch: folder for documents that only this process can read, such as those of a hosted dataset.

    Raises:
        DataError: a source cannot be read.
    """
    for number, (source, rule) in enumerate(sources):
        if isinstance(rule, LaterSplit) or isinstance(source, RememberedSource):  # read by this process, in one pass
            yield Block(source, rule, number, "", source.size or 0, str(number))
        elif isinstance(source, FileSource):
            yield from _file_blocks(source, rule, number)
        elif isinstance(source, CodeSource):
            yield from _code_blocks(source, rule, number)
        else:
            yield from _stored_blocks(source, rule, number, scratch)


def _file_blocks(source: FileSource, rule: SplitRule, number: int) -> Iterator[Block]:
    alone = replace(source.options, bad_rows=BadRows(source.options.bad_rows.limit))  # each block counts its own
    block = Block(source, rule, number, source.label, 0, "")
    try:
        for span in _spans(source):
            part = replace(source, span=span, options=alone)
            yield replace(block, source=part, size=part.size, identity=_file_identity(part), is_range=span is not None)
    except OSError as error:
        raise DataError(f"{source.label} cannot be read: {error.strerror}") from error


def _spans(source: FileSource) -> Iterator[Span | None]:
    """Yield the ranges of a file, or None if it can only be read from its beginning."""
    size, separator = source.size, source.options.separator
    is_plain = not is_compressed(source.path) and not source.options.encoding
    if not is_plain or source.format not in ("text", "lines") or size <= BLOCK_BYTES:
        yield None
        return
    with source.path.open("rb") as file:
        if source.format == "lines":
            yield from line_spans(file, size, skips=source.options.bad_rows.limit > 0)
        elif separator:
            yield from separated_spans(file, size, separator.encode())
        else:
            yield from text_spans(file, size)


def _file_identity(source: FileSource) -> str:
    status = source.path.stat()
    options = source.options
    reading = (source.format, source.field, source.span, options.encoding, options.separator)
    return json.dumps([str(source.path.absolute()), source.label, status.st_size, status.st_mtime_ns, *reading])


def _code_blocks(source: CodeSource, rule: SplitRule, number: int) -> Iterator[Block]:
    files, first, size = source.files, 0, 0
    for end, file in enumerate(files, start=1):
        size += file.path.stat().st_size
        if size >= BLOCK_BYTES or end == len(files):
            part = CodeSource(files[first:end])
            versions = [(str(each.path.absolute()), each.name, each.path.stat().st_mtime_ns) for each in part.files]
            yield Block(part, rule, number, "code", size, json.dumps(versions))
            first, size = end, 0


@dataclass(frozen=True)
class StoredSource:
    """Documents that were stored as lines of JSON.

    Attributes:
        path: the file.
        size: value that `Document.position` reaches at the end.
    """

    path: Path
    size: int

    def documents(self) -> Iterator[Document]:
        """Yield the documents."""
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                yield Document(*json.loads(line))


def _stored_blocks(source: DocumentSource, rule: SplitRule, number: int, scratch: Path) -> Iterator[Block]:
    scratch.mkdir(parents=True, exist_ok=True)
    documents, before, at = source.documents(), 0, 0
    while True:
        path = scratch / f"documents-{number}-{at}.jsonl"
        size, last = _store(documents, path, before)
        if not size:
            return
        # The scratch folder has a new name each time: no later try takes these documents for its own.
        yield Block(StoredSource(path, last - before), rule, number, "", last - before, str(path))
        before, at = last, at + 1


def _store(documents: Iterator[Document], path: Path, before: int) -> tuple[int, int]:
    """Store the next documents; return the size of the file and the position after them."""
    position = before
    with path.open("w", encoding="utf-8") as file:
        for document in documents:
            position = document.position
            row = dataclasses.astuple(replace(document, position=position - before))
            file.write(json.dumps(row) + "\n")
            if file.tell() >= BLOCK_BYTES:
                break
        return file.tell(), position
