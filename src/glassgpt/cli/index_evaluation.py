"""`glassgpt evaluate --index INDEX --questions FILE`: of the search alone, or with a run also of its answers. Free of torch."""

from __future__ import annotations

from pathlib import Path

from glassgpt.errors import UsageError


def evaluate_an_index(
    run: Path | None,
    index: Path | None,
    questions: Path | None,
    *,
    limit: int,
    checkpoint: str,
    device: str,
    json: bool,
    json_file: Path | None,
    force: bool,
) -> None:
    """Evaluate an index; the arguments are those of `evaluate`."""
    from glassgpt.api.retrieval import evaluate_index

    if index is None or questions is None:
        raise UsageError("an index is evaluated on questions; give both --index INDEX and --questions FILE")
    if limit < 0:
        raise UsageError(f"--limit must be 0 or more, not {limit}")
    if run is None:
        evaluate_index(index, questions, limit=limit, as_json=json, json_file=json_file, force=force)
        return
    from glassgpt.data.files import check_output_path
    from glassgpt.retrieval.index import Index
    from glassgpt.retrieval.questions import read_questions
    from glassgpt.training.checksums import require_checkpoint_and_hash
    from glassgpt.training.run_folder import RunFolder

    RunFolder(run).require()
    opened = Index.open(index)
    read_questions(questions)
    if json_file is not None:
        check_output_path("--json-file", json_file, force=force)
    require_checkpoint_and_hash(RunFolder(run), checkpoint)

    from glassgpt import api  # loads torch, which takes seconds
    from glassgpt.api.serving import chat_template

    loaded = api.load(run, checkpoint=checkpoint, device=device)
    api.evaluate_answers(
        opened,
        questions,
        model=loaded,
        template=chat_template(run),
        limit=limit,
        as_json=json,
        json_file=json_file,
        force=force,
    )
