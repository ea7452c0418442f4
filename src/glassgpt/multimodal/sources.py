"""Sources of documents with media: JSON, one row per line, and folders of pictures and sounds. Nothing is decoded here.

| key of a row | value |
|---|---|
| `image`, `audio` | path of a file, relative to that of the rows, a `data:` URL, or a list of these |
| `prompt` | text before `text`, which is not learned |
| `text` | text that is learned |
| `content` | instead of the others: a list of parts, as in the messages of OpenAI's API, in any order; text is learned |
| `messages` | a conversation, whose messages may consist of such parts; what the assistant says is learned |
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from glassgpt.data.bad_rows import BadRows
from glassgpt.data.chat.messages import Message, Role, check_order, role_and_weight
from glassgpt.data.decompress import DAMAGED, opened
from glassgpt.data.json_rows import decode_line, lines, parse_row, require_characters, too_long, without_nulls
from glassgpt.errors import DataError, WrongDataError
from glassgpt.multimodal.media import MODALITIES, Modality

KEYS = ("image", "audio", "prompt", "text", "content", "messages")
SHOWN = 60


@dataclass(frozen=True)
class MediaSource:
    """A medium that has not been read.

    Attributes:
        modality: what it is to be.
        path: its file; None if its bytes are in the row.
        raw: its bytes, if they are in the row.
    """

    modality: Modality
    path: Path | None = None
    raw: bytes = b""

    @property
    def label(self) -> str:
        """Name of the file, for messages."""
        return str(self.path) if self.path else f"the {self.modality} in the row"


@dataclass(frozen=True)
class SourceTurn:
    """A stretch of a document; see `glassgpt.multimodal.documents.Turn`."""

    parts: tuple[str | MediaSource, ...]
    learned: bool = True
    role: Role | None = None


@dataclass(frozen=True)
class SourceDocument:
    """A document whose media have not been read.

    Attributes:
        turns: its parts, in order.
        origin: file and line, for messages.
    """

    turns: tuple[SourceTurn, ...]
    origin: str

    @property
    def media(self) -> list[MediaSource]:
        """Its media, in order."""
        return [part for turn in self.turns for part in turn.parts if isinstance(part, MediaSource)]


def read_row_file(path: Path, bad_rows: BadRows, unread: set[str]) -> Iterator[SourceDocument]:
    """Yield the documents of a file of rows.

    Args:
        path: the file; it may be compressed (.gz, .xz, .zst).
        bad_rows: receives the rows that cannot be used.
        unread: receives the keys that are not read.

    Raises:
        WrongDataError: the file cannot be read.
        DataError: there are too many bad rows.
    """
    try:
        with ExitStack() as stack:
            stream, _ = opened(path, stack, str(path))
            for number, line in enumerate(lines(stream), start=1):
                origin = f"{path}, line {number}"
                if line is not None and not line.strip():
                    continue
                try:
                    yield _read_line(line, path.parent, origin, unread, first=number == 1)
                except DataError as error:
                    bad_rows.skip(origin, error)
    except DAMAGED as error:
        raise DataError(f"{path} is truncated or not what its name says: {error}") from error
    except OSError as error:
        raise WrongDataError(f"{path} cannot be read: {error.strerror}") from error


def _read_line(line: bytes | None, base: Path, origin: str, unread: set[str], *, first: bool) -> SourceDocument:
    if line is None:
        raise DataError(f"{origin}: {too_long()}")
    row = parse_row(decode_line(line, origin, first=first), origin)
    unread |= without_nulls(row).keys() - set(KEYS)
    return parse_document(row, base, origin)


def parse_document(row: Mapping[str, Any], base: Path, origin: str) -> SourceDocument:
    """Return the document in a row.

    Args:
        row: the row, as read from JSON.
        base: folder to which paths are relative.
        origin: file and line, for error messages.

    Raises:
        DataError: it has no text to learn, or a value is not of the right form.
    """
    row = without_nulls(row)
    media = tuple(medium for key in row if key in MODALITIES for medium in _media(row[key], key, base, origin))
    if "messages" in row:
        _require_alone(row, "messages", ("prompt", "text", "content"), origin)
        return SourceDocument(_conversation(row["messages"], media, base, origin), origin)
    if "content" in row:
        _require_alone(row, "content", ("prompt", "text", *MODALITIES), origin)
        parts = _parts(row["content"], base, origin)
        if not any(isinstance(part, str) and part.strip() for part in parts):
            raise DataError(f"{origin}: content has no text, so that nothing can be learned")
        return SourceDocument((SourceTurn(parts),), origin)
    if "text" not in row:
        found = ", ".join(map(str, row))[:SHOWN] or "none"
        raise DataError(f"{origin}: the keys are {found}; a row needs text, content or messages to learn")
    prompt, text = (_text(row.get(key, ""), key, origin) for key in ("prompt", "text"))
    if not text.strip():
        raise DataError(f"{origin}: text is empty, so that nothing can be learned")
    context = (*media, prompt) if prompt else media
    turns = (SourceTurn(context, learned=False),) if context else ()
    return SourceDocument((*turns, SourceTurn((text,))), origin)


def _require_alone(row: Mapping[str, Any], key: str, others: Sequence[str], origin: str) -> None:
    if found := [other for other in others if other in row]:
        raise DataError(f"{origin}: {key} and {found[0]} cannot be combined; put everything into {key}")


def _conversation(given: Any, media: tuple[MediaSource, ...], base: Path, origin: str) -> tuple[SourceTurn, ...]:
    """Return the turns of a conversation, of which the user's first one begins with the media of the row."""
    if not isinstance(given, list) or not given:
        raise DataError(f"{origin}: messages is {given!r:.{SHOWN}}; it must be a list of at least one message")
    turns = [_turn(one, base, f"{origin}, message {at}") for at, one in enumerate(cast("list[Any]", given), 1)]
    if media:
        at = next((at for at, turn in enumerate(turns) if turn.role == "user"), 0)
        turns[at] = SourceTurn((*media, *turns[at].parts), turns[at].learned, turns[at].role)
    check_order([Message(turn.role or "user", "", int(turn.learned)) for turn in turns], origin)
    return tuple(turns)


