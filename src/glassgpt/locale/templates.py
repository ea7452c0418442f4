"""Translate finished English messages by matching them against templates.

A template is an English text with `{}` for each value, just as the f-string in the source has it:
`{} already exists; choose another folder`. Its translation refers to the values by number: `{0}` is copied, `{0:t}` is
translated itself, `{0:n}` must be a number, `{0:-}` is left out (an English plural s). Particles that depend on the sound before them are written
with both forms; see `particles`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

from glassgpt.locale.particles import choose_particles

FIELD = re.compile(r"\{(\d+)(?::([nt-]))?\}")
NUMBER = re.compile(r"[\d.,]+(?: [kMGT])?")
MAX_LENGTH = 20_000
"""Longer texts are not translated."""
BREAKS = re.compile(r"(?=[;,:(]| at | of )")
"""Places at which a part that was appended to a message can begin."""


class Template:
    """An English template and its translation.

    Args:
        english: text with `{}` for each value.
        korean: text with the values by number.
    """

    def __init__(self, english: str, korean: str) -> None:
        self.literals = english.split("{}")
        self.korean = korean
        self._lines = english.count("\n")

    @cached_property
    def _translated_fields(self) -> set[int]:
        return {int(number) for number, mark in FIELD.findall(self.korean) if mark == "t"}

    @cached_property
    def _number_fields(self) -> set[int]:
        return {int(number) for number, mark in FIELD.findall(self.korean) if mark == "n"}

    def values(self, text: str) -> list[str] | None:
        """Return the values with which the template gives the text, each as short as possible and on one line, or None."""
        if text.count("\n") != self._lines:
            return None
        first, last = self.literals[0], self.literals[-1]
        at, end = len(first), len(text) - len(last)
        if end < at or not text.startswith(first) or not text.endswith(last):
            return None
        values: list[str] = []
        for literal in self.literals[1:-1]:
            found = text.find(literal, at, end)
            if found < 0:
                return None
            values.append(text[at:found])
            at = found + len(literal)
        values.append(text[at:end])
        return values if all(NUMBER.fullmatch(values[at]) for at in self._number_fields) else None

    def fill(self, values: list[str], parts: Templates) -> str:
        """Return the translation with its values; those marked `t` are translated, too."""
        values = self._divided(values, parts)

        def value(match: re.Match[str]) -> str:
            given = "" if match[2] == "-" else values[int(match[1])]
            return parts.translate_part(given) if match[2] == "t" else given

        return choose_particles(FIELD.sub(value, self.korean))

    def _divided(self, values: list[str], parts: Templates) -> list[str]:
        """Divide the text of adjacent fields, which no literal separates: the last one takes the longest known part."""
        values = list(values)
        for at in range(len(values) - 1, 0, -1):
            if self.literals[at] == "":
                together = values[at - 1] + values[at]
                values[at - 1], values[at] = together, ""
                if at in self._translated_fields:
                    values[at - 1], values[at] = parts.split_known_end(together)
        return values


class Templates:
    """A table of translations.

    Args:
        messages: English to Korean.
        parts: the same for pieces of messages that are too general to be recognized alone.
        connected: the same for connections of pieces, such as `{} or {}`, which occur in many texts.
    """

    def __init__(self, messages: Mapping[str, str], parts: Mapping[str, str], connected: Mapping[str, str]) -> None:
        self._constant = {english: korean for english, korean in messages.items() if "{}" not in english}
        self._messages = _Patterns(messages)
        self._parts = {english: korean for english, korean in parts.items() if "{}" not in english}
        self._part_patterns = _Patterns(parts)
        self._connected = _Patterns(connected)

    def translate(self, text: str) -> str:
        """Return a message in Korean, or as it is if no template gives it. Lines may be messages of their own."""
        if not text.strip() or len(text) > MAX_LENGTH:
            return text
        found = self._message(text)
        if found is None and "\n" in text:
            return "\n".join(map(self.translate, text.split("\n")))
        return text if found is None else found

    def translate_part(self, text: str) -> str:
        """Return a value that is a text of this program in Korean, such as a reason or the name of a type."""
        found = self._with_note(text) or self._known(text)
        if found is None:
            found = self._fill_first(self._connected, text)
        return text if found is None else found

    def _with_note(self, text: str) -> str | None:
        """Translate `an integer (0 disables it)`, unless it is known as a whole."""
        before, bracket, note = text.removesuffix(")").rpartition(" (")
        if not bracket or not text.endswith(")") or text in self._parts or text in self._constant:
            return None
        found = self._known(before)
        return None if found is None else f"{found}({self.translate_part(note)})"

    def split_known_end(self, text: str) -> tuple[str, str]:
        """Split off the longest end of a text that is a known part, and translate it."""
        for match in BREAKS.finditer(text):
            if (found := self._known(text[match.start() :])) is not None:
                return text[: match.start()], found
        return text, ""

    def _known(self, text: str) -> str | None:
        if not text:
            return None
        found = self._part(text)
        return self._message(text) if found is None else found

    def _part(self, text: str) -> str | None:
        found = self._parts.get(text) or self._constant.get(text)
        return self._fill_first(self._part_patterns, text) if found is None else found

    def _message(self, text: str) -> str | None:
        found = self._constant.get(text)
        if found is None:
            found = self._fill_first(self._messages, text)
        return self._compound(text) if found is None else found

    def _fill_first(self, patterns: _Patterns, text: str) -> str | None:
        for template in patterns.that_may_give(text):
            values = template.values(text)
            if values is not None:
                return template.fill(values, self)
        return None

    def _compound(self, text: str) -> str | None:
        """Translate `file, line 3: message` and `message; hint`."""
        before, colon, rest = text.partition(": ")
        if "\n" in text:  # lines that no single template gives are messages of their own
            found = self._constant.get(rest) or self._fill_first(self._messages, rest)
            return None if found is None or "\n" in before else f"{self.translate_part(before)}: {found}"
        if colon and (found := self._message(rest)) is not None:
            return f"{self.translate_part(before)}: {found}"
        for match in re.finditer(r"(?=; |, | \()", text):
            end = self._parts.get(text[match.start() :]) or self._constant.get(text[match.start() :])
            if end is None:
                end = self._fill_first(self._messages, text[match.start() :])
            if end is None:
                end = self._fill_first(self._part_patterns, text[match.start() :])
            if end is not None and (start := self._known(text[: match.start()])) is not None:
                return start + end
        return None


class _Patterns:
    """The templates with values of a table, the most specific first."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        longest_first = sorted((english for english in texts if "{}" in english), key=lambda english: -len(english))
        templates = [Template(english, texts[english]) for english in longest_first]
        starts = {template.literals[0][:1] for template in templates}
        self._by_start = {
            start: [each for each in templates if each.literals[0][:1] in ("", start)] for start in starts
        }
        self._without_start = [each for each in templates if each.literals[0] == ""]

    def that_may_give(self, text: str) -> list[Template]:
        """Return those that begin with a value or with the first character of the text."""
        return self._by_start.get(text[:1], self._without_start)
