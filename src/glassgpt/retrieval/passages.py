"""Cut a document into passages at headings, paragraphs and sentences, each with its character offsets.

A passage is a slice of the document: nothing is changed, and every character that is not white space is in exactly one
passage. A heading is a Markdown heading, or a short line by itself before a paragraph of sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PASSAGE_CHARACTERS = 1000
"""Longest passage; see docs/log.md for what other lengths found."""
MAX_HEADING_CHARACTERS = 80
MIN_PARAGRAPH_CHARACTERS = 120
"""Shortest paragraph below a line that makes the line a heading."""
HEADING_SEPARATOR = " > "
PLACE_SEPARATOR = " — "

BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
SENTENCE_END = re.compile(r"[.!?…][\"'”’»)\]]*\s+|[。！？][\"'”’»)\]]*|\n")
MARKDOWN_HEADING = re.compile(r"(#{1,6})[^\S\n]+([^\n]*?)[\s#]*$", re.MULTILINE)
HEADING_LINE = re.compile(r"^#{1,6}[^\S\n][^\n]*$", re.MULTILINE)
FENCE = re.compile(r"^[^\S\n]*(?:```|~~~)", re.MULTILINE)


@dataclass(frozen=True)
class Passage:
    """A passage of an indexed document.

    Attributes:
        number: its row in the index.
        source: name of the document: the field `source` of its row, or its path.
        path: file that holds the document.
        heading: headings above the passage, such as "Chapter > Section"; empty if there are none.
        start: offset of its first character in the document's text.
        end: offset behind its last character.
        text: its text.
    """

    number: int
    source: str
    path: str
    heading: str
    start: int
    end: int
    text: str

    @property
    def place(self) -> str:
        """Its place: the document, its file if that has another name (a row can claim any source), the headings."""
        return PLACE_SEPARATOR.join(
            filter(None, (self.source, self.path if self.path != self.source else "", self.heading))
        )


@dataclass(frozen=True)
class Span:
    """Offsets of a passage in the text of its document, and the headings above it."""

    start: int
    end: int
    heading: str


@dataclass(frozen=True)
class _Block:
    """A paragraph, or a heading of some level (0: none; 7: a short line by itself, below all Markdown headings)."""

    start: int
    end: int
    level: int = 0
    title: str = ""


GUESSED_LEVEL = 7


def cut(text: str, size: int = PASSAGE_CHARACTERS) -> list[Span]:
    """Return the passages of a text in order.

    Args:
        text: a document.
        size: longest passage, in characters.
    """
    cutter = _Cutter(size)
    for block in _blocks(text):
        cutter.add(block, _pieces(text, block, size))
    return cutter.finish()


class _Cutter:
    """Joins pieces of text to passages: each is as long as it may be, but a heading begins a new one."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._spans: list[Span] = []
        self._headings: dict[int, str] = {}
        self._start: int | None = None
        self._end = 0
        self._heading = ""
        self._has_text = False

    def add(self, block: _Block, pieces: Iterable[tuple[int, int]]) -> None:
        if block.level:
            if self._has_text:  # headings that follow each other are in one passage
                self.finish()
            self._headings = {level: title for level, title in self._headings.items() if level < block.level}
            self._headings[block.level] = block.title
        for start, end in pieces:
            if self._start is not None and end - self._start > self._size:
                self.finish()
            if self._start is None:
                self._start = start
            self._end = end
            self._heading = HEADING_SEPARATOR.join(self._headings.values())
        self._has_text = not block.level

    def finish(self) -> list[Span]:
        if self._start is not None:
            self._spans.append(Span(self._start, self._end, self._heading))
        self._start, self._has_text = None, False
        return self._spans


def _blocks(text: str) -> Iterator[_Block]:
    """Yield paragraphs and headings in order."""
    paragraphs = [part for start, end in _paragraphs(text) for part in _lines_of(text, start, end)]
    in_code, has_code = False, bool(FENCE.search(text))
    for number, (start, end) in enumerate(paragraphs):
        following = paragraphs[number + 1] if number + 1 < len(paragraphs) else None
        if not in_code and (found := MARKDOWN_HEADING.match(text, start, end)):
            yield _Block(start, end, len(found[1]), found[2].strip())
        elif not in_code and following and _is_heading(text, start, end, following):
            yield _Block(start, end, GUESSED_LEVEL, text[start:end])
        else:
            yield _Block(start, end)
        in_code ^= has_code and len(FENCE.findall(text, start, end)) % 2 == 1


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets of the parts between blank lines, without white space around them."""
    position = 0
    for blank in BLANK_LINES.finditer(text):
        yield from _stripped(text, position, blank.start())
        position = blank.end()
    yield from _stripped(text, position, len(text))


def _lines_of(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a paragraph around the Markdown headings in it, which need no blank line around them."""
    if text.find("#", start, end) < 0:
        yield start, end
        return
    position = start
    for line in HEADING_LINE.finditer(text, start, end):
        yield from _stripped(text, position, line.start())
        yield from _stripped(text, line.start(), line.end())
        position = line.end()
    yield from _stripped(text, position, end)


def _stripped(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    part = text[start:end]
    if inside := part.strip():
        start += len(part) - len(part.lstrip())
        yield start, start + len(inside)


def _is_heading(text: str, start: int, end: int, following: tuple[int, int]) -> bool:
    if end - start > MAX_HEADING_CHARACTERS or following[1] - following[0] < MIN_PARAGRAPH_CHARACTERS:
        return False
    line = text[start:end]
    return "\n" not in line and line[-1] not in ".!?:;,。！？…" and (line[0].isupper() or not line[0].islower())


def _pieces(text: str, block: _Block, size: int) -> Iterator[tuple[int, int]]:
    """Yield a block whole if it fits into a passage, else its sentences, and parts of those that do not fit either."""
    if block.end - block.start <= size:
        yield block.start, block.end
        return
    position = block.start
    ends = [found.end() for found in SENTENCE_END.finditer(text, block.start, block.end)]
    for end in [*ends, block.end]:
        for start, stop in _stripped(text, position, end):
            yield from _parts(text, start, stop, size)
        position = end


def _parts(text: str, start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut a sentence that is longer than a passage at its blanks, or anywhere if it has none."""
    while end - start > size:
        blank = max(text.rfind(" ", start + size // 2, start + size), text.rfind("\n", start + size // 2, start + size))
        cut_at = blank if blank > start else start + size
        yield from _stripped(text, start, cut_at)
        start = cut_at
    yield from _stripped(text, start, end)
