"""Rows from JSON: one object per line, or an array, or objects one after the other, read in bounded memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from glassgpt.data.encodings import has_nul_bytes
from glassgpt.errors import DataError, WrongDataError

MAX_ROW_BYTES = 64 * 1024 * 1024
"""Bytes of one row. A longer one is refused: all of it would have to be in memory several times."""
BLOCK_CHARACTERS = 1 << 20
HEAD_BYTES = 1 << 16
SHOWN_FIELDS, SHOWN_CHARACTERS = 12, 40
BETWEEN = re.compile(r"[\s,\ufeff]*")
CHAT_FIELDS = ("messages", "conversations", "conversation")


def text_field(fields: dict[str, Any], field: str, origin: str) -> str:
    """Return the text of one row.

    Raises:
        DataError: the field is missing or does not hold text.
    """
    if field not in fields:
        shown = [name[:SHOWN_CHARACTERS] for name in list(fields)[:SHOWN_FIELDS]]
        available = ", ".join(shown) + (", …" if len(fields) > SHOWN_FIELDS else "") or "none"
        problem = f"{origin}: no field {field!r} (available: {available})"
        if chat := next((name for name in CHAT_FIELDS if name in fields), None):
            raise WrongDataError(
                f"{origin}: no field {field!r} (available: {available}); these are chats: write each as one text, for example "
                f"with: {_chat_command(chat)}"
            )
        raise DataError(f"{problem}; choose one with --field")
    text = fields[field]
    if not isinstance(text, str):
        kind = "null" if text is None else type(text).__name__
        problem = f"{origin}: field {field!r} holds {kind}, not text"
        if field in CHAT_FIELDS and isinstance(text, list):
            raise WrongDataError(
                f"{origin}: field {field!r} holds chats, not text; write each as one text, for example with: "
                f"{_chat_command(field)}"
            )
        raise DataError(problem)
    return text


def require_characters(text: str, origin: str) -> str:
    """Return a text of a row if it consists of characters: JSON can spell halves of surrogate pairs.

    Raises:
        DataError: it contains a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise surrogate_error(text, error, origin) from error
    return text


def surrogate_error(text: str, error: UnicodeEncodeError, origin: str) -> DataError:
    """Return the error for a text with a lone surrogate, of which `error` says where it is."""
    return DataError(
        f"{origin}: the text contains the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, which is "
        "not a valid character; repair or remove it"
    )


def _chat_command(field: str) -> str:
    """Return a command that turns chats into texts; which words mark the roles is the user's choice."""
    turn = '(.role // .from) + ": " + (.content // .value)'
    return f"jq -c '{{text: ([.{field}[] | {turn}] | join(\"\\n\"))}}' FILE > texts.jsonl"


def parse_row(line: str, origin: str) -> dict[str, Any]:
    """Return the object of one line.

    Raises:
        DataError: it is not valid JSON, or another value.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        raise DataError(f"{origin}: not valid JSON ({error}); each line must be one JSON object") from error
    if not isinstance(row, dict):
        raise DataError(f"{origin}: expected a JSON object, got {type(row).__name__}")
    return cast("dict[str, Any]", row)


def without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of an object that hold something: where rows come from a table, null is an empty cell."""
    return {key: value for key, value in row.items() if value is not None}


def read_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the object of each line of a file that is not blank, and the line's place for messages.

    Raises:
        WrongDataError: the file cannot be read.
        DataError: a line is too long, not UTF-8, or not a JSON object.
    """
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(lines(stream), start=1):
                origin = f"{path}, line {number}"
                if line is None:
                    raise DataError(f"{origin}: {too_long()}")
                if line.strip():
                    yield parse_row(decode_line(line, origin, first=number == 1), origin), origin
    except OSError as error:
        raise WrongDataError(f"{path} cannot be read: {error.strerror}") from error


def decode_line(line: bytes, origin: str, *, first: bool) -> str:
    """Return the text of a line; the first one of a file may begin with a byte-order mark.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{origin}: not valid UTF-8 ({error.reason}), so the file cannot be read; convert it to UTF-8"
        ) from error


def lines(stream: IO[bytes]) -> Iterator[bytes | None]:
    """Yield each line of a stream, and None for one that is longer than a row may be."""
    while line := stream.readline(MAX_ROW_BYTES + 1):
        if len(line) > MAX_ROW_BYTES:
            yield None  # before the rest of it is read, which may be as long as the file
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_ROW_BYTES)
        else:
            yield line


def values(stream: IO[bytes], label: str) -> Iterator[Any]:
    """Yield the values of a JSON array, or of a text that is one value after the other.

    Raises:
        DataError: the text is not JSON, or a value is longer than a row may be.
    """
    decoder, utf8 = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")()
    buffer, position, ended, number, wanted = "", 0, False, 1, BLOCK_CHARACTERS
    in_array: bool | None = None
    while True:
        position = cast("re.Match[str]", BETWEEN.match(buffer, position)).end()
        if in_array is None and position < len(buffer):
            in_array = buffer[position] == "["
            position += in_array
            continue
        if ended and position == len(buffer) and not in_array:
            return
        if in_array and buffer.startswith("]", position):
            return
        try:
            value, end = decoder.raw_decode(buffer, position)
        except (ValueError, RecursionError) as error:
            if ended or isinstance(error, RecursionError):
                raise DataError(f"{label}, value {number}: not valid JSON ({error})") from error
            if len(buffer) - position > MAX_ROW_BYTES:
                raise DataError(f"{label}, value {number}: {too_long()}") from error
            block = stream.read(wanted)
            ended = not block
            buffer, position = buffer[position:] + utf8.decode(block, final=ended), 0
            wanted = max(BLOCK_CHARACTERS, len(buffer))  # doubling: a long value is not parsed again for each block
            continue
        yield value
        position, number = end, number + 1


def too_long() -> str:
    """Return the message for a row that is too long."""
    return f"the row is longer than {MAX_ROW_BYTES >> 20} MB; cut its text into several rows"


def layout(head: bytes, field: str, *, strict: bool) -> str | None:
    """Return how the rows of a JSON text are laid out: "lines", "values", or None if it is none of rows.

    Args:
        head: the first bytes of the text, `HEAD_BYTES` or fewer.
        field: name of the field that holds the text.
        strict: whether the first row must have that field.
    """
    text = head.removeprefix(codecs.BOM_UTF8).decode(errors="replace").lstrip()
    if has_nul_bytes(head) or not text.startswith(("{", "[")):
        return None
    start = cast("re.Match[str]", BETWEEN.match(text, 1)).end() if text.startswith("[") else 0
    try:
        first, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        is_cut = len(head) >= HEAD_BYTES and text[start : start + 1] == "{"
        return None if strict or not is_cut else ("values" if start or "\n" in text else "lines")
    if not isinstance(first, (dict, str) if start else dict) or (
        strict and isinstance(first, dict) and field not in first
    ):
        return None
    return "values" if start or "\n" in text[:end] else "lines"
