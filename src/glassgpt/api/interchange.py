"""Import of models, and export of runs to other formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from glassgpt.api.loading import load_checkpoint
from glassgpt.api.runs import save_as_run
from glassgpt.config import load_config
from glassgpt.data.files import read_regular, write_atomically
from glassgpt.data.staging import staged_folder
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.interchange.agreement import Agreement, check_export
from glassgpt.interchange.chat_templates import CHAT_TEMPLATE_FILE, read_chat_template
from glassgpt.interchange.formats.registry import export_options, find_format, require_adapter, require_exportable
from glassgpt.interchange.gguf_reading import import_gguf
from glassgpt.interchange.huggingface import download, import_model
from glassgpt.interchange.manifest import Origin, write_manifest
from glassgpt.interchange.sources import find_model
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.vectors import ModelWithEncoders
from glassgpt.training.checkpoint import load_as_trained
from glassgpt.training.run_folder import RunFolder


@dataclass(frozen=True)
class ImportedRun:
    """A run that an import has created.

    Attributes:
        run: the run.
        model: its model.
        tokenizer: its tokenizer.
        has_chat_template: whether it can chat by a template of its own.
    """

    run: RunFolder
    model: LanguageModel
    tokenizer: Tokenizer
    has_chat_template: bool


def import_(source: str | Path, out: str | Path, notify: Callable[[str], None] = lambda message: None) -> ImportedRun:
    """Make a model from elsewhere a run; the run appears complete or not at all.

    Args:
        source: a folder in Hugging Face format, a GGUF file, a hub id, or the name of a model in a package, `smollm2`.
        out: the run's folder, to create.
        notify: receives what the user should know about a model that is imported nevertheless.

    Raises:
        UsageError: the source does not exist, or the run does.
        MissingExtraError: a package that reading it needs is not installed.
        InterchangeError: the model is damaged, or not supported.
    """
    RunFolder(Path(out)).require_new()
    path = find_model(str(source))
    if path is not None and path.is_file():
        found = import_gguf(path, notify)
        model, tokenizer, template = found.model, found.tokenizer, found.chat_template
    else:
        folder = download(str(source)) if path is None else path
        model, tokenizer = import_model(folder, notify)
        template = read_chat_template(folder)
    run = save_as_run(model, tokenizer, Path(out), chat_template=template)
    return ImportedRun(run, model, tokenizer, template is not None)


def export(
    run: str | Path,
    folder: str | Path,
    *,
    format: str = "hf",
    weights: str | None = None,
    library: str | Path | None = None,
    check: bool = False,
    checkpoint: str = "best",
    notify: Callable[[str], None] = lambda message: None,
) -> list[Agreement]:
    """Export a run to another format; the folder appears complete or not at all.

    Args:
        run: the run's folder.
        folder: to create.
        format: `hf` or another of `glassgpt.interchange.formats.registry`.
        weights: how weights are stored; None takes the format's default.
        library: for `web`, the folder `node_modules` with transformers.js; None searches above the working directory.
        check: whether to run the export in its engine before it is published.
        checkpoint: see `load`.
        notify: receives what the user should know about a model that is exported nevertheless.

    Returns:
        One comparison per prompt; empty without `check`.

    Raises:
        UsageError: the format does not exist or cannot express the model, or the folder is not empty.
        MissingExtraError: a package that the format needs is not installed.
        InterchangeError: the tokenizer cannot be expressed, or the check found another function.
    """
    chosen = find_format(format)
    options = export_options(chosen, weights, None if library is None else Path(library))
    config = load_config(RunFolder(Path(run)).require().config)
    require_exportable(chosen, config.model, options, check=check)
    require_adapter(chosen, str(run), config.lora)
    loaded, path = load_checkpoint(run, checkpoint, "cpu", "float32", 1)
    if isinstance(loaded.model, ModelWithEncoders):
        loaded = replace(loaded, model=loaded.model.language_model)
        notify("only the language model is exported: the encoders of pictures and sound are left out")
    model = load_as_trained(path) if chosen.is_adapter else loaded.model
    template = RunFolder(Path(run)).chat_template
    with staged_folder(Path(folder), force=False, what="model") as (staging, _):
        chosen.write(model, loaded.tokenizer, staging, options)
        if template.is_file():
            write_atomically(staging / CHAT_TEMPLATE_FILE, read_regular(template))
        found = check_export(loaded.model, loaded.tokenizer, staging, chosen, options) if check else []
        origin = Origin(Path(run).resolve().name, path.name, loaded.step)
        write_manifest(staging, loaded.model, loaded.tokenizer, origin, chosen, options)
    if message := chosen.notice(loaded.tokenizer):
        notify(message)
    return found
