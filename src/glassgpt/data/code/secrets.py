"""Find passwords and keys in source code: formats that services use, and random-looking values of telling names."""

from __future__ import annotations

import math
import re
from collections import Counter

MIN_ENTROPY = 3.4
"""Bits per character from which a value of 20 characters or more, with letters and digits, looks random. Hexadecimal
numbers of 32 digits have 3.4 to 3.9."""

KEY_FORMATS = re.compile(
    r"(?:\b|_)(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}"  # Amazon
    r"|AIza[0-9A-Za-z_-]{35}"  # Google
    r"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,}|glpat-[A-Za-z0-9_-]{20}"  # GitHub, GitLab
    r"|xox[abprs]-[0-9A-Za-z-]{20,}"  # Slack
    r"|sk_live_[0-9A-Za-z]{24,}|sk-(?:[A-Za-z0-9]{40,}|(?:proj|svcacct|ant)-[A-Za-z0-9_-]{20,})"  # Stripe, OpenAI, Anthropic
    r"|hf_[A-Za-z]{34}|npm_[A-Za-z0-9]{36}|pypi-AgEI[A-Za-z0-9_-]{50,}"  # Hugging Face, npm, PyPI
    r"|eyJ[A-Za-z0-9_-]{15,}\.eyJ[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{20,}"  # JSON web tokens
    r")"
)
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----[\s\"'\\nr+]*[A-Za-z0-9+/]{40}")
NAMED_VALUE = re.compile(
    r"(?i:passw(?:or)?d|secret|api_?key|access_?key|auth_?token|private_?key)\w*[\"']?\s*[:=]\s*[\"']([A-Za-z0-9+/=_-]{20,})[\"']"
)


def entropy(text: str) -> float:
    """Return the Shannon entropy of a text's characters in bits per character; 0 for an empty text."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


def has_secret(text: str) -> bool:
    """Return whether a text probably holds a secret. Keys that call themselves an example are none."""
    if any("EXAMPLE" not in found[0] for found in KEY_FORMATS.finditer(text)) or PRIVATE_KEY.search(text):
        return True
    return any(_is_random(found[1]) for found in NAMED_VALUE.finditer(text))


def _is_random(value: str) -> bool:
    has_both = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return has_both and "EXAMPLE" not in value.upper() and entropy(value) >= MIN_ENTROPY
