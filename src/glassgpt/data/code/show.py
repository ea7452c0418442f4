"""Console output about filtered source code."""

from __future__ import annotations

from glassgpt import console
from glassgpt.data.code.filters import REASONS
from glassgpt.data.code.selection import Count, Selection

LISTED_LICENSES = 8


def show_selection(selection: Selection) -> None:
    """Print how many files were kept and left out and why, and the licenses of those that were kept."""
    kept = sum(selection.licenses.values(), Count())
    left_out = [(reason, selection.dropped[reason]) for reason in REASONS if reason in selection.dropped]
    rows = [_row("found", selection.found), *(_row(reason, count) for reason, count in left_out), _row("kept", kept)]
    console.table("source files", ["", "files", "MB"], rows)
    by_size = sorted(selection.licenses.items(), key=lambda item: -item[1].bytes)
    listed = by_size[:LISTED_LICENSES]
    if len(by_size) > LISTED_LICENSES:
        rest = sum((count for _, count in by_size[LISTED_LICENSES:]), Count())
        listed.append((console.translated("others"), rest))
    console.table("licenses of what is kept", ["", "files", "MB"], [_row(name, count) for name, count in listed])


def _row(name: str, count: Count) -> list[str]:
    return [console.translated(name), f"{count.files:,}", f"{count.bytes / 1e6:.1f}"]
