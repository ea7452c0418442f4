"""Counts of words and sentences for IFEval's checks, by rules that agree with NLTK's, which the benchmark uses.

Free of torch. The agreement is measured in docs/log.md; NLTK itself would need a download of its sentence model.
"""

from __future__ import annotations

import re
from itertools import pairwise

_ABBREVIATIONS = (
    "mr mrs ms dr prof rev gen col capt lt sgt sen rep gov hon st jr sr co corp inc ltd bros vs etc e.g i.e eg ie "
    "u.s u.k u.n a.m p.m d.c ph.d b.a m.a no vol fig al jan feb aug sept oct nov dec approx"
)
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
"""Words, in lower case, whose period does not end a sentence."""
_MARKS, _CLOSING, _OPENING = ".?!…", "\"'”’)]*_", "\"'“‘([*_"
_CLITIC = re.compile(r"(n't|'(?:s|m|d|ll|re|ve))(?=\W|$)", re.IGNORECASE)
_SEPARATOR = re.compile(r"--|[\s\[\](){}<>;@#$%&?!\"“”,…`]|:(?!\d)")


def count_words(text: str) -> int:
    """Return the number of runs of letters, digits and underscores."""
    return len(re.findall(r"\w+", text))


def count_sentences(text: str) -> int:
    """Return the number of sentences: they end in a period, a question or an exclamation mark before white space."""
    words = text.split()
    if not words:
        return 0
    return 1 + sum(_ends_sentence(word, following[0]) for word, following in pairwise(words))


def _ends_sentence(word: str, following: str) -> bool:
    """Return whether a sentence ends with a word, given the first character of the next one."""
    # No regular expression: one that finds the marks at the end takes cubic time on a reply of thousands of periods.
    unquoted = word.rstrip(_CLOSING)
    before = unquoted.rstrip(_MARKS)
    token, mark = before.lstrip(_OPENING), unquoted[len(before) :]
    if not mark:
        return False
    if mark[-1] in "?!":
        return True
    if mark.startswith("..") or mark == "…":
        return following.isupper()
    if token.isdigit():
        return not following.islower()
    is_initial = len(token) == 1 and token.isupper() and token != "I"
    return not (token.lower() in ABBREVIATIONS or is_initial)


def count_capital_words(text: str) -> int:
    """Return the number of words in capital letters only; words with a hyphen are one, and `DON'T` is two (DO, N'T)."""
    return sum(word.isupper() for word in _SEPARATOR.split(_CLITIC.sub(r" \1", text)) if word)
