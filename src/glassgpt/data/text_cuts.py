"""Cutting text files into documents, at blank lines or at separators, and reading a range of a file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO, Any

TEXT_BLOCK_BYTES = 8 * 1024 * 1024
"""Size up to which a text file is one document; a larger file is cut at blank lines into documents of this size."""
FILE_BUFFER_BYTES = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def text_blocks(stream: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield the text in parts of bounded size, with their numbers of line ends."""
    pending = stream.read(TEXT_BLOCK_BYTES).removeprefix(BYTE_ORDER_MARK)
    while following := stream.read(TEXT_BLOCK_BYTES):
        end = cut_position(pending)
        yield pending[:end], pending.count(b"\n", 0, end)
        pending = pending[end:] + following
    if pending:
        yield pending, pending.count(b"\n")


def counted(text: bytes) -> tuple[bytes, int]:
    """Return a text and its number of line ends."""
    return text, text.count(b"\n")


def separated_texts(blocks: Iterator[bytes], separator: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the documents between the separators, without the line ends around them, and their numbers of line ends.

    A longer document than a text file may be is cut into several. Where it is cut depends on the document alone.
    """
    pending = b""
    for block in blocks:
        *complete, pending = (pending + block).split(separator)
        for text in complete:
            yield from _cut_to_size(text + separator, len(text))
        while len(pending) >= TEXT_BLOCK_BYTES + len(separator):  # its end may be the start of a separator
            end = cut_position(pending[:TEXT_BLOCK_BYTES])
            yield _stripped(pending[:end])
            pending = pending[end:]
    if pending:
        yield from _cut_to_size(pending, len(pending))


def _stripped(text: bytes, end: int | None = None) -> tuple[bytes, int]:
    return text[:end].strip(b"\r\n"), text.count(b"\n")


def _cut_to_size(text: bytes, length: int) -> Iterator[tuple[bytes, int]]:
    """Yield the parts of a document; after `length` bytes there is its separator, whose line ends count."""
    while length > TEXT_BLOCK_BYTES:
        end = cut_position(text[:TEXT_BLOCK_BYTES])
        yield _stripped(text[:end])
        text, length = text[end:], length - end
    yield _stripped(text, length)


def cut_position(block: bytes) -> int:
    """Return where to cut a full block: after its last blank line, else its last line, else its last character."""
    for separator in (b"\n\n", b"\n"):
        found = block.rfind(separator)
        if found > len(block) // 2:
            return found + len(separator)
    end = len(block) - 1
    while end > len(block) - 4 and block[end] & 0xC0 == 0x80:  # a UTF-8 continuation byte: not a character boundary
        end -= 1
    return end


class ByteRange(io.RawIOBase):
    """The bytes of a file from `start` up to but not including `end`.

    Args:
        file: the file.
        start: see above, as is `end`.
    """

    def __init__(self, file: IO[bytes], start: int, end: int) -> None:
        self._file, self._left = file, end - start
        file.seek(start)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer and return the number of bytes."""
        block = self._file.read(min(len(buffer), self._left))
        self._left -= len(block)
        buffer[: len(block)] = block
        return len(block)
