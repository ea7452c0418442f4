"""`glassgpt evaluate --index INDEX --questions FILE`. Free of torch."""

from __future__ import annotations

from pathlib import Path

from glassgpt.errors import UsageError


def evaluate_an_index(
    run: Path | None, index: Path | None, questions: Path | None, *, json: bool, json_file: Path | None, force: bool
) -> None:
    """Evaluate an index; the arguments are those of `evaluate`."""
    from glassgpt.api.retrieval import evaluate_index

    if run is not None:
        raise UsageError("--index is evaluated without a run; leave out RUN")
    if index is None or questions is None:
        raise UsageError("an index is evaluated on questions; give both --index INDEX and --questions FILE")
    evaluate_index(index, questions, as_json=json, json_file=json_file, force=force)
