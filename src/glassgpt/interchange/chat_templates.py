"""The chat template of a model in Hugging Face format: a Jinja program that turns messages into a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from glassgpt.data.chat.jinja_template import BEGIN_TOKEN_SET
from glassgpt.interchange.files import read_json, read_text

CHAT_TEMPLATE_FILE, SETTINGS_FILE = "chat_template.jinja", "tokenizer_config.json"


def read_chat_template(folder: Path) -> str | None:
    """Return the chat template of a folder, or None if it has none.

    transformers writes a file of its own since version 4.51, and `tokenizer_config.json` had it before: one template, or
    several with names, of which `default` is taken.

    Raises:
        InterchangeError: a file cannot be read.
    """
    settings = read_json(folder / SETTINGS_FILE) if (folder / SETTINGS_FILE).is_file() else {}
    begin: Any = settings.get("bos_token")
    if isinstance(begin, dict):
        begin = cast("dict[str, Any]", begin).get("content")
    if (folder / CHAT_TEMPLATE_FILE).is_file():
        return with_begin_token(read_text(folder / CHAT_TEMPLATE_FILE), begin)
    found: Any = settings.get("chat_template")
    if isinstance(found, list):
        named = [cast("dict[str, Any]", each) for each in cast("list[Any]", found) if isinstance(each, dict)]
        found = next((each.get("template") for each in named if each.get("name") == "default"), None)
    return with_begin_token(found, begin) if isinstance(found, str) else None


def with_begin_token(template: str, begin: object) -> str:
    """Return a template that knows the token before each text, which a run does not keep, if it uses it."""
    if "bos_token" not in template or BEGIN_TOKEN_SET.match(template):
        return template
    name = json.dumps(begin if isinstance(begin, str) else "")
    return "\n".join(["{%- set bos_token = " + name + " -%}", template])
