"""A conversation in the terminal: messages, settings, and the commands that begin with a slash. Free of torch.

The model behind it is a `ChatBackend`: a run loaded in this process, or a server.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from glassgpt.data.files import write_atomically
from glassgpt.errors import UsageError
from glassgpt.generation.options import MAX_SEED
from glassgpt.multimodal.media import Modality
from glassgpt.serving.errors import APIError
from glassgpt.serving.fields import OPTION_FIELDS, parse_fields

SETTINGS = {field.name: field for field in OPTION_FIELDS if field.name != "n"}
"""The settings of `/set`, by name: those of a request over HTTP."""
PREFERRED = {"max_tokens": 256, "truncate": True}
"""Defaults of a chat that differ from those of HTTP: answers are longer, and a long conversation loses its beginning."""
EXAMPLES: Mapping[Modality, str] = {"image": "a.png", "audio": "b.wav"}


class Attachment(NamedTuple):
    """A picture or a sound that comes before the text of a message."""

    modality: Modality
    path: Path
    raw: bytes


class Message(NamedTuple):
    """One message of a conversation."""

    role: str
    text: str
    media: tuple[Attachment, ...] = ()


class Command(NamedTuple):
    """A command of the chat: its form, its help, and the method that carries it out."""

    usage: str
    help: str
    carry_out: Callable[[ChatSession, str], str]


class ChatBackend(Protocol):
    """Whatever answers a conversation.

    Attributes:
        name: of the model, for the user.
        context_length: tokens of prompt and answer together.
    """

    name: str
    context_length: int

    def answer(self, messages: Sequence[Message], settings: Mapping[str, Any]) -> Generator[str]:
        """Yield the answer piece by piece; closing the generator stops it.

        Raises:
            GlassGPTError: a setting cannot be used, or the model cannot be reached.
        """
        ...


class ChatSession:
    """A conversation with a model.

    Args:
        backend: answers.

    Attributes:
        messages: of the conversation but the system's.
        system: the system's message; empty means none.
        settings: values that differ from the defaults of HTTP.
        attached: pictures and sounds for the next message.
        seed: of the last answer.
        is_over: True after `/quit`.
    """

    def __init__(self, backend: ChatBackend) -> None:
        self.backend = backend
        self._defaults = {**PREFERRED, "max_tokens": min(PREFERRED["max_tokens"], max(1, backend.context_length // 2))}
        self.settings: dict[str, Any] = dict(self._defaults)
        self.messages: list[Message] = []
        self.attached: list[Attachment] = []
        self.system = ""
        self.seed: int | None = None
        self.is_over = False
        self._saved: set[Path] = set()

    def ask(self, text: str) -> Generator[str]:
        """Yield the answer to a message piece by piece; closing the generator stops it and keeps what there is.

        Raises:
            GlassGPTError: see `ChatBackend.answer`. Without any answer, the conversation stays as it was.
        """
        head = [Message("system", self.system)] if self.system else []
        given = self.settings.get("seed")
        self.seed = secrets.randbelow(MAX_SEED) if given is None else given
        question = Message("user", text, tuple(self.attached))
        messages = [*head, *self.messages, question]
        answer, is_complete = "", False
        try:
            with contextlib.closing(self.backend.answer(messages, {**self.settings, "seed": self.seed})) as pieces:
                for piece in pieces:
                    answer += piece
                    yield piece
            is_complete = True
        finally:
            if answer or is_complete:
                self.messages += [question, Message("assistant", answer)]
                self.attached.clear()

    def command(self, line: str) -> str:
        """Carry out a command such as `/set temperature 0.8`, and return what the user should read.

        Raises:
            GlassGPTError: there is no such command, or its argument is invalid.
        """
        name, _, argument = line.strip().partition(" ")
        commands = {each.usage.split()[0]: each for each in self.COMMANDS}
        if name not in commands:
            nearest = difflib.get_close_matches(name, commands, 1)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            raise UsageError(f"unknown command {name}; {hint}/help lists the commands, and // sends a message with /")
        return commands[name].carry_out(self, argument.strip())

    def _set(self, argument: str) -> str:
        name, _, text = argument.partition(" ")
        if not name:
            raise UsageError("/set needs a name, as in /set temperature 0.8; /settings lists them")
        name = _setting_name(name)
        if not text.strip():
            self.settings.pop(name, None)
            self.settings |= {key: value for key, value in self._defaults.items() if key == name}
        else:
            self.settings[name] = _parse(name, text.strip())
        return f"{name} = {_shown(self._value(name))}"

    def _value(self, name: str) -> Any:
        return self.settings.get(name, SETTINGS[name].default)

    def _set_system(self, argument: str) -> str:
        self.system = argument
        return "system message set" if argument else "no system message"

    def _reset(self, argument: str) -> str:
        self.messages.clear()
        self.attached.clear()
        return "the conversation is empty; settings and system message stay"

    def _attach_image(self, argument: str) -> str:
        return self._attach("image", argument)

    def _attach_audio(self, argument: str) -> str:
        return self._attach("audio", argument)

    def _attach(self, modality: Modality, name: str) -> str:
        if not name:
            raise UsageError(f"/{modality} needs a file, such as /{modality} {EXAMPLES[modality]}")
        path = Path(name).expanduser()
        try:
            raw = path.read_bytes() if path.is_file() else None
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
        if raw is None:
            raise UsageError(f"{path} is not a file")
        self.attached.append(Attachment(modality, path, raw))
        return f"{path.name} goes with the next message"

    def _list_settings(self, argument: str) -> str:
        width = max(map(len, SETTINGS))
        lines = [
            f"{'*' if name in self.settings else ' '} {name:{width}}  {_shown(self._value(name))}" for name in SETTINGS
        ]
        seed = [] if self.seed is None else [f"the last answer had the seed {self.seed}"]
        return "\n".join([*lines, "* set here; /help NAME explains a setting", *seed])

    def _save(self, argument: str) -> str:
        if not argument:
            raise UsageError("/save needs a file, such as /save chat.md or /save chat.json")
        path = Path(argument).expanduser()
        if path.exists() and path.resolve() not in self._saved:
            raise UsageError(f"{path} already exists; choose another file")
        content = self._as_json() if path.suffix == ".json" else self._as_text()
        try:
            write_atomically(path, content.encode())
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
        self._saved.add(path.resolve())
        return f"saved {len(self.messages)} messages to {path}"

    def _all_messages(self) -> list[Message]:
        return [*([Message("system", self.system)] if self.system else []), *self.messages]

    def _as_json(self) -> str:
        messages = [{"role": message.role, "content": message.text} for message in self._all_messages()]
        content = {"model": self.backend.name, "settings": self.settings, "seed": self.seed, "messages": messages}
        return json.dumps(content, ensure_ascii=False, indent=2) + "\n"

    def _as_text(self) -> str:
        return "".join(f"## {message.role}\n\n{message.text}\n\n" for message in self._all_messages())

    def _help(self, argument: str) -> str:
        if argument:
            field = SETTINGS[_setting_name(argument)]
            return f"{field.name}: {field.help} It must be {field.expected}; default {_shown(field.default)}."
        width = max(len(each.usage) for each in self.COMMANDS)
        lines = [f"{each.usage:{width}}  {each.help}" for each in self.COMMANDS]
        return "\n".join([*lines, "Ctrl-C stops an answer, Ctrl-D ends the chat."])

    def _quit(self, argument: str) -> str:
        self.is_over = True
        return ""

    COMMANDS: ClassVar[tuple[Command, ...]] = (
        Command("/set NAME VALUE", "Change a setting; without a value, return to its default.", _set),
        Command("/settings", "List all settings.", _list_settings),
        Command("/image FILE", "Put a picture before the next message.", _attach_image),
        Command("/audio FILE", "Put a sound before the next message.", _attach_audio),
        Command("/system TEXT", "Set the system message; without a text, remove it.", _set_system),
        Command("/reset", "Begin a new conversation.", _reset),
        Command("/save FILE", "Save the conversation, as JSON if the file ends in .json.", _save),
        Command("/help [NAME]", "List the commands, or explain a setting.", _help),
        Command("/quit", "End the chat.", _quit),
    )


def _setting_name(given: str) -> str:
    name = given.lower().replace("-", "_")
    if name not in SETTINGS:
        nearest = [each for each in SETTINGS if each.startswith(name)] or difflib.get_close_matches(name, SETTINGS, 1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise UsageError(f"unknown setting {given}; {hint}/settings lists them")
    return name


def _parse(name: str, text: str) -> Any:
    """Return a value given as JSON, or as text without quotes."""
    field = SETTINGS[name]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    takes_text = str in field.types and not isinstance(value, str)
    try:
        return parse_fields({name: value}, [field])[name]
    except APIError as error:
        if not takes_text:
            raise UsageError(str(error)) from error
    return parse_fields({name: text}, [field])[name]


def _shown(value: Any) -> str:
    return "none" if value is None or value in ((), {}) else json.dumps(value, ensure_ascii=False, default=dict)
