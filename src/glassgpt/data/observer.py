"""Callbacks through which `prepare` reports its progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from glassgpt.data.code.selection import Selection
from glassgpt.data.summary import DatasetSummary
from glassgpt.data.tokenizers import Tokenizer


class PrepareObserver:
    """Callbacks of `prepare`. Each does nothing here; a subclass overrides those it is interested in."""

    def on_ignored_files(self, folder: Path, count: int, suffixes: Sequence[str]) -> None:
        """Called when `count` files of a source folder are ignored; `suffixes` are their most frequent suffixes."""

    def on_note(self, text: str) -> None:
        """Called with a note about the sources or the output, such as text that was left out."""

    def on_tokenizer_training(self, spec: str) -> None:
        """Called before a tokenizer is trained."""

    def on_small_vocabulary(self, vocab_size: int) -> None:
        """Called when the training text yields fewer ids than requested."""

    def on_code(self, selection: Selection) -> None:
        """Called when the files of source trees have been filtered."""

    def on_prepared(self, summary: DatasetSummary, tokenizer: Tokenizer) -> None:
        """Called when the dataset is complete."""

    def progress(self, task: str, total_bytes: int | None) -> AbstractContextManager[Callable[[int], None]]:
        """Return a context manager for a long task; it yields a function to call with each number of bytes processed.

        Args:
            task: the task, for display: "preparing", "downloading URL".
            total_bytes: size of the task, or None if unknown.
        """
        return nullcontext(_ignore)


def _ignore(n_bytes: int) -> None:
    pass