def _turn(given: Any, base: Path, origin: str) -> SourceTurn:
    if not isinstance(given, dict):
        raise DataError(f"{origin}: it is {given!r:.{SHOWN}}; it must be an object with role and content")
    fields = without_nulls(cast("dict[str, Any]", given))
    role, weight = role_and_weight(fields, origin)
    content = fields.get("content")
    parts = (require_characters(content, origin),) if isinstance(content, str) else _parts(content, base, origin)
    if not any(isinstance(part, MediaSource) or part.strip() for part in parts):
        raise DataError(f"{origin}: the {role}'s message is empty; remove the conversation or complete it")
    if role != "user" and any(isinstance(part, MediaSource) for part in parts):
        raise DataError(f"{origin}: a picture or sound is in a message of the {role}; put it into one of the user")
    return SourceTurn(parts, role == "assistant" and weight == 1, role)


def _parts(given: Any, base: Path, origin: str) -> tuple[str | MediaSource, ...]:
    """Return the parts of a message in the form of OpenAI's API, in which paths of files are also accepted."""
    if not isinstance(given, list):
        raise DataError(f"{origin}: content is {given!r:.{SHOWN}}; it must be text or a list of parts")
    parts: list[str | MediaSource] = []
    for at, part in enumerate(cast("list[Any]", given), 1):
        where = f"{origin}, part {at}"
        fields = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
        kind = fields.get("type")
        if kind == "text":
            parts.append(_text(fields.get("text"), "text", where))
        elif kind in MODALITIES:
            parts.append(_medium(fields.get(kind), kind, base, where))
        elif kind == "image_url":
            url = fields.get("image_url")
            url = cast("dict[str, Any]", url).get("url") if isinstance(url, dict) else url
            parts.append(_medium(url, "image", base, where))
        elif kind == "input_audio":
            audio = fields.get("input_audio")
            data = cast("dict[str, Any]", audio).get("data") if isinstance(audio, dict) else None
            parts.append(MediaSource("audio", raw=_decoded(_text(data, "data", where), where)))
        else:
            kinds = "text, image, audio, image_url or input_audio"
            raise DataError(f"{where}: it is {part!r:.{SHOWN}}; it must be an object whose type is {kinds}")
    return tuple(parts)


def _media(given: Any, modality: Modality, base: Path, origin: str) -> list[MediaSource]:
    values = cast("list[Any]", given) if isinstance(given, list) else [given]
    return [_medium(value, modality, base, origin) for value in values]


def _medium(given: Any, modality: Modality, base: Path, origin: str) -> MediaSource:
    place = given if isinstance(given, str) else ""
    if place.startswith("data:"):
        header, comma, data = place.partition(",")
        if not comma or not header.endswith(";base64"):
            raise DataError(f"{origin}: {place!r:.{SHOWN}} is not a data URL in base64 (data:image/png;base64,…)")
        return MediaSource(modality, raw=_decoded(data, origin))
    if "://" in place:
        raise DataError(f"{origin}: {place!r:.{SHOWN}} is a URL, and nothing is fetched; download it and give its path")
    if not place or "\0" in place:
        raise DataError(f"{origin}: {modality} is {given!r:.{SHOWN}}; it must be the path of a file")
    return MediaSource(modality, base / place)


def _decoded(data: str, origin: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{origin}: the data are not valid base64 ({error})") from error


def _text(given: Any, key: str, origin: str) -> str:
    if not isinstance(given, str):
        kind = "missing or null" if given is None else type(given).__name__
        raise DataError(f"{origin}: {key} is {kind}; it must be text")
    return require_characters(given, origin)
