"""Chat templates in Jinja, which imported models bring: programs, so they run in Jinja's sandbox and in little time.

The prompt's ids are those of transformers' `apply_chat_template`, with one difference on purpose: a special token that
is spelled out in a message stays ordinary text, so that nobody ends a turn or begins another one by writing its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassgpt.data.chat.chat_template import TRANSCRIPT, ChatTemplate
from glassgpt.data.chat.plain import PLAIN_TEMPLATE
from glassgpt.data.chat.step_limit import limited_steps, limited_total
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import ConfigError, GenerationError

JINJA_SUFFIX = ".jinja"
MAX_BYTES = 64 << 10
MAX_STEPS = 10**6
"""Lines of a template, and of what it calls, that run for one prompt; a loop without end stops there."""
MAX_MADE_BYTES = 10**9
"""Size of all texts and lists that a template makes for one prompt, whether or not it keeps them."""
MAX_MESSAGE = 200
ROLES = ("system", "user", "assistant")
BEGIN_TOKEN_SET = re.compile(r"\{%-? set bos_token = .*?%\}\n?")
"""The first line of an imported model's template, which names the token before each text."""
NO_BEGIN_TOKEN = "it uses bos_token, which the model does not name; begin the template with {%- set bos_token = '…' -%}"
BREAKERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Noncharacters, which no text should contain; one of them breaks the names of special tokens in messages."""


@dataclass(frozen=True)
class JinjaTemplate:
    """A chat template in Jinja; see `ChatTemplate`, which it can stand for.

    Attributes:
        template: compiled in a sandbox.
        source: where it comes from, for /v1/models.
        stop: strings that end the assistant's message; the model's end-of-text token does, so there are none.
        roles: of messages.
    """

    template: Any
    source: str
    stop: tuple[str, ...] = ()
    roles: tuple[str, ...] = ROLES

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[tuple[str, str]],
        *,
        parse_special_tokens: bool = False,
        inserted: Mapping[str, str] | None = None,
    ) -> list[int]:
        """Return the ids of the prompt that the assistant's next message continues.

        Args:
            tokenizer: the model's.
            messages: (role, text) pairs.
            parse_special_tokens: whether a special token that is spelled out in a message becomes its id.
            inserted: noncharacters in the messages, and the special token that replaces each.

        Raises:
            GenerationError: the template refuses the messages, or fails.
        """
        breaker = "" if parse_special_tokens else unused_noncharacters(messages, 1)[0]
        messages = spelled_out(tokenizer, messages, breaker, inserted)
        return tokenizer.encode_with_special_tokens(self.prompt(tokenizer, messages), breaker)

    def prompt(self, tokenizer: Tokenizer, messages: Sequence[tuple[str, str]]) -> str:
        """Return the text of the prompt; see `write`."""
        return self.write(tokenizer, messages, add_generation_prompt=True)

    def write(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[tuple[str, str]],
        *,
        add_generation_prompt: bool,
        marks: tuple[str, str] = ("", ""),
    ) -> str:
        """Return the text of a conversation.

        Args:
            tokenizer: the model's.
            messages: (role, text) pairs.
            add_generation_prompt: whether to begin the assistant's next message at the end.
            marks: texts to write before and after each `{% generation %}` block.

        Raises:
            GenerationError: the template refuses the messages, or fails.
        """
        from jinja2 import StrictUndefined

        end_of_text = next(name for name, token in tokenizer.special_tokens.items() if token == tokenizer.end_of_text)
        is_only = len(tokenizer.special_tokens) == 1  # it then also stands before texts, as in GPT-2 and in our exports
        variables: dict[str, Any] = {
            "messages": [{"role": role, "content": text} for role, text in messages],
            "add_generation_prompt": add_generation_prompt,
            "eos_token": end_of_text,
            "bos_token": end_of_text if is_only else StrictUndefined(NO_BEGIN_TOKEN),
            "generation_start": marks[0],
            "generation_end": marks[1],
        }
        try:
            with limited_steps(MAX_STEPS), limited_total(MAX_MADE_BYTES):
                text = self.template.render(variables)
        except Exception as error:
            raise GenerationError(f"the chat template {self.source} failed: {_first_line(error)}") from error
        if not text:
            raise GenerationError(f"the chat template {self.source} wrote nothing for these messages")
        return text


Template = ChatTemplate | JinjaTemplate
"""A chat template of either kind."""


def load_jinja_template(path: Path, own: Path | None = None) -> JinjaTemplate:
    """Return the chat template in a file; see `read_template`.

    Raises:
        ConfigError: the file cannot be read, or is not a template.
    """
    return compile_template(read_template(path, own), str(path))


def read_template(path: Path, own: Path | None = None) -> str:
    """Return the source of a chat template.

    Args:
        path: its file.
        own: file of the template that came with the model, which may not exist; it may name the token before each text.

    Raises:
        ConfigError: the file cannot be read.
    """
    text = _read(path)
    begin = BEGIN_TOKEN_SET.match(_read(own)) if own is not None and own.is_file() else None
    return text if begin is None or BEGIN_TOKEN_SET.match(text) else begin.group() + text


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
        if len(content) > MAX_BYTES:
            raise ConfigError([f"{path} has {len(content):,} bytes; a chat template must have at most {MAX_BYTES:,}"])
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} cannot be read: {error}"]) from error


def compile_template(text: str, source: str) -> JinjaTemplate:
    """Return the chat template in a text, compiled with the functions that transformers gives it.

    Raises:
        ConfigError: it is not a template.
    """
    from jinja2 import TemplateError

    from glassgpt.data.chat.jinja_sandbox import ChatTemplateEnvironment

    try:
        return JinjaTemplate(ChatTemplateEnvironment().from_string(text), source)
    except (TemplateError, RecursionError) as error:
        raise ConfigError([f"{source} is not a chat template: {_first_line(error)}"]) from error


def marked_template(template: Template) -> JinjaTemplate | None:
    """Return a template that tells what the assistant wrote: the plain one for a run without a template of its own.

    Returns:
        None for a table of texts, which does not tell it.
    """
    if isinstance(template, JinjaTemplate):
        return template
    return compile_template(PLAIN_TEMPLATE, "the plain transcript") if template == TRANSCRIPT else None


def unused_noncharacters(messages: Sequence[tuple[str, str]], count: int) -> list[str]:
    """Return noncharacters that no message contains.

    Raises:
        GenerationError: the messages contain nearly all of them.
    """
    unused = [each for each in BREAKERS if all(each not in text for _, text in messages)]
    if len(unused) < count:
        raise GenerationError("the messages contain nearly all noncharacters from U+FDD0 to U+FDEF; remove some")
    return unused[:count]


def spelled_out(
    tokenizer: Tokenizer, messages: Sequence[tuple[str, str]], breaker: str, inserted: Mapping[str, str] | None
) -> list[tuple[str, str]]:
    """Return messages whose special tokens stay ordinary text, unless the breaker is empty, but for those of `inserted`.

    The order matters: a name that a message spells out is hidden before marks become names.
    """
    pairs = [(role, _hide_special_tokens(tokenizer, text, breaker) if breaker else text) for role, text in messages]
    for mark, name in (inserted or {}).items():
        pairs = [(role, text.replace(mark, name)) for role, text in pairs]
    return pairs


def _hide_special_tokens(tokenizer: Tokenizer, text: str, breaker: str) -> str:
    """Return a text with the breaker inside each name of a special token, so that the name is not found.

    `encode_with_special_tokens` removes the breaker before the text becomes tokens.
    """
    for name in sorted(tokenizer.special_tokens, key=len, reverse=True):
        text = text.replace(name, f"{name[0]}{breaker}{name[1:]}")
    return text


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:MAX_MESSAGE]
