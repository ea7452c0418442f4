"""Output of `glassgpt index` and `search`, and of the evaluation of an index."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from glassgpt import console
from glassgpt.retrieval.building import Changes, IndexObserver
from glassgpt.retrieval.index import Hit
from glassgpt.retrieval.manifest import Manifest, Skipped
from glassgpt.retrieval.search_evaluation import SearchReport

SHOWN_SKIPPED = 20
"""Files and rows that were skipped are listed up to this number; the manifest has up to a thousand."""
SHOWN_SUFFIXES = 3
EXCERPT_CHARACTERS = 400


class ConsoleObserver(IndexObserver):
    """Shows the progress of an index on standard error."""

    def __init__(self) -> None:
        self._skipped = 0

    def on_update(self, folders: Sequence[str]) -> None:
        """Print the folders, all of them: the index may be somebody else's. A long message would lose its middle."""
        for folder in folders:
            console.info(f"the index names documents in {folder}")

    def on_skipped(self, skipped: Skipped) -> None:
        """Print the reason."""
        self._skipped += 1
        if self._skipped <= SHOWN_SKIPPED:
            console.warn(f"skipped {skipped.place}: {skipped.reason}")
        elif self._skipped == SHOWN_SKIPPED + 1:
            console.warn("more was skipped; index.json lists the first thousand")

    def on_ignored(self, count: int, suffixes: Sequence[str], links: int) -> None:
        """Print how many files are not read."""
        if count:
            kinds = ", ".join([suffix for suffix in suffixes if suffix][:SHOWN_SUFFIXES])
            console.info(f"files of other types ignored: {count:,} ({kinds or 'without a suffix'})")
        if links:
            console.info(f"links that lead out of a folder are not followed: {links:,}")

    @contextmanager
    def progress(self, total_bytes: int) -> Generator[Callable[[int], None]]:
        """Show a bar."""
        with console.progress("indexing", total_bytes) as meter:
            yield meter.advance

    @contextmanager
    def encoding(self, total_passages: int) -> Generator[Callable[[int], None]]:
        """Show a bar."""
        with console.progress("computing vectors", total_passages, unit="passages") as meter:
            yield meter.advance


def show_manifest(manifest: Manifest, changes: Changes | None) -> None:
    """Print what an index holds, and what an update changed."""
    if changes is not None:
        console.info(
            f"files: {changes.added:,} read, {changes.kept:,} unchanged, {changes.renamed:,} renamed, {changes.removed:,} removed"
        )
    console.info(
        f"{manifest.documents:,} documents in {manifest.passages:,} passages, of which {manifest.copies:,} repeat the text of "
        f"another; skipped: {manifest.n_skipped:,}"
    )


def show_hits(hits: Sequence[Hit]) -> None:
    """Print passages with their places."""
    for number, hit in enumerate(hits, start=1):
        console.styled((f"[{number}] ", "bold"), (hit.passage.place, "bold cyan"), (f"  {hit.score:.2f}", "dim"))
        console.output(textwrap.shorten(hit.passage.text, EXCERPT_CHARACTERS, placeholder=" …"))
        if hit.copies:
            console.result(f"the same text: {', '.join(hit.copies)}")


def hit_json(hit: Hit) -> dict[str, Any]:
    """Return a hit as a JSON object."""
    return {**asdict(hit.passage), "score": hit.score, "scores": hit.scores, "copies": list(hit.copies)}


def show_search_report(report: SearchReport) -> None:
    """Print the figures of an evaluation."""
    rows = [
        ("recall@1", f"{report.recall_at_1:.3f}"),
        ("recall@5", f"{report.recall_at_5:.3f}"),
        ("recall@5 of passages", f"{report.passage_recall_at_5:.3f}"),
        ("MRR", f"{report.mrr:.3f}"),
        *([("accuracy by search alone", f"{report.accuracy:.3f}")] if report.accuracy is not None else []),
        ("ms per search (median)", f"{report.milliseconds:.1f}"),
    ]
    console.table(f"{report.questions:,} questions", ("metric", "value"), rows)
