"""Export of a run to another format."""

from __future__ import annotations

from pathlib import Path

from glassgpt.api.loading import load_checkpoint
from glassgpt.config import load_config
from glassgpt.data.staging import staged_folder
from glassgpt.interchange.agreement import Agreement, check_export
from glassgpt.interchange.formats.registry import export_options, find_format, require_adapter, require_exportable
from glassgpt.interchange.manifest import Origin, write_manifest
from glassgpt.training.checkpoint import load_as_trained
from glassgpt.training.run_folder import RunFolder


def export(
    run: str | Path,
    folder: str | Path,
    *,
    format: str = "hf",
    weights: str | None = None,
    check: bool = False,
    checkpoint: str = "best",
) -> list[Agreement]:
    """Export a run to another format; the folder appears complete or not at all.

    Args:
        run: the run's folder.
        folder: to create.
        format: `hf` or another of `glassgpt.interchange.formats.registry`.
        weights: how weights are stored; None takes the format's default.
        check: whether to run the export in its engine before it is published.
        checkpoint: see `load`.

    Returns:
        One comparison per prompt; empty without `check`.

    Raises:
        UsageError: the format does not exist or cannot express the model, or the folder is not empty.
        MissingExtraError: a package that the format needs is not installed.
        InterchangeError: the tokenizer cannot be expressed, or the check found another function.
    """
    chosen = find_format(format)
    options = export_options(chosen, weights)
    config = load_config(RunFolder(Path(run)).require().config)
    require_exportable(chosen, config.model, options, check=check)
    require_adapter(chosen, str(run), config.lora)
    loaded, path = load_checkpoint(run, checkpoint, "cpu", "float32", 1)
    model = load_as_trained(path) if chosen.is_adapter else loaded.model
    with staged_folder(Path(folder), force=False, what="model") as (staging, _):
        chosen.write(model, loaded.tokenizer, staging, options)
        found = check_export(loaded.model, loaded.tokenizer, staging, chosen, options) if check else []
        origin = Origin(Path(run).resolve().name, path.name, loaded.step)
        write_manifest(staging, loaded.model, loaded.tokenizer, origin, chosen, options)
    return found
