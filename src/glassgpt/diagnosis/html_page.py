"""The frame of a page in a single file: both languages, light and dark, no script, nothing from the network.

The page contains both languages; radio buttons and the style sheet alone decide which language and which colors are
shown. There is no script, and the page's content security policy forbids any.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from importlib import resources

from glassgpt.locale import LANGUAGES, Language

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
WORDS: dict[Language, dict[str, str]] = {
    "en": {"light": "light", "dark": "dark", "auto": "auto", "language": "Language", "colors": "Colors"},
    "ko": {"light": "밝게", "dark": "어둡게", "auto": "자동", "language": "언어", "colors": "색"},
}


def in_both(text: Callable[[Language], str], tag: str = "span") -> str:
    """Return an element for each language; the style sheet shows one of them. `text` must return escaped HTML."""
    return "".join(f'<{tag} class="{language}" lang="{language}">{text(language)}</{tag}>' for language in LANGUAGES)


def html_page(title: str, body: str, language: Language, style: str = "") -> str:
    """Return a page.

    Args:
        title: in no language, such as a name.
        body: HTML, with both languages; see `in_both`.
        language: the one that is selected at first.
        style: CSS in addition to that of all pages.
    """
    common = (resources.files("glassgpt") / "diagnosis" / "report.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{common}{style}</style></head><body>{_switches(language)}<main>{body}</main></body></html>\n"
    )


def _word(name: str) -> str:
    return in_both(lambda language: escape(WORDS[language][name]))


def _switches(language: Language) -> str:
    names: dict[Language, str] = {"en": "English", "ko": "한국어"}
    languages = [_switch("language", id, names[id], is_on=id == language) for id in LANGUAGES]
    themes = [_switch("colors", id, _word(id), is_on=id == "auto") for id in ("auto", "light", "dark")]
    groups = {"language": languages, "colors": themes}
    return "".join(
        f"<fieldset><legend>{_word(name)}</legend>{''.join(switches)}</fieldset>" for name, switches in groups.items()
    )


def _switch(group: str, id: str, label: str, *, is_on: bool) -> str:
    return f'<label><input type="radio" name="{group}" id="{id}"{" checked" if is_on else ""}>{label}</label>'
