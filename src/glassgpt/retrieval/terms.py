"""The terms of a text: words in lower case, and pairs of neighboring characters where words have no blanks between.

Hangul is cut into pairs as well: a Korean word carries its particles, so that 도시는 and 도시에서 are one word with
different endings, and share the pair 도시.
"""

from __future__ import annotations

import re
import unicodedata

HANGUL_AND_HAN = "가-힣ᄀ-ᇿぁ-ヿ㐀-鿿"
WITHOUT_BLANKS = re.compile(f"[{HANGUL_AND_HAN}]")
RUN = re.compile(f"[{HANGUL_AND_HAN}]+|(?:(?![{HANGUL_AND_HAN}])[^\\W_])+")
WORD = re.compile(r"[^\W_]+")
TYPOGRAPHIC = "“”‘’—–…"
"""Marks that keep English text from being ASCII, which is split without a regular expression, in half the time."""
BLANKS = "".join(chr(code) if chr(code).isalnum() else " " for code in range(128))
"""Table for `str.translate`: a blank for each ASCII character that is in no word."""


def words(text: str) -> list[str]:
    """Return the terms of a text in order, not yet stemmed."""
    text = text.lower()
    if not text.isascii():
        for mark in TYPOGRAPHIC:
            text = text.replace(mark, " ")
    if text.isascii():
        return text.translate(BLANKS).split()
    text = unicodedata.normalize("NFC", text)  # macOS writes Hangul as single letters
    if not WITHOUT_BLANKS.search(text):
        return WORD.findall(text)
    terms: list[str] = []
    for run in RUN.findall(text):
        if WITHOUT_BLANKS.match(run) and len(run) > 1:
            terms += [run[at : at + 2] for at in range(len(run) - 1)]
        else:
            terms.append(run)
    return terms


def stem(word: str) -> str:
    """Return an English word without the ending of its plural (Harman, "How effective is suffixing?", 1991)."""
    if len(word) < 4 or word[-1] != "s" or word[-2] in "us":
        return word
    return f"{word[:-3]}y" if word.endswith("ies") and len(word) > 4 else word[:-1]
