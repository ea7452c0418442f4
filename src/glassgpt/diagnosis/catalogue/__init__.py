"""The catalogue: what each finding means, its cause and what to do, in English and Korean.

The TOML files in this folder are the single source of these texts; the terminal, the report and the pages in
`docs/diagnosis` are generated from them. `{name}` in a text is replaced by the value of that name in `Finding.evidence`.
`checks.toml` describes what checks measured, `reasons.toml` why a replay named its cause, `words.toml` the names of
causes and events.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from glassgpt.diagnosis.findings import CheckResult, Finding, Value
from glassgpt.errors import UsageError
from glassgpt.locale import LANGUAGES, Language, to_korean
from glassgpt.locale.particles import choose_particles

ACTIONS, CHECKS, REASONS, WORDS = "actions.toml", "checks.toml", "reasons.toml", "words.toml"
TRANSLATED_VALUES = ("cause", "event")
"""Values of a check result that are looked up in `words.toml`."""
TRANSLATED_TEXTS = ("problem", "error", "what", "hardware")
"""Values of a finding that are messages of this program."""
PLACEHOLDER = re.compile(r"\{(\w+)\}")
DISPLAY_NAMES = {"rung": "baseline", "micro_rows": "micro_batch_size"}
"""Standard terms for values that `events.jsonl` stores under older names."""
OLDER_VALUES: dict[str, dict[str, Value]] = {"GG-CFG-009": {"setting": "model.dropout"}}
"""Values, by code, that older versions did not store because they were the same in every finding."""
CODE = re.compile(r"GG-[A-Z]{2,4}-\d{3}")


@dataclass(frozen=True)
class CatalogueEntry:
    """The text about one code in one language.

    Attributes:
        title: what was found, in one line.
        means: what that means, for a reader who meets it for the first time.
        cause: the usual cause.
        do: what to change, the most likely remedy first.
        name: short name of the cause, for the list of causes that another finding rules out.
    """

    title: str
    means: str
    cause: str
    do: str
    name: str = ""

    def with_values(self, values: Mapping[str, Value]) -> CatalogueEntry:
        """Return a copy whose placeholders are replaced by values.

        Raises:
            KeyError: a value is missing.
        """
        title, means, cause = (fill_placeholders(text, values) for text in (self.title, self.means, self.cause))
        # What to do is typed: an option does not take 4,000.
        typed = {
            name: value if isinstance(value, str) else format_value(value).replace(",", "")
            for name, value in values.items()
        }
        return CatalogueEntry(title, means, cause, fill_placeholders(self.do, typed), name=self.name)

    def placeholders(self) -> set[str]:
        """Return the names of all values that the text needs."""
        return set(PLACEHOLDER.findall(f"{self.title} {self.means} {self.cause} {self.do}"))


@cache
def entries() -> dict[str, dict[Language, CatalogueEntry]]:
    """Return all entries by code, in the order of the codes."""
    tables = (file for name, file in _files().items() if name not in (ACTIONS, CHECKS, REASONS, WORDS))
    return dict(sorted((code, _parse_entry(table)) for file in tables for code, table in file.items()))


@cache
def actions() -> dict[str, dict[Language, str]]:
    """Return a sentence about each action that a finding's `actions` can name."""
    return _sentences(ACTIONS)


@cache
def reasons() -> dict[str, dict[Language, str]]:
    """Return a sentence about each reason that a replay can give."""
    return _sentences(REASONS)


@cache
def words() -> dict[str, dict[Language, str]]:
    """Return the display names of causes and events."""
    return _sentences(WORDS)


@cache
def checks() -> dict[str, dict[str, Any]]:
    """Return, by the English name of a check, its name in other languages and a sentence for each outcome."""
    return _files()[CHECKS]


def _sentences(file: str) -> dict[str, dict[Language, str]]:
    return {name: {language: table[language] for language in LANGUAGES} for name, table in _files()[file].items()}


@cache
def _files() -> dict[str, dict[str, Any]]:
    folder = resources.files("glassgpt") / "diagnosis" / "catalogue"
    files = [file for file in folder.iterdir() if file.name.endswith(".toml")]
    return {file.name: tomllib.loads(file.read_text(encoding="utf-8")) for file in files}


def _parse_entry(table: Mapping[str, Mapping[str, str]]) -> dict[Language, CatalogueEntry]:
    return {
        language: CatalogueEntry(**{part: text.strip() for part, text in table[language].items()})
        for language in LANGUAGES
    }


