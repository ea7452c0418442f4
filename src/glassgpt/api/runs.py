"""Create run folders, and read the configuration of one that is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from glassgpt.config import RunConfig, load_config, settings, to_toml
from glassgpt.data.chat.chat_template import FILE_NAME as TABLE_FILE
from glassgpt.data.chat.dataset import is_conversations
from glassgpt.data.files import read_regular, sync_folder, write_atomically
from glassgpt.data.folder_kinds import rows_in
from glassgpt.data.shards import TokenDataset
from glassgpt.data.staging import staged_folder
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import CheckpointError, UsageError
from glassgpt.model.lora import adapter_of
from glassgpt.model.transformer import LanguageModel
from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.drawing_tokens import DrawingRecord
from glassgpt.schema.seal import sealed
from glassgpt.training.checkpoint import TrainingState, read_model_config, save_checkpoint, write_base
from glassgpt.training.config import TrainerConfig
from glassgpt.training.lineage import Lineage, read_lineage
from glassgpt.training.run_folder import DRAWING_FILE, RunFolder


def save_as_run(
    model: LanguageModel,
    tokenizer: Tokenizer,
    out: Path,
    *,
    config: RunConfig | None = None,
    lineage: Lineage | None = None,
    chat_template: str | None = None,
    files: Mapping[str, bytes] | None = None,
) -> RunFolder:
    """Create a run from weights that were not trained here, so that every command works on it.

    The run appears complete or not at all, so that a process that is killed does not block its repetition.

    Args:
        model: its weights; those that are quantized are stored as integers.
        tokenizer: its tokenizer.
        out: folder to create.
        config: where the weights come from: the dataset and the run that they were trained from.
        lineage: how the weights came about, if they were made from another run's.
        chat_template: a Jinja template that comes with the model.
        files: other files of the run, by name.

    Raises:
        UsageError: `out` exists already.
        DataError: the disk is full or not writable.
    """
    run = RunFolder(out)
    run.require_new()
    with staged_folder(out, force=False, what="run") as (folder, _):
        staged = RunFolder(folder)
        save_checkpoint(staged, model, (), TrainingState(tokenizer_fingerprint=tokenizer.fingerprint))
        if adapter_of(model) is not None and config is not None:
            write_base(staged, Path(config.init_from), run)
        write_run_files(staged, replace(config or RunConfig(), model=model.config), tokenizer, lineage)
        if chat_template is not None:
            write_atomically(staged.chat_template, chat_template.encode())
        for name, content in (files or {}).items():
            write_atomically(folder / name, content)
    return run


def keep_files(dataset: TokenDataset, init_from: str, out: Path) -> None:
    """Write the files that a run keeps of the data that it learns and of the run where it starts, except those it has.

    Args:
        dataset: conversations, also with media, have a chat template, which takes precedence; see `kept_files` for others.
        init_from: run whose weights training starts from; empty without one.
        out: folder of the run.

    Raises:
        CheckpointError: the file system refused.
    """
    files = kept_files(Path(init_from)) if init_from else {}
    if rows_in(dataset.folder) and RunFolder(dataset.folder).chat_template.is_file():
        files.pop(TABLE_FILE, None)
        files |= kept_files(dataset.folder)
    if (drawing := DrawingRecord.of_options(dataset.info.options)) is not None:
        files[DRAWING_FILE] = drawing.to_bytes()
    for name, content in files.items():
        if not (out / name).exists():
            try:
                write_atomically(out / name, content)
            except OSError as error:
                raise CheckpointError(f"cannot write {out / name}: {error.strerror}") from error


def kept_files(source: Path) -> dict[str, bytes]:
    """Return the files that a run keeps of the one it is made from, by name: chat template, what tokens of pictures mean.

    Args:
        source: a run, or a dataset of conversations.

    Raises:
        CheckpointError: the file system refused.
    """
    run = RunFolder(source)
    paths = (run.chat_template,) if is_conversations(source) else (source / TABLE_FILE, run.chat_template, run.drawing)
    try:
        return {path.name: read_regular(path) for path in paths if path.is_file()}
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename}: {error.strerror}") from error


def trainer_config(config: RunConfig) -> TrainerConfig:
    """Return the part of a configuration that a `Trainer` needs."""
    return TrainerConfig(
        config.train, config.optimizer, config.schedule, config.checkpoint, config.seed, config.preference
    )


def resumed_config(out: str | Path, overrides: dict[str, Any]) -> RunConfig:
    """Return the configuration of an existing run, with changes.

    Raises:
        CheckpointError: the run does not exist.
        UsageError: they change the model's shape, which its checkpoints fix, or what only a new run can have.
    """
    run = RunFolder(Path(out)).require()
    before = load_config(run.config)
    config = load_config(run.config, overrides)
    if not config.model.same_shape(before.model):
        raise UsageError("a resumed run cannot change the shape of its model; start a new run with another --out")
    if config.lora != before.lora:
        raise UsageError("a resumed run cannot change its adapter (lora.*); start a new run with another --out")
    for name, option, why in (
        ("seed", "--seed", "the order of its data depends on it"),
        ("init_from", "--init-from", "it continues from its own checkpoint"),
    ):
        old, new = getattr(before, name), getattr(config, name)
        if old != new:
            kept = old if old != "" else "random weights"
            raise UsageError(
                f"{option} is {new}, but a resumed run keeps {kept}: {why}; start a new run with another --out"
            )
    require_same_model_of_media(before.multimodal, config.multimodal)
    return config


def require_same_model(run: RunFolder, checkpoint: Path, config: RunConfig) -> None:
    """Check that a run that is resumed describes the model of its checkpoint.

    Raises:
        CheckpointError: its configuration has another shape.
        UsageError: see `require_same_model_of_media`.
    """
    if not read_model_config(checkpoint).same_shape(config.model):
        raise CheckpointError(f"{run.config} describes a model of another shape than {checkpoint}; restore that file")
    require_same_model_of_media(load_config(run.config).multimodal, config.multimodal)


def require_same_model_of_media(before: MultimodalConfig, after: MultimodalConfig) -> None:
    """Check that a run that is resumed keeps the settings by which pictures and sounds enter its model.

    Raises:
        UsageError: it does not; the message names the setting.
    """
    if name := before.difference(after):
        option, why = f"multimodal.{name}", "its model depends on it"
        old, new = ("empty" if value == "" else value for value in (getattr(before, name), getattr(after, name)))
        raise UsageError(f"{option} is {new}, but a resumed run keeps {old}: {why}; start a new run with another --out")


def changed_settings(before: RunConfig, after: RunConfig) -> dict[str, list[Any]]:
    """Return the old and new value of each setting that differs, by dotted name."""
    changed: dict[str, list[Any]] = {}
    for name in settings():
        component, _, key = name.rpartition(".")
        old, new = (getattr(getattr(config, component) if component else config, key) for config in (before, after))
        if old != new:
            changed[name] = [old, new]
    return changed


def write_run_files(run: RunFolder, config: RunConfig, tokenizer: Tokenizer, lineage: Lineage | None = None) -> None:
    """Write the configuration and the tokenizer of a run; without a `lineage`, one that it has already is kept.

    Raises:
        CheckpointError: the file system refused.
    """
    try:
        if lineage is None and run.exists():
            lineage = read_lineage(run)
        record = "" if lineage is None else lineage.to_toml()
        write_atomically(run.config, sealed(to_toml(config) + record).encode())
        tokenizer.save(run.tokenizer)
        sync_folder(run.path.absolute().parent)  # the run's folder may be new
    except OSError as error:
        raise CheckpointError(f"cannot write {error.filename or run.path}: {error.strerror}") from error
