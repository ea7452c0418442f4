"""Notes about text that occurs twice: near-duplicates that were dropped, training text that is in the validation text."""

from __future__ import annotations

from collections.abc import Iterator

from glassgpt.data.blocks.ngrams import WORDS
from glassgpt.data.blocks.writing import Chosen

MAX_EXAMPLES = 3


def near_duplicate_texts(chosen: Chosen) -> Iterator[str]:
    """Yield a note about the first near-duplicates that were dropped."""
    for dropped, resembled in chosen.choice.near_duplicates[:MAX_EXAMPLES]:
        yield f"near-duplicate dropped: {chosen.origin(dropped)} resembles {chosen.origin(resembled)}"


def contamination_text(chosen: Chosen, action: str) -> str:
    """Return a note about training text that is in the validation text, empty if there is none.

    Args:
        chosen: the documents.
        action: what is done with them, see `PrepareOptions.contamination`.
    """
    found = chosen.choice.contaminated
    if not found:
        return ""
    places = "; ".join(chosen.origin(document) for document in found[:MAX_EXAMPLES])
    ends = {
        "warn": "they make the validation loss too low; remove them with --contamination remove",
        "remove": "they were removed",
        "refuse": "remove them with --contamination remove, or keep them with --contamination warn",
    }
    return (
        f"training documents that share {WORDS} words in a row with a validation document: {len(found):,}, such as {places}; "
        f"{ends[action]}"
    )
