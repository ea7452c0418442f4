"""`sweep.html`."""

from __future__ import annotations

from glassgpt.sweep.result import SweepResult
from glassgpt.sweep.setup import SweepFolder


def write_page(result: SweepResult, folder: SweepFolder, best: str) -> None:
    """Write `sweep.html`."""
