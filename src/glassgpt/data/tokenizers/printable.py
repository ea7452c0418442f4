"""The bytes of tokens as text that can be printed."""

from __future__ import annotations

SYMBOLS = {"\n": "⏎", "\t": "→", "\r": "␍"}
SURROGATES = range(0xDC80, 0xDD00)
"""Code points to which `surrogateescape` decodes the bytes of incomplete characters."""


def printable(raw: bytes) -> str:
    """Return bytes as printable text: control characters as symbols, bytes of incomplete characters as `<ED>`."""
    return "".join(_printable_character(character) for character in raw.decode(errors="surrogateescape"))


def _printable_character(character: str) -> str:
    if character in SYMBOLS or character == " " or character.isprintable():
        return SYMBOLS.get(character, character)
    code = ord(character)
    return f"<{code - 0xDC00:02X}>" if code in SURROGATES else f"<U+{code:04X}>"
