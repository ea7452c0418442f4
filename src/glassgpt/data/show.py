"""Tokenizers made visible: the pieces of a text in colour, and how well each fits which language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.text import Text

from glassgpt import console
from glassgpt.data.tokenizers import Tokenizer, load_tokenizer

COLOURS = (
    "black on bright_cyan",
    "black on bright_yellow",
    "black on bright_green",
    "black on bright_magenta",
)
VISIBLE = {"\n": "⏎", "\t": "→", "\r": "␍"}

SAMPLES = {
    "English": "Every child who learns to read opens a door that nobody can close again.",
    "German": "Jedes Kind, das lesen lernt, öffnet eine Tür, die niemand mehr schließen kann.",
    "French": "Chaque enfant qui apprend à lire ouvre une porte que personne ne peut refermer.",
    "Spanish": "Cada niño que aprende a leer abre una puerta que nadie puede volver a cerrar.",
    "Korean": "글을 배우는 아이는 누구나 아무도 다시 닫을 수 없는 문을 연다.",
    "Chinese": "每个学会阅读的孩子都打开了一扇再也没有人能关上的门。",
    "Japanese": "読むことを覚える子どもは皆、誰にも二度と閉められない扉を開く。",
    "Arabic": "كل طفل يتعلم القراءة يفتح بابا لا يستطيع أحد أن يغلقه من جديد.",
    "Python": "def open_door(child):\n    if child.can_read:\n        return Door(closed=False)\n",
}
"""The same sentence in several languages, and code."""


def show_tokens(tokenizer: Tokenizer, text: str) -> None:
    """Print `text` with its pieces in alternating colours, then a table of pieces, ids and bytes."""
    tokens = tokenizer.encode(text)
    line = Text()
    for i, token in enumerate(tokens):
        line.append(visible(tokenizer.token_bytes(token)), style=COLOURS[i % len(COLOURS)])
    console.out.print(line)
    rows = [[str(token), visible(raw := tokenizer.token_bytes(token)), raw.hex(" ")] for token in tokens]
    console.table("", ["id", "piece", "bytes"], rows, numeric_from=3)
    per_token = len(text) / len(tokens) if tokens else 0.0
    console.output(
        f"{tokenizer.name}: {len(tokens)} tokens, {len(text)} characters, {len(text.encode())} bytes, "
        f"{per_token:.2f} characters per token"
    )


def compare_tokenizers(names_or_paths: Sequence[str | Path], texts: Mapping[str, str] | None = None) -> None:
    """Print characters per token of several tokenizers on several texts (more is shorter).

    Args:
        names_or_paths: what `load_tokenizer` takes.
        texts: text by label; without it the same sentence in eight languages, and code.
    """
    tokenizers = [load_tokenizer(name) for name in names_or_paths]
    rows = [
        [label, *(f"{characters_per_token(tokenizer, text):.2f}" for tokenizer in tokenizers)]
        for label, text in (texts or SAMPLES).items()
    ]
    console.table("characters per token", ["text", *(tokenizer.name for tokenizer in tokenizers)], rows)


def characters_per_token(tokenizer: Tokenizer, text: str) -> float:
    """How many characters one token stands for on average; 0 for an empty text."""
    return len(text) / max(1, len(tokenizer.encode(text)))


def visible(piece: bytes) -> str:
    """A piece as it can be printed: controls as signs, broken characters as their bytes."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return "".join(f"<{byte:02X}>" for byte in piece)
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    if character in VISIBLE or character == " " or character.isprintable():
        return VISIBLE.get(character, character)
    return f"<U+{ord(character):04X}>"