def entry(code: str, language: Language = "en") -> CatalogueEntry:
    """Return the entry of a code, with its placeholders.

    Raises:
        UsageError: there is no such code.
    """
    if code not in entries():
        similar = difflib.get_close_matches(code, entries(), n=3, cutoff=0)
        raise UsageError(f"there is no finding {code}; similar codes: {', '.join(similar)}")
    return entries()[code][language]


def describe(finding: Finding, language: Language = "en") -> CatalogueEntry:
    """Return the entry of a finding's code with the finding's values filled in.

    Raises:
        KeyError: the finding lacks a value that its text needs.
    """
    values = _translated_texts(finding.evidence, language)
    if "why" in values:
        values["why"] = reason(str(values["why"]), values, language)
    return entry(finding.code, language).with_values(values)


def completed(finding: Finding) -> Finding:
    """Return a stored finding with every value that its text needs.

    A text may need values that the version that stored the finding did not know. They are marked as on a page without values.

    Raises:
        UsageError: there is no finding of that code.
        KeyError: an action is unknown.
    """
    texts = [actions()[name][language] for name in finding.actions for language in LANGUAGES]
    names = {name for text in texts for name in PLACEHOLDER.findall(text)}
    names = names.union(*(entry(finding.code, language).placeholders() for language in LANGUAGES))
    marks = {name: mark_placeholders(f"{{{name}}}") for name in names}
    return replace(finding, evidence={**marks, **OLDER_VALUES.get(finding.code, {}), **finding.evidence})


def _translated_texts(values: Mapping[str, Value], language: Language) -> dict[str, Value]:
    """Return the values with the messages among them in a language."""
    texts = {name: to_korean(str(values[name])) for name in TRANSLATED_TEXTS if name in values and language == "ko"}
    return {**values, **texts}


def reason(key: str, values: Mapping[str, Value], language: Language = "en") -> str:
    """Return the sentence for a replay's reason, or the key itself if it is unknown or a value is missing.

    Runs of older versions logged whole sentences instead of keys.
    """
    known = reasons().get(key)
    if known is None or not set(PLACEHOLDER.findall(known[language])) <= values.keys():
        return key
    return fill_placeholders(known[language], values)


def check_name(check: CheckResult, language: Language = "en") -> str:
    """Return the display name of a check."""
    return check.name if language == "en" else str(checks()[check.name][language])


def describe_measurement(check: CheckResult, language: Language = "en") -> str:
    """Return what a check measured, in one line.

    Raises:
        KeyError: the catalogue lacks the check or its outcome, or a value is missing.
    """
    values = {
        name: word(str(value), language) if name in TRANSLATED_VALUES else value
        for name, value in _translated_texts(check.measurements, language).items()
    }
    return choose_particles(str(checks()[check.name][check.outcome][language]).format_map(values))


def word(name: str, language: Language) -> str:
    """Return the display name of a cause or an event, or the name itself if it is unknown."""
    return words().get(name, {}).get(language, name)


def actions_taken(finding: Finding, language: Language = "en") -> list[str]:
    """Return a sentence for each action that was already taken."""
    return [fill_placeholders(actions()[name][language], finding.evidence) for name in finding.actions]


def ruled_out_causes(finding: Finding, language: Language = "en") -> list[str]:
    """Return the causes that were checked for and ruled out, each with its code."""
    ruled_out = {code: entry(code, language) for code in finding.ruled_out}
    return [f"{text.name or PLACEHOLDER.sub('…', text.title)} ({code})" for code, text in ruled_out.items()]


def fill_placeholders(text: str, values: Mapping[str, Value]) -> str:
    """Replace each placeholder by its formatted value, and fit Korean particles to the values.

    Raises:
        KeyError: a value is missing.
    """
    return choose_particles(PLACEHOLDER.sub(lambda match: format_value(values[match[1]]), text))


def format_value(value: Value) -> str:
    """Format a value for people: four significant digits, thousands separated."""
    if isinstance(value, str):
        return value
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.4g}" if 1e-3 <= abs(value) < 1e6 else f"{value:.3g}"


def mark_placeholders(text: str) -> str:
    """Return a text for display without values: `{step}` becomes `‹step›`."""
    return PLACEHOLDER.sub(lambda match: f"‹{DISPLAY_NAMES.get(match[1], match[1])}›", text)
