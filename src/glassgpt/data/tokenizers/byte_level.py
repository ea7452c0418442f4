"""GPT-2's mapping between bytes and printable characters.

A BPE vocabulary is a text file, so GPT-2 writes each byte as a printable character (Radford et al. 2019, "Language
Models are Unsupervised Multitask Learners", section 2.2, and the published code): bytes that are printable in Latin-1
represent themselves, the others are mapped in order to U+0100 and up.
"""

from __future__ import annotations


def printable_bytes() -> list[int]:
    """Return the bytes that represent themselves: Latin-1 without control characters, spaces and the soft hyphen."""
    return [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]


def byte_order() -> list[int]:
    """Return the 256 bytes in the order of GPT-2's first 256 ids: the printable ones, then the others."""
    printable = printable_bytes()
    return [*printable, *sorted(set(range(256)) - set(printable))]


def byte_of_character() -> dict[str, int]:
    """Return the byte that each of the 256 characters represents."""
    order = byte_order()
    printable = len(printable_bytes())
    table = {chr(byte): byte for byte in order[:printable]}
    table |= {chr(0x100 + i): byte for i, byte in enumerate(order[printable:])}
    return table


def to_bytes(piece: str, table: dict[str, int]) -> bytes:
    """Return the bytes of a token written in printable characters."""
    return bytes(table[character] for character in piece)
