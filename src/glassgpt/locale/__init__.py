"""Texts for people in Korean; see `docs/decisions/0029-korean.md`. A base package: it imports only `errors`.

The program is written in English. What a command prints for a person is translated at the one place that prints, by
matching the English text against the templates in `ko`. Exceptions, JSON and files stay English. In English, none of
the tables are loaded.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Literal, get_args

from glassgpt.errors import UsageError

if TYPE_CHECKING:
    from glassgpt.locale.templates import Templates

Language = Literal["en", "ko"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
VARIABLE = "GLASSGPT_LANGUAGE"
"""Environment variable that selects the language, whatever the locale."""


def user_language() -> Language:
    """Return the language of the user: that of `GLASSGPT_LANGUAGE`, else that of the locale, else English.

    Raises:
        UsageError: `GLASSGPT_LANGUAGE` is not a supported language.
    """
    if given := os.environ.get(VARIABLE):
        if given not in LANGUAGES:
            raise UsageError(f"{VARIABLE} is {given!r}; it must be one of {', '.join(LANGUAGES)}")
        return "ko" if given == "ko" else "en"
    locale = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "")
    return "ko" if locale.startswith("ko") else "en"


@cache
def korean_templates() -> Templates:
    """Return the Korean templates."""
    from glassgpt.locale.ko import CONNECTED, HELP, MESSAGES, PARTS
    from glassgpt.locale.templates import Templates

    return Templates(MESSAGES | HELP, PARTS, CONNECTED)


def to_korean(text: str) -> str:
    """Return a message of this program in Korean; what has no translation stays as it is."""
    return korean_templates().translate(text)
