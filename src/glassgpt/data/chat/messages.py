"""Conversations, and the rules that one must satisfy to be trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from glassgpt.data.json_rows import require_characters, without_nulls
from glassgpt.errors import DataError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)
KEYS = ("role", "content", "weight")
SHOWN_CHARACTERS = 40


@dataclass(frozen=True)
class Message:
    """The message of one side.

    Attributes:
        role: who says it.
        content: the text.
        weight: 1 if the assistant's message is to be learned, 0 if it is context only.
    """

    role: Role
    content: str
    weight: int = 1


@dataclass(frozen=True)
class Conversation:
    """Messages in order: perhaps one of the system, then user and assistant in turn.

    Attributes:
        messages: the messages.
        origin: file and line, for error messages.
    """

    messages: tuple[Message, ...]
    origin: str = "the conversation"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Role and text of each message, as chat templates take them."""
        return [(message.role, message.content) for message in self.messages]


def parse_messages(given: Any, origin: str, *, answered: bool = True) -> Conversation:
    """Return the conversation in a list of `{"role": …, "content": …}`, to which `"weight": 0 or 1` may be added.

    Args:
        given: the list, as read from JSON.
        origin: file and line, for error messages.
        answered: whether the assistant must have the last word, as in a conversation to train on; if not, the user must.

    Raises:
        DataError: a message is not of this form, or the order is wrong.
    """
    if not isinstance(given, list) or not given:
        raise DataError(f"{origin}: messages is {_shown(given)}; it must be a list of at least one message")
    messages = tuple(_message(each, f"{origin}, message {at}") for at, each in enumerate(cast("list[Any]", given), 1))
    return Conversation(check_order(messages, origin, answered=answered), origin)


def check_order(messages: Sequence[Message], origin: str, *, answered: bool = True) -> tuple[Message, ...]:
    """Check that user and assistant take turns, after one message of the system or none; return the messages.

    Raises:
        DataError: they do not, the last word is the wrong side's, or nothing is to be learned.
    """
    if sum(message.role == "system" for message in messages) > 1:
        raise DataError(f"{origin}: there are several system messages; join them into one at the start")
    for at, message in enumerate(messages):
        turn = at - (messages[0].role == "system")
        expected = "system" if turn < 0 else ROLES[1 + turn % 2]
        if message.role != expected:
            raise DataError(
                f"{origin}, message {at + 1}: the role is {message.role}, but {expected} was expected; after at most one "
                "system message, user and assistant must take turns"
            )
    last = "assistant" if answered else "user"
    if messages[-1].role != last:
        raise DataError(f"{origin}: the last message is of the {messages[-1].role}; it must be of the {last}")
    if answered and not any(message.weight for message in messages if message.role == "assistant"):
        raise DataError(f"{origin}: every message of the assistant has weight 0, so that nothing can be learned")
    return tuple(messages)


def _message(given: Any, origin: str) -> Message:
    if not isinstance(given, dict):
        raise DataError(f"{origin}: it is {_shown(given)}; it must be an object with role and content")
    fields = without_nulls(cast("Mapping[str, Any]", given))
    if unknown := [key for key in fields if key not in KEYS]:
        raise DataError(f"{origin}: unknown key {_shown(unknown[0])}; a message has role, content and perhaps weight")
    role, weight = role_and_weight(fields, origin)
    content = fields.get("content")
    if not isinstance(content, str):
        raise DataError(f"{origin}: content is {_shown(content)}; it must be text")
    if not content.strip():
        raise DataError(f"{origin}: the {role}'s message is empty; remove the conversation or complete it")
    return Message(role, require_characters(content, origin), weight)


def role_and_weight(fields: Mapping[str, Any], origin: str) -> tuple[Role, int]:
    """Return who says a message, and whether it is learned.

    Args:
        fields: the message, as read from JSON.
        origin: file, line and message, for error messages.

    Raises:
        DataError: the role is unknown, or the weight is not 0 or 1.
    """
    role, weight = fields.get("role"), fields.get("weight", 1)
    if role not in ROLES:
        raise DataError(f"{origin}: role is {_shown(role)}; it must be system, user or assistant")
    if isinstance(weight, bool) or weight not in (0, 1):
        raise DataError(f"{origin}: weight is {_shown(weight)}; it must be 0 (context only) or 1 (to be learned)")
    return role, int(weight)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
