"""Console output for datasets and tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from glassgpt import console
from glassgpt.data.code.selection import Selection
from glassgpt.data.code.show import show_selection
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.preparation import prepare
from glassgpt.data.prepare_options import PrepareOptions
from glassgpt.data.remarks import spelled_special_tokens
from glassgpt.data.shards import SPLITS
from glassgpt.data.sources import pattern_for
from glassgpt.data.summary import DatasetSummary, SplitSummary
from glassgpt.data.tokenizers import Tokenizer, load_tokenizer
from glassgpt.data.tokenizers.printable import printable

COLORS = (
    "black on bright_cyan",
    "black on bright_yellow",
    "black on bright_green",
    "black on bright_magenta",
)

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
"""The same sentence in eight languages, and some code."""


class ConsoleObserver(PrepareObserver):
    """Prints the progress of `prepare`."""

    def on_ignored_files(self, folder: Path, count: int, suffixes: Sequence[str]) -> None:
        """Print how many files were ignored, and how to read them anyway."""
        kinds = f" ({', '.join(suffixes)})" if suffixes else ""
        hint = f"; to read them as text, give a pattern: {pattern_for(folder, suffixes[0])}" if suffixes else ""
        console.info(f"{folder}: files of other types ignored: {count:,}{kinds}{hint}")

    def on_note(self, text: str) -> None:
        """Print the note."""
        console.info(f"note: {text}")

    def on_tokenizer_training(self, spec: str) -> None:
        """Print which tokenizer is trained."""
        console.info(f"training the tokenizer {spec} …")

    def on_small_vocabulary(self, vocab_size: int) -> None:
        """Print the actual vocabulary size."""
        console.info(f"the text only yields {vocab_size:,} tokens, so the vocabulary is smaller than requested")

    def on_code(self, selection: Selection) -> None:
        """Print what was kept and what was left out."""
        show_selection(selection)

    def on_prepared(self, summary: DatasetSummary, tokenizer: Tokenizer) -> None:
        """Print the summary."""
        show_summary(summary, tokenizer)

    @contextmanager
    def progress(self, task: str, total_bytes: int | None) -> Generator[Callable[[int], None]]:
        """Show a progress bar."""
        with console.progress(task, total_bytes) as meter:
            yield meter.advance


def prepare_and_show(options: PrepareOptions) -> DatasetSummary:
    """Run `prepare` with progress and summary on the console.

    Raises:
        See `prepare`.
    """
    return prepare(options, ConsoleObserver())


def show_summary(summary: DatasetSummary, tokenizer: Tokenizer) -> None:
    """Print the counts of a dataset and its most frequent tokens."""
    splits = (summary.train, summary.validation)
    rows = [
        [console.translated(name), *(f"{getattr(split, name):,}" for split in splits)]
        for name in ("documents", "characters", "bytes", "tokens")
    ]
    rows.append([console.translated("characters per token"), *(_characters_per_token(split) for split in splits)])
    console.table(f"tokenizer {summary.tokenizer_name}", ["", *SPLITS], rows)
    console.result(f"split: {summary.split_rule}")
    console.result(f"exact duplicates dropped: {summary.duplicates:,}; empty documents: {summary.empty:,}")
    if summary.near_duplicates or "near_duplicates" in summary.options:
        console.result(f"near-duplicates dropped: {summary.near_duplicates:,}")
    if summary.skipped:
        console.result(f"bad rows skipped: {summary.skipped:,}")
    share = summary.vocabulary_used / summary.vocab_size
    console.result(f"vocabulary used: {summary.vocabulary_used:,} of {summary.vocab_size:,} ({share:.1%})")
    frequent = (f"'{printable(tokenizer.token_bytes(token))}' {count:,}" for token, count in summary.frequent_tokens)
    console.result(f"most frequent: {'  '.join(frequent)}")


def _characters_per_token(split: SplitSummary) -> str:
    return f"{split.characters / split.tokens:.2f}" if split.tokens else "–"


def show_tokens(tokenizer: Tokenizer, text: str, *, parse_special_tokens: bool = False) -> None:
    """Print `text` with its tokens in alternating colors, then a table of tokens, ids and bytes.

    Args:
        tokenizer: any tokenizer.
        text: the text; may be empty.
        parse_special_tokens: whether a special token that is spelled out is that token; a note says if it is not.
    """
    tokens = tokenizer.encode_with_special_tokens(text) if parse_special_tokens else tokenizer.encode(text)
    pieces = [printable(tokenizer.token_bytes(token)) for token in tokens]
    console.styled(*((piece, COLORS[i % len(COLORS)]) for i, piece in enumerate(pieces)))
    rows = [[str(token), printable(raw := tokenizer.token_bytes(token)), raw.hex(" ")] for token in tokens]
    console.table("", ["id", "token", "bytes"], rows, numeric_from=3)
    per_token = len(text) / len(tokens) if tokens else 0.0
    console.result(
        f"{tokenizer.name}: {len(tokens)} tokens, {len(text)} characters, {len(text.encode())} bytes, "
        f"{per_token:.2f} characters per token"
    )
    if not parse_special_tokens and (found := spelled_special_tokens([text], tokenizer.special_tokens)):
        console.info(
            f"note: {' and '.join(found)} in the text is ordinary text; to read it as the special token, add "
            "--parse-special-tokens"
        )


def compare_tokenizers(names_or_paths: Sequence[str | Path], texts: Mapping[str, str] | None = None) -> None:
    """Print characters per token of several tokenizers on several texts (more means a shorter sequence).

    Args:
        names_or_paths: tokenizers, as accepted by `load_tokenizer`.
        texts: text by label; defaults to one sentence in eight languages, and code.
    """
    tokenizers = [load_tokenizer(name) for name in names_or_paths]
    rows = [
        [label, *(f"{characters_per_token(tokenizer, text):.2f}" for tokenizer in tokenizers)]
        for label, text in (texts or {console.translated(name): text for name, text in SAMPLES.items()}).items()
    ]
    console.table("characters per token", ["text", *(tokenizer.name for tokenizer in tokenizers)], rows)


def characters_per_token(tokenizer: Tokenizer, text: str) -> float:
    """Return the average number of characters per token; 0 for an empty text."""
    return len(text) / max(1, len(tokenizer.encode(text)))
