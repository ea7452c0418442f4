"""The catalogue: for each code what it means, its cause and what to do, in English and Korean.

The TOML files beside this one are the only source; the terminal, the report and the pages in `docs/diagnosis` are
made of them. In a text `{name}` is filled with the figure of that name from `Finding.seen`. What checks measured stands in
`checks.toml`, why a replay came to its verdict in `reasons.toml`, single words that figures may be in `words.toml`.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

from glassgpt.diagnosis.findings import CheckResult, Finding, Value
from glassgpt.errors import UsageError

Language = Literal["en", "ko"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
ACTIONS, CHECKS, REASONS, WORDS = "actions.toml", "checks.toml", "reasons.toml", "words.toml"
WORDED = ("cause", "event")
"""Figures that are words of ours, and so have one in each language."""
PLACEHOLDER = re.compile(r"\{(\w+)\}")
CODE = re.compile(r"GG-[A-Z]{2,4}-\d{3}")


@dataclass(frozen=True)
class Text:
    """One entry in one language.

    Attributes:
        title: what was seen, in a line.
        means: what that is, for somebody who meets it for the first time.
        cause: where it usually comes from.
        do: what to change, most likely remedy first.
        name: of the cause, in a few words, where other findings rule it out.
    """

    title: str
    means: str
    cause: str
    do: str
    name: str = ""

    def filled(self, seen: Mapping[str, Value]) -> Text:
        """The same with the figures in it."""
        title, means, cause, do = (fill(part, seen) for part in (self.title, self.means, self.cause, self.do))
        return Text(title, means, cause, do, self.name)

    def placeholders(self) -> set[str]:
        """The names of all figures that the text asks for."""
        return set(PLACEHOLDER.findall(f"{self.title} {self.means} {self.cause} {self.do}"))


@cache
def entries() -> dict[str, dict[Language, Text]]:
    """Every entry by its code, in the order of the codes."""
    tables = (file for name, file in _files().items() if name not in (ACTIONS, CHECKS, REASONS, WORDS))
    return dict(sorted((code, _texts(table)) for file in tables for code, table in file.items()))


@cache
def actions() -> dict[str, dict[Language, str]]:
    """What a finding's `done` may name, in each language."""
    return _lines(ACTIONS)


@cache
def reasons() -> dict[str, dict[Language, str]]:
    """Why a replay came to its verdict, in each language."""
    return _lines(REASONS)


@cache
def words() -> dict[str, dict[Language, str]]:
    """Single words that figures may be: causes and events."""
    return _lines(WORDS)


@cache
def checks() -> dict[str, dict[str, Any]]:
    """For each check, by its English name, its name in other languages and a sentence for each outcome."""
    return _files()[CHECKS]


def _lines(file: str) -> dict[str, dict[Language, str]]:
    return {name: {language: table[language] for language in LANGUAGES} for name, table in _files()[file].items()}


@cache
def _files() -> dict[str, dict[str, Any]]:
    folder = resources.files("glassgpt") / "diagnosis" / "catalogue"
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return {entry.name: tomllib.loads(entry.read_text(encoding="utf-8")) for entry in files}


def _texts(table: Mapping[str, Mapping[str, str]]) -> dict[Language, Text]:
    return {language: Text(**{part: text.strip() for part, text in table[language].items()}) for language in LANGUAGES}


def entry(code: str, language: Language = "en") -> Text:
    """The text of a code.

    Raises:
        UsageError: there is no such code.
    """
    if code not in entries():
        close = difflib.get_close_matches(code, entries(), n=3, cutoff=0)
        raise UsageError(
            f"there is no finding {code}; the nearest are {', '.join(close)}; docs/diagnosis/index.md has all"
        )
    return entries()[code][language]


def describe(finding: Finding, language: Language = "en") -> Text:
    """The text of a finding, its figures filled in."""
    seen = dict(finding.seen)
    if "why" in seen:
        seen["why"] = reason(str(seen["why"]), seen, language)
    return entry(finding.code, language).filled(seen)


def reason(key: str, seen: Mapping[str, Value], language: Language = "en") -> str:
    """Why a replay came to its verdict; what is no key of ours (a run of an older version wrote it out) as it is."""
    known = reasons().get(key)
    if known is None or not set(PLACEHOLDER.findall(known[language])) <= seen.keys():
        return key
    return fill(known[language], seen)


def check_name(check: CheckResult, language: Language = "en") -> str:
    """What a check is called."""
    return check.name if language == "en" else str(checks()[check.name][language])


def measured(check: CheckResult, language: Language = "en") -> str:
    """What a check measured, in a line.

    Raises:
        KeyError: the catalogue has no such check or outcome, or a figure is missing.
    """
    told = {name: word(str(value), language) if name in WORDED else value for name, value in check.seen.items()}
    return str(checks()[check.name][check.outcome][language]).format_map(told)


def word(name: str, language: Language) -> str:
    """A cause or an event in a language; what is not known, as it is."""
    return words().get(name, {}).get(language, name)


def done(finding: Finding, language: Language = "en") -> list[str]:
    """What was done already, a sentence each."""
    return [fill(actions()[name][language], finding.seen) for name in finding.done]


def ruled_out(finding: Finding, language: Language = "en") -> list[str]:
    """The causes that were looked for and are not it, each with its code."""
    texts = {code: entry(code, language) for code in finding.ruled_out}
    return [f"{text.name or PLACEHOLDER.sub('…', text.title)} ({code})" for code, text in texts.items()]


def fill(text: str, seen: Mapping[str, Value]) -> str:
    """The text with its figures; one that was not seen is a programming error.

    Raises:
        KeyError: the figure that is missing.
    """
    return PLACEHOLDER.sub(lambda match: figure(seen[match[1]]), text)


def figure(value: Value) -> str:
    """A figure as a person reads it: four digits that count, thousands apart."""
    if isinstance(value, str):
        return value
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.4g}" if 1e-3 <= abs(value) < 1e6 else f"{value:.3g}"


def plain(text: str) -> str:
    """A text without figures, as a reader sees it: `{step}` stands for a figure of that name."""
    return text.replace("{", "‹").replace("}", "›")


def page(code: str) -> str:
    """Where a code's page lies in the repository."""
    return f"docs/diagnosis/{code}.md"


def terminal_language() -> Language:
    """Korean where the environment asks for it, else English."""
    wanted = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "")
    return "ko" if wanted.startswith("ko") else "en"
