"""Terminal output of conversations."""

from __future__ import annotations

from glassgpt import console
from glassgpt.data.chat.dataset import ConversationDataset
from glassgpt.data.chat.render import Rendered
from glassgpt.data.shards import SPLITS
from glassgpt.data.tokenizers import Tokenizer

LEARNED, CONTEXT = "bold black on green", "dim"
BRACKETS = ("⟦", "⟧")


def print_conversation(number: int, rendered: Rendered, tokenizer: Tokenizer) -> None:
    """Print a conversation, with the tokens that are learned in color, or in brackets where there are no colors."""
    console.output(f"[{number}]")
    parts: list[tuple[str, str]] = []
    opening, closing = ("", "") if console.has_color() else BRACKETS
    start = 0
    for end in range(1, len(rendered.tokens) + 1):
        if end == len(rendered.tokens) or rendered.supervised[end] != rendered.supervised[start]:
            text = console.visible(tokenizer.decode(rendered.tokens[start:end]))
            parts.append((f"{opening}{text}{closing}", LEARNED) if rendered.supervised[start] else (text, CONTEXT))
            start = end
    console.styled(*parts)
    how = console.translated("in color") if console.has_color() else f"{BRACKETS[0]} {BRACKETS[1]}"
    console.info(f"{sum(rendered.supervised):,} of {len(rendered.tokens):,} tokens are learned ({how})")


def print_conversations(dataset: ConversationDataset) -> None:
    """Print what a dataset of conversations holds, and what was cut."""
    counts = dataset.conversations
    rows = [
        [console.translated(label), *(f"{getattr(counts.split(name), field):,}" for name in SPLITS)]
        for label, field in (
            ("conversations", "conversations"),
            ("tokens", "tokens"),
            ("learned tokens", "supervised"),
            ("cut conversations", "cut"),
            ("dropped conversations", "dropped"),
            *([("tokens of text", "text")] if counts.train.text else []),
        )
    ]
    console.table(f"rows of {counts.row_length - 1:,} tokens", ["", *SPLITS], rows)
    lost = counts.train.cut + counts.train.dropped
    if lost:
        console.warn(
            f"{lost:,} conversations are longer than a row: {counts.train.cut:,} lost their last turns, "
            f"{counts.train.dropped:,} are left out; longer rows: --row-tokens"
        )
