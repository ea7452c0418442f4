"""A row of packed conversations: its flags and its length. Free of torch."""

from __future__ import annotations

SUPERVISED, STARTS, TEXT = 1, 2, 4
"""Bits of a token's flags: it is learned; it begins a conversation or a row of text; it is in a row of text."""


def row_length_problem(row_length: int, sequence_length: int) -> str | None:
    """Return why rows of conversations cannot be read as sequences of another length, or None if they can.

    Args:
        row_length: tokens of a row, one more than a model reads of it.
        sequence_length: tokens that it is to read.
    """
    if row_length == sequence_length + 1:
        return None
    return (
        f"the conversations are packed into rows of {row_length - 1} tokens, but train.sequence_length is {sequence_length}; "
        f"set it to {row_length - 1}"
    )
