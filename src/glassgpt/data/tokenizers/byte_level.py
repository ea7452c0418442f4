"""GPT-2's table between bytes and printable characters.

A BPE file is text, so GPT-2 writes each byte as a character that can be seen (Radford et al. 2019,
"Language Models are Unsupervised Multitask Learners", section 2.2, and the code published with it):
bytes that are printable in Latin-1 stand for themselves, the others, in order, for U+0100 onwards.
"""

from __future__ import annotations


def printable_bytes() -> list[int]:
    """The bytes that stand for themselves: Latin-1 without control characters, blanks, soft hyphen."""
    return [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]


def byte_order() -> list[int]:
    """The 256 bytes in the order of GPT-2's first 256 ids: the printable ones, then the others."""
    printable = printable_bytes()
    return [*printable, *sorted(set(range(256)) - set(printable))]


def byte_of_character() -> dict[str, int]:
    """The byte each of the 256 characters stands for."""
    order = byte_order()
    printable = len(printable_bytes())
    table = {chr(byte): byte for byte in order[:printable]}
    table |= {chr(0x100 + i): byte for i, byte in enumerate(order[printable:])}
    return table


def to_bytes(piece: str, table: dict[str, int]) -> bytes:
    """A piece in the printable spelling, as the bytes it stands for."""
    return bytes(table[character] for character in piece)
