"""The bytes of a token as text that can be printed."""

from __future__ import annotations

SYMBOLS = {"\n": "⏎", "\t": "→", "\r": "␍"}


def printable(raw: bytes) -> str:
    """Return token bytes as printable text: control characters as symbols, incomplete characters as `<ED>` bytes."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return "".join(f"<{byte:02X}>" for byte in raw)
    return "".join(_printable_character(character) for character in text)


def _printable_character(character: str) -> str:
    if character in SYMBOLS or character == " " or character.isprintable():
        return SYMBOLS.get(character, character)
    return f"<U+{ord(character):04X}>"
