"""Chat templates: messages to a prompt, as tables of texts.

A template is a TOML file with the texts before and after each role's message:

    stop = ["\\nUser:"]
    [roles.user]
    before = "User: "
    after = "\\n"

`chat_template.toml` in a run's folder is used for its model, else `chat_template.jinja`, a program that comes with imported
models (`jinja_template.py`); a model without one gets a plain transcript.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import ConfigError

FILE_NAME = "chat_template.toml"
MAX_BYTES = 64 << 10


@dataclass(frozen=True)
class ChatTemplate:
    """The texts around the messages of a conversation.

    Attributes:
        before: text before the message, by role.
        after: text after the message, by role.
        start: text before the first message.
        stop: strings that end the assistant's message.
        source: where it comes from, for /v1/models.
    """

    before: Mapping[str, str]
    after: Mapping[str, str]
    start: str = ""
    stop: tuple[str, ...] = ()
    source: str = "transcript"
    roles: tuple[str, ...] = field(default=("system", "user", "assistant"))

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[tuple[str, str]],
        *,
        parse_special_tokens: bool = False,
        inserted: Mapping[str, str] | None = None,
    ) -> list[int]:
        """Return the ids of the prompt.

        Args:
            tokenizer: the model's.
            messages: (role, text) pairs.
            parse_special_tokens: whether a special token that is spelled out becomes its id.
            inserted: characters in the messages, and the special token that replaces each.
        """
        encode = tokenizer.encode_with_special_tokens if parse_special_tokens else tokenizer.encode
        prompt = self.prompt(messages)
        if not inserted:
            return encode(prompt)
        ids: list[int] = []
        for part in re.split(f"([{''.join(inserted)}])", prompt):
            ids += [tokenizer.special_tokens[inserted[part]]] if part in inserted else encode(part)
        return ids

    def prompt(self, messages: Sequence[tuple[str, str]]) -> str:
        """Return the text that the assistant's next message continues.

        Args:
            messages: (role, text) pairs.
        """
        parts = [self.start]
        for role, text in messages:
            parts += [self.before[role], text, self.after[role]]
        return "".join([*parts, self.before["assistant"].rstrip(" ")])


TRANSCRIPT = ChatTemplate(
    before={"system": "", "user": "User: ", "assistant": "Assistant: "},
    after={"system": "\n\n", "user": "\n", "assistant": "\n"},
    stop=("\nUser:",),
)
"""For models without a template: a transcript as it could stand in a text."""


def load_template(path: Path) -> ChatTemplate:
    """Return the template in a TOML file.

    Raises:
        ConfigError: the file cannot be read, or is not a template.
    """
    try:
        content = path.read_bytes()
        if len(content) > MAX_BYTES:
            raise ConfigError([f"{path} has {len(content):,} bytes; a chat template must have at most {MAX_BYTES:,}"])
        table = tomllib.loads(content.decode("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"{path} cannot be read: {error}"]) from error
    try:
        return _from_table(table, str(path))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            [
                f"{path} is not a chat template ({error}); it must have roles.user and roles.assistant with before and after"
            ]
        ) from error


def _from_table(table: dict[str, Any], source: str) -> ChatTemplate:
    roles = cast("dict[str, dict[str, str]]", table["roles"])
    if not {"user", "assistant"} <= roles.keys():
        raise ValueError("a role is missing")
    stop, start = table.get("stop", []), table.get("start", "")
    texts = [start, *stop, *(each.get(key, "") for each in roles.values() for key in ("before", "after"))]
    if not all(isinstance(text, str) for text in texts) or not all(stop):
        raise ValueError("every value must be text")
    return ChatTemplate(
        before={role: each.get("before", "") for role, each in roles.items()},
        after={role: each.get("after", "") for role, each in roles.items()},
        start=start,
        stop=tuple(stop),
        source=source,
        roles=tuple(roles),
    )
