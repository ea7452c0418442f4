"""`glassgpt evaluate --rows`."""

from __future__ import annotations

from pathlib import Path

from glassgpt.errors import UsageError


def evaluate_media(
    run: Path,
    rows: Path,
    *,
    top: int,
    limit: int,
    samples: int,
    checkpoint: str,
    device: str,
    json: bool,
    json_file: Path | None,
    force: bool,
) -> None:
    """Evaluate a run on pictures and sounds whose text is known; the arguments are those of `evaluate`."""
    from glassgpt.training.checksums import require_checkpoint_and_hash
    from glassgpt.training.run_folder import RunFolder

    folder = RunFolder(run).require()
    if not rows.is_file():
        raise UsageError(f"--rows is {rows}, which is not a file; give a file with one JSON object per line")
    require_checkpoint_and_hash(folder, checkpoint)

    from glassgpt import api, console  # loads torch, which takes seconds

    loaded = api.load(run, checkpoint=checkpoint, device=device, batch_size=64)
    console.info(f"checkpoint: {loaded.checkpoint}")
    api.evaluate_rows(
        loaded, rows, top=top, limit=limit, samples=samples, as_json=json, json_file=json_file, force=force
    )
