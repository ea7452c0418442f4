"""Index documents, and evaluate an index on questions. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from glassgpt import console
from glassgpt.api.figures import report_figures
from glassgpt.data.files import check_output_path
from glassgpt.errors import UsageError
from glassgpt.retrieval.building import build_index, update_index
from glassgpt.retrieval.index import Index
from glassgpt.retrieval.manifest import IndexOptions, Manifest
from glassgpt.retrieval.minilm import MINILM
from glassgpt.retrieval.passages import PASSAGE_CHARACTERS
from glassgpt.retrieval.questions import read_questions
from glassgpt.retrieval.search_evaluation import SearchReport, evaluate_search
from glassgpt.retrieval.show import ConsoleObserver, show_manifest, show_search_report


def index_documents(
    documents: Sequence[str | Path],
    out: str | Path,
    *,
    update: bool = False,
    passage_characters: int | None = None,
    dense: str | None = None,
) -> Manifest:
    """Index documents, or update their index; print the progress and what was skipped.

    Args:
        documents: files and folders of text, Markdown, HTML, PDF and JSON lines.
        out: folder of the index.
        update: whether to update the index that is there, with the length of passages that it was built with.
        passage_characters: longest passage, 1,000 by default; not with `update`.
        dense: `minilm` adds dense vectors (extra `dense`), `none` has none; by default none, or those of the index to update.

    Raises:
        UsageError: a path does not exist, an option is out of range or not for an update, or `out` is not empty.
        MissingExtraError: dense vectors need packages that are not installed.
        DataError: no document can be used, or the disk is full.
    """
    observer, changes = ConsoleObserver(), None
    if dense not in (None, MINILM, "none"):
        raise UsageError(f"--dense is {dense}; it must be {MINILM} or none")
    encoder = "" if dense == "none" else dense
    if update and passage_characters is not None:
        raise UsageError(
            "--passage-characters cannot be combined with --update, which keeps the length of the passages"
        )
    if update:
        manifest, changes = update_index(out, documents, observer, dense=encoder)
    else:
        characters = PASSAGE_CHARACTERS if passage_characters is None else passage_characters
        options = IndexOptions(characters, encoder or "")
        manifest = build_index(documents, out, options, observer)
    show_manifest(manifest, changes)
    return manifest


def evaluate_index(
    index: str | Path | Index,
    questions: str | Path,
    *,
    limit: int = 0,
    as_json: bool = False,
    json_file: Path | None = None,
    force: bool = False,
) -> SearchReport:
    """Search for questions whose document is known, and print how well the index finds it.

    Args:
        index: folder of an index, or the open index.
        questions: see `glassgpt.retrieval.questions.read_questions`.
        limit: take this many questions from the start of the file; 0 means all.
        as_json: print one JSON object instead of a table.
        json_file: file to write the JSON object to.
        force: overwrite an existing file.

    Raises:
        UsageError: the index or the file of questions does not exist, or the file cannot be written.
        DataError: a question is damaged, or its document is not in the index.
    """
    opened = index if isinstance(index, Index) else Index.open(index)
    rows = read_questions(Path(questions))[: limit or None]
    if json_file is not None:
        check_output_path("--json-file", json_file, force=force)
    with console.progress("searching", len(rows), unit="questions") as meter:
        report = evaluate_search(opened, rows, meter.advance)
    report_figures(asdict(report), lambda: show_search_report(report), as_json=as_json, json_file=json_file)
    return report
