"""Rows of preferences in a JSON Lines file: a prompt, the reply that people chose, and the one that they rejected.

A row has `prompt` (text or messages), or `instruction` and `input` (Alpaca), beside `chosen` and `rejected`: texts, or
messages, which may repeat those of the prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from glassgpt.data.chat.messages import Conversation, Message, check_order, parse_messages
from glassgpt.data.json_rows import decode_line, parse_row, require_characters, without_nulls
from glassgpt.errors import DataError, WrongDataError

KEYS = ("prompt", "instruction", "input", "output", "system", "chosen", "rejected")
"""Keys of a row; `output` is the reply that instruction data have beside the two, and is not used."""
MAX_BYTES = 1 << 30
"""A larger file is refused: all of it is held in memory as tokens."""


@dataclass(frozen=True)
class Preference:
    """A prompt with two replies.

    Attributes:
        chosen: the conversation that ends with the better reply.
        rejected: the same conversation with the worse one.
    """

    chosen: Conversation
    rejected: Conversation

    @property
    def prompt(self) -> tuple[tuple[str, str], ...]:
        """Role and text of the messages before the reply."""
        return tuple(self.chosen.pairs[:-1])


@dataclass(frozen=True)
class PreferenceRows:
    """The rows of a file.

    Attributes:
        rows: those that can be used.
        skipped: problem of each row that was left out.
        sha256: checksum of the file.
    """

    rows: list[Preference]
    skipped: list[str]
    sha256: str


def read_preferences(path: Path, skip_bad: int = 0) -> PreferenceRows:
    """Read a JSON Lines file of preferences.

    Args:
        path: the file.
        skip_bad: rows that cannot be used and may be left out.

    Raises:
        WrongDataError: it is no such file.
        DataError: more rows cannot be used; the message names the first of them and its line.
    """
    content = _read(path)
    rows: list[Preference] = []
    skipped: list[str] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        origin = f"{path}, line {number}"
        try:
            row = parse_row(decode_line(line, origin, first=number == 1), origin)
            rows.append(parse_preference(row, origin))
        except DataError as error:
            if len(skipped) == skip_bad:
                done = f"; {skip_bad} rows were left out before" if skip_bad else ""
                raise DataError(f"{error}{done}; leave out such rows with --preference.skip-bad NUMBER") from error
            skipped.append(str(error))
    if not rows:
        raise WrongDataError(
            f"{path} holds no preferences; each line must be an object with prompt, chosen and rejected"
        )
    return PreferenceRows(rows, skipped, hashlib.sha256(content).hexdigest())


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise WrongDataError(
            f"{path} is not a file; preferences are a JSON Lines file with prompt, chosen and rejected"
        )
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise WrongDataError(f"{path} has {size:,} bytes; a file of preferences must have at most {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def parse_preference(row: Mapping[str, Any], origin: str) -> Preference:
    """Return the preference in a row.

    Args:
        row: the object.
        origin: file and line, for error messages.

    Raises:
        DataError: a key is unknown or missing, a reply is empty, or both replies are the same.
    """
    row = without_nulls(row)
    if unknown := [key for key in row if key not in KEYS]:
        raise DataError(f"{origin}: unknown key {unknown[0][:40]!r}; the keys are {', '.join(KEYS)}")
    if missing := [key for key in ("chosen", "rejected") if key not in row]:
        raise DataError(f"{origin}: {missing[0]} is missing; a row has prompt, chosen and rejected")
    prompt = _prompt(row, origin)
    chosen, rejected = (_conversation(row, key, prompt, origin) for key in ("chosen", "rejected"))
    if chosen.pairs[:-1] != rejected.pairs[:-1]:
        raise DataError(f"{origin}: chosen and rejected begin with different messages; only the reply may differ")
    if chosen.messages[-1].content.strip() == rejected.messages[-1].content.strip():
        raise DataError(f"{origin}: chosen and rejected are the same, so there is nothing to learn")
    return Preference(chosen, rejected)


def _prompt(row: Mapping[str, Any], origin: str) -> tuple[Message, ...]:
    """Return the messages of the prompt; none if the replies contain them."""
    if "prompt" in row and "instruction" in row:
        raise DataError(f"{origin}: prompt and instruction cannot be combined; remove one of them")
    if isinstance(row.get("prompt"), list):
        _require_messages_only(row, origin)
        return parse_messages(row["prompt"], origin, answered=False).messages
    name = "instruction" if "instruction" in row else "prompt"
    if name not in row:
        if isinstance(row["chosen"], list) and isinstance(row["rejected"], list):
            _require_messages_only(row, origin)
            return ()
        raise DataError(f"{origin}: prompt is missing; a row has prompt, chosen and rejected")
    texts = [_text(row[name], name, origin)]
    if row.get("input"):
        texts.append(_text(row["input"], "input", origin))
    system = [Message("system", _text(row["system"], "system", origin))] if row.get("system") else []
    return (*system, Message("user", "\n\n".join(texts)))


def _require_messages_only(row: Mapping[str, Any], origin: str) -> None:
    if unused := [key for key in ("system", "input") if row.get(key)]:
        raise DataError(f"{origin}: {unused[0]} cannot be combined with messages; make it one of them")


def _conversation(row: Mapping[str, Any], key: str, prompt: tuple[Message, ...], origin: str) -> Conversation:
    """Return the prompt with one of the replies."""
    where = f"{origin}, {key}"
    if not isinstance(row[key], list):
        reply = Message("assistant", _text(row[key], key, origin))
        return _reply_only(Conversation(check_order((*prompt, reply), where), where))
    given = cast("list[Any]", row[key])
    if prompt and len(given) == 1:  # the reply alone
        given = [{"role": message.role, "content": message.content} for message in prompt] + given
    conversation = parse_messages(given, where)
    if prompt and conversation.pairs[:-1] != [(message.role, message.content) for message in prompt]:
        raise DataError(f"{where}: its messages do not begin with those of the prompt; remove the prompt or correct it")
    return _reply_only(conversation)


def _reply_only(conversation: Conversation) -> Conversation:
    """Return a conversation of which the last message alone counts: earlier replies are the same in both."""
    *context, reply = conversation.messages
    weighted = (*(replace(message, weight=0) for message in context), replace(reply, weight=1))
    return replace(conversation, messages=weighted)


def _text(value: Any, name: str, origin: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{origin}: {name} is {type(value).__name__}; it must be text")
    if not value.strip():
        raise DataError(f"{origin}: {name} is empty")
    return require_characters(value, origin)
