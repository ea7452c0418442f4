"""Reasons to leave a file of source code out: it was not written by hand, or must not be learned."""

from __future__ import annotations

import re

from glassgpt.data.code.secrets import has_secret

MAX_BYTES = 1_000_000
LONGEST_LINE, MEAN_LINE, MIN_ALPHANUMERIC = 1000, 100, 0.25
"""The thresholds of The Stack's filters (Kocetkov et al. 2022): longest line, mean line, share of letters and digits."""
HEAD_CHARACTERS = 1000

LARGE, NOT_TEXT, EMPTY = "larger than 1 MB", "not UTF-8", "empty"
GENERATED, MINIFIED, DATA, SECRET = "generated", "minified", "mostly data", "with secrets"
EXCLUDED, COPY, NEAR_COPY = "with excluded text", "exact copy", "near-duplicate"
REASONS = (LARGE, NOT_TEXT, EMPTY, GENERATED, MINIFIED, DATA, SECRET, EXCLUDED, COPY, NEAR_COPY)
"""In the order in which files are tested."""

GENERATED_MARK = re.compile(
    r"@generated\b|do not (?:edit|modify)\b|(?:auto-?|automatically |machine )generated|generated (?:by|from|with) ",
    re.IGNORECASE,
)
COMMENT_MARKS = ("#", "//", "/*", "*", " *", '"""', "'''", "--", "<!--")


def reason_to_drop(text: str) -> str | None:
    """Return why a text is left out, one of `REASONS`, or None if it is kept."""
    if not text.strip():
        return EMPTY
    if is_generated(text):
        return GENERATED
    lines = text.splitlines()
    if max(map(len, lines)) > LONGEST_LINE or len(text) / len(lines) > MEAN_LINE:
        return MINIFIED
    if sum(map(str.isalnum, text)) < MIN_ALPHANUMERIC * len(text):
        return DATA
    return SECRET if has_secret(text) else None


def is_generated(text: str) -> bool:
    """Return whether a comment that begins in the first column, near the beginning, says that a program wrote the file."""
    lines = text[:HEAD_CHARACTERS].splitlines()
    return any(line.startswith(COMMENT_MARKS) and GENERATED_MARK.search(line) for line in lines)
