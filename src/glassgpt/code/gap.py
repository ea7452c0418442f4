"""A gap in a file, and where what a model writes into it ends. Free of torch."""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from typing import Literal

from glassgpt.errors import UsageError

Extent = Literal["block", "line", "document"]
"""The most that a completion fills: the block that the gap is in, the rest of the line, or all that the model writes."""


@dataclass(frozen=True)
class Gap:
    """A place in a text where something is missing.

    Attributes:
        prefix: the text before it.
        suffix: the text after it.
    """

    prefix: str
    suffix: str = ""

    @classmethod
    def at(cls, text: str, place: str) -> Gap:
        """Return the gap at a place of a text.

        Args:
            text: the text.
            place: "LINE:COLUMN" of the character that will follow, both from 1, or "LINE" for the end of that line.

        Raises:
            UsageError: it is not of this form, or outside of the text.
        """
        first, _, second = place.partition(":")
        if not first.isdecimal() or not (second.isdecimal() or (not second and ":" not in place)):
            raise UsageError(f"--at is {place!r}; it must be LINE or LINE:COLUMN, such as 12 or 12:5")
        lines = text.split("\n")  # as editors count: `splitlines` also splits at form feeds
        line = int(first)
        if not 1 <= line <= len(lines):
            raise UsageError(f"--at is {place}, but the file has {len(lines):,} lines")
        length = len(lines[line - 1].rstrip("\r"))
        column = int(second) if second else length + 1
        if not 1 <= column <= length + 1:
            raise UsageError(
                f"--at is {place}, but line {line} has {length} characters; give a column up to {length + 1}"
            )
        offset = sum(len(each) + 1 for each in lines[: line - 1]) + column - 1
        return cls(text[:offset], text[offset:])

    def filled(self, middle: str) -> str:
        """Return the whole text."""
        return self.prefix + middle + self.suffix


def within(gap: Gap, middle: str, extent: Extent) -> str:
    """Return the beginning of a text that a model wrote into a gap, up to the end of what it should fill.

    A block ends before the first line that is indented less than it. If the line of the gap ends with a colon, the block
    is the one that it begins; else it is the one that the line is in.
    """
    if extent == "document":
        return middle
    lines = middle.splitlines(keepends=True)
    if not lines:
        return middle
    if extent == "line":
        return lines[0].rstrip("\r\n")
    start = gap.prefix.rpartition("\n")[2]
    opened = (start + lines[0]).rstrip()
    # A line without text, in which a gap often is, has the indentation of the first line that is written there.
    written = (line for line in (start + lines[0], *lines[1:]) if line.strip())
    least = _indentation(start if start.strip() else next(written, start)) + opened.endswith(":")
    kept = lines[:1]
    for line in lines[1:]:
        if line.strip() and _indentation(line) < least and not _closes(line, kept):
            # The line break before it belongs to the text after the gap, unless that begins with one.
            ended = "".join(kept).rstrip()
            return ended if gap.suffix.startswith(("\n", "\r\n")) or not gap.suffix else ended + "\n"
        kept.append(line)
    return "".join(kept)


def until_less_indented(text: str, least: int) -> str:
    """Return a text up to the first line, after its first one, that begins with fewer blanks than `least`.

    Empty lines before such a line are left out, too.
    """
    lines = text.split("\n")
    for number, line in enumerate(lines[1:], start=1):
        if line.strip() and len(line) - len(line.lstrip(" \t")) < least:
            return "\n".join(lines[:number]).rstrip()
    return text


def _indentation(line: str) -> int:
    expanded = line.expandtabs(8)
    return len(expanded) - len(expanded.lstrip())


def _closes(line: str, before: list[str]) -> bool:
    """Return whether a line begins with a bracket that closes one that is open."""
    text = "".join(before)
    opened = sum(map(text.count, "([{")) - sum(map(text.count, ")]}"))
    return opened > 0 and line.lstrip().startswith((")", "]", "}"))


def parses(text: str, name: str) -> bool | None:
    """Return whether a file is valid Python; None if its name says that it is not Python."""
    if not name.endswith((".py", ".pyi")):
        return None
    try:
        with warnings.catch_warnings():  # of invalid escape sequences, which are printed otherwise
            warnings.simplefilter("ignore")
            ast.parse(text.removeprefix("\ufeff"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # null bytes; nested too deeply
        return False
    return True
