"""Readers of the formats in which people keep conversations: JSON, one object per line.

| format | keys of a row |
|---|---|
| messages | `messages`: a list of `role` and `content`, perhaps with `weight` 0 or 1 |
| sharegpt | `conversations`: a list of `from` and `value`; perhaps `system` |
| alpaca | `instruction`, `output`, perhaps `input` and `system` |
| prompt | `prompt`, `completion` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from glassgpt.data.chat.messages import KEYS, Conversation, Message, check_order, parse_messages
from glassgpt.data.json_rows import read_rows, without_nulls
from glassgpt.errors import DataError, WrongDataError

SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
Row = Mapping[str, Any]


def _messages(row: Row, origin: str) -> Conversation:
    return parse_messages(row["messages"], origin)


def _sharegpt(row: Row, origin: str) -> Conversation:
    turns = row["conversations"]
    if not isinstance(turns, list):
        raise DataError(f"{origin}: conversations is {type(turns).__name__}; it must be a list")
    given: list[Any] = []
    for at, turn in enumerate(cast("list[Any]", turns), 1):
        where = f"{origin}, message {at}"
        if not isinstance(turn, dict):
            raise DataError(f"{where}: it must be an object with from and value")
        fields = without_nulls(cast("dict[str, Any]", turn))
        if unknown := [key for key in fields if key not in ("from", "value", "weight")]:
            raise DataError(f"{where}: unknown key {unknown[0]!r:.40}; a message has from, value and perhaps weight")
        if not isinstance(fields.get("from"), str) or fields["from"] not in SHAREGPT_ROLES:
            raise DataError(f"{where}: from is {fields.get('from')!r:.40}; it must be human, gpt or system")
        role, rest = SHAREGPT_ROLES[fields["from"]], {key: fields[key] for key in KEYS if key in fields}
        given.append({**rest, "role": role, "content": fields.get("value")})
    return _with_system(parse_messages(given, origin), row)


def _alpaca(row: Row, origin: str) -> Conversation:
    instruction, extra = _text(row, "instruction", origin), _text(row, "input", origin, default="")
    question = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    return _with_system(_pair(question, _text(row, "output", origin), origin), row)


def _prompt(row: Row, origin: str) -> Conversation:
    return _pair(_text(row, "prompt", origin), _text(row, "completion", origin), origin)


FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Row, str], Conversation]]] = {
    "messages": (("messages",), _messages),
    "sharegpt": (("conversations",), _sharegpt),
    "alpaca": (("instruction", "output"), _alpaca),
    "prompt": (("prompt", "completion"), _prompt),
}
"""The keys by which a format is recognized, and its reader."""
OPTIONAL_KEYS = {"sharegpt": ("system",), "alpaca": ("input", "system")}
"""Further keys that are read; all others are not."""


def detect_format(path: Path) -> str:
    """Return the format of a file, from the keys of its first row.

    Raises:
        WrongDataError: the file does not exist, is empty, or is in no known format.
        DataError: the first row is not JSON.
    """
    for given, origin in read_rows(path):
        row = without_nulls(given)
        for name, (keys, _) in FORMATS.items():
            if all(key in row for key in keys):
                return name
        found = ", ".join(map(str, row))[:100] or "none"
        raise WrongDataError(
            f"{origin}: the keys are {found}; a conversation has messages, conversations, instruction and output, or prompt "
            "and completion"
        )
    raise WrongDataError(f"{path} has no conversations: it is empty")


def read_conversations(path: Path, name: str, unread: set[str] | None = None) -> Iterator[Conversation]:
    """Yield the conversations in a file.

    Args:
        path: JSON, one object per line.
        name: of the format; see `FORMATS`.
        unread: receives the keys of rows that are not read, such as the number of a row.

    Raises:
        WrongDataError: the file does not exist or cannot be read.
        DataError: a row is not a conversation; the message names the line.
    """
    keys, read = FORMATS[name]
    known = {*keys, *OPTIONAL_KEYS.get(name, ())}
    for given, origin in read_rows(path):
        row = without_nulls(given)
        if missing := [key for key in keys if key not in row]:
            raise DataError(f"{origin}: {missing[0]} is missing; the first row is in the format {name}, so all must be")
        if unread is not None:
            unread |= row.keys() - known
        yield read(row, origin)


def _pair(question: str, answer: str, origin: str) -> Conversation:
    for role, text in (("user", question), ("assistant", answer)):
        if not text.strip():
            raise DataError(f"{origin}: the {role}'s message is empty; remove the conversation or complete it")
    return Conversation(check_order((Message("user", question), Message("assistant", answer)), origin), origin)


def _with_system(conversation: Conversation, row: Row) -> Conversation:
    """Return the conversation after the system message that the row holds beside it, if any."""
    origin = conversation.origin
    system = _text(row, "system", origin, default="")
    if not system.strip():
        return conversation
    return Conversation(check_order((Message("system", system), *conversation.messages), origin), origin)


def _text(row: Row, key: str, origin: str, default: str | None = None) -> str:
    """Return the text of a field; the default if it is missing."""
    value = row.get(key, default)
    if not isinstance(value, str):
        raise DataError(f"{origin}: {key} holds {type(value).__name__}, not text")
    return value
