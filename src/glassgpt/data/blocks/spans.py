"""Ranges of bytes into which a plain file can be cut so that each is read by itself, and gives the same documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from glassgpt.data import json_rows, text_cuts
from glassgpt.data.text_cuts import BYTE_ORDER_MARK, cut_position

BLOCK_BYTES = 8 * 1024 * 1024
"""Size from which a range of rows ends at the next line."""
TAIL_BYTES = 1 << 16
"""Bytes at the end of a window in which its last blank line or separator is looked for first."""
SEARCH_BYTES = 1 << 20

Span = tuple[int, int]


def line_spans(file: IO[bytes], size: int, *, skips: bool) -> Iterator[Span]:
    """Yield ranges that end at a line.

    Args:
        file: one row per line.
        size: of the file in bytes.
        skips: whether a row that is too long may be skipped. If not, the ranges end within it: reading the last one
            raises the error, and a file without any line end is not read to its end.
    """
    start = 0
    while start < size:
        limit = size if skips else start + BLOCK_BYTES + json_rows.MAX_ROW_BYTES + 1
        end = _line_end(file, min(start + BLOCK_BYTES, size) - 1, min(limit, size))
        if end is None:
            yield start, min(limit, size)
            return
        yield start, end
        start = end


def _line_end(file: IO[bytes], position: int, limit: int) -> int | None:
    """Return the position after the first line end from a position on; None if there is none before the limit."""
    while position < limit:
        block = _read(file, position, min(position + SEARCH_BYTES, limit))
        if (found := block.find(b"\n")) >= 0:
            return position + found + 1
        position += len(block)
    return None


def text_spans(file: IO[bytes], size: int) -> Iterator[Span]:
    """Yield the ranges of the documents into which `text_blocks` cuts a text, reading little of it."""
    start, end = _after_mark(file), min(text_cuts.TEXT_BLOCK_BYTES, size)
    while end < size:
        cut = start + _cut(file, start, end)
        yield start, cut
        start, end = cut, min(end + text_cuts.TEXT_BLOCK_BYTES, size)
    yield start, size


def _cut(file: IO[bytes], start: int, end: int) -> int:
    """Return the `cut_position` of a range: mostly there is a blank line near its end."""
    tail = min(TAIL_BYTES, (end - start - 1) // 2)
    found = _read(file, end - tail, end).rfind(b"\n\n")
    return end - tail + found + 2 - start if found >= 0 else cut_position(_read(file, start, end))


def separated_spans(file: IO[bytes], size: int, separator: bytes) -> Iterator[Span]:
    """Yield ranges that end at a separator, or where `separated_texts` cuts a long document."""
    start = 0
    while start < size:
        position = start or _after_mark(file)
        window = min(position + text_cuts.TEXT_BLOCK_BYTES + len(separator), size)
        if window == size:
            yield start, size
            return
        end = _last_separator(file, position, window, separator)
        if end is None:
            end = position + cut_position(_read(file, position, position + text_cuts.TEXT_BLOCK_BYTES))
        yield start, end
        start = end


def _last_separator(file: IO[bytes], start: int, end: int, separator: bytes) -> int | None:
    """Return the position after the last separator in a range that is one if documents are cut from its start on."""
    window = _read(file, start, end)
    parts = window.split(separator)  # from the left: of separators that overlap only the first is one
    return end - len(parts[-1]) if len(parts) > 1 else None


def _after_mark(file: IO[bytes]) -> int:
    return len(BYTE_ORDER_MARK) if _read(file, 0, len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0


def _read(file: IO[bytes], start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)
