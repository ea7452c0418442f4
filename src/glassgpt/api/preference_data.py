"""Open what a run is trained on, text or preferences, and record where its weights and its preferences came from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from glassgpt import console
from glassgpt.adaptation.conversations import find_template
from glassgpt.adaptation.replay import open_training_data
from glassgpt.api.serving import chat_template
from glassgpt.api.teachers import checked_teacher, lineage_from
from glassgpt.config import RunConfig
from glassgpt.data.chat.jinja_template import compile_template, marked_template
from glassgpt.data.chat.render import Rendered, render
from glassgpt.data.code.batches import with_fim
from glassgpt.data.preferences.dataset import PreferenceDataset, build_dataset
from glassgpt.data.preferences.rows import Preference, read_preferences
from glassgpt.data.remote.folder import dataset_folder
from glassgpt.data.shards import TokenDataset
from glassgpt.data.tokenizers import load_tokenizer
from glassgpt.errors import CheckpointError, ConfigError, UsageError, WrongDataError
from glassgpt.multimodal.batches import EncodedDataset
from glassgpt.multimodal.dataset import MultimodalDataset
from glassgpt.training.checkpoint import find_checkpoint, weights_fingerprint
from glassgpt.training.lineage import Lineage, read_lineage
from glassgpt.training.run_folder import RunFolder

REFERENCE = "reference: "
"""Start of the line of the lineage that names the reference."""


def open_data(config: RunConfig) -> TokenDataset:
    """Open the dataset or the preferences that a run is trained on.

    Raises:
        DataError: they cannot be opened.
        GlassGPTError: see `open_training_data` and `open_preferences`.
    """
    if config.multimodal.names:
        return _open_documents(config)
    if not config.preference.data:
        return with_fim(open_training_data(config.data, config.replay), config.fim)
    return open_preferences(config)


def _open_documents(config: RunConfig) -> EncodedDataset:
    """Open documents with media.

    Raises:
        ConfigError: a setting concerns text alone.
    """
    if problems := [f"{name} cannot be combined with pictures and sound; leave it out" for name in _of_text(config)]:
        raise ConfigError(problems)
    return EncodedDataset(MultimodalDataset.open(dataset_folder(config.data)), config.multimodal)


def _of_text(config: RunConfig) -> list[str]:
    """Return the settings in use that change how text is read."""
    used = {"fim.rate": config.fim.rate, "replay.data": config.replay.data, "preference.data": config.preference.data}
    return [name for name, value in used.items() if value]


def open_preferences(config: RunConfig) -> PreferenceDataset:
    """Open preferences as tokens, written with the chat template of the run to start from.

    Raises:
        DataError: a row cannot be used; the message names its line.
        UsageError: the run's chat template is a table, in which replies cannot be found.
    """
    base, wanted, file = RunFolder(Path(config.init_from)).require(), config.preference, Path(config.preference.data)
    tokenizer, (text, origin) = load_tokenizer(base.tokenizer), _template(base.path)
    template = compile_template(text, origin)

    def rendered(row: Preference) -> tuple[Rendered, Rendered]:
        return render(tokenizer, template, row.chosen), render(tokenizer, template, row.rejected)

    dataset = build_dataset(
        file,
        read_preferences(file, wanted.skip_bad),
        tokenizer,
        rendered,
        validation_share=wanted.validation_share,
        max_tokens=min(wanted.max_tokens or config.model.context_length, config.model.context_length),
        template_sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    if left_out := dataset.counts.skipped + dataset.counts.too_long:
        console.warn(
            f"{left_out:,} of the rows are left out: {dataset.counts.skipped:,} cannot be used, and "
            f"{dataset.counts.too_long:,} are too long (preference.max_tokens)"
        )
    return dataset


def _template(run: Path) -> tuple[str, str]:
    """Return the source of the template by which replies are written, and where it comes from."""
    found = chat_template(run)
    if marked_template(found) is None:
        raise UsageError(
            f"{found.source} is a table; to train on replies, write the template as a Jinja program, "
            f"{RunFolder(run).chat_template.name}"
        )
    return find_template(run)


def checked_lineage(config: RunConfig, run: RunFolder, dataset: TokenDataset) -> Lineage | None:
    """Check what else than its data a run that is about to be trained or resumed depends on.

    Returns:
        The lineage to record; None if it does not depend on another run.

    Raises:
        WrongDataError: a resumed run began with other preferences or another chat template.
        CheckpointError: a resumed run began with another reference.
        GlassGPTError: see `checked_teacher`.
    """
    if not isinstance(dataset, PreferenceDataset):
        return checked_teacher(config, run, dataset)
    counts, source = dataset.counts, RunFolder(Path(config.init_from))
    steps = [
        f"preferences: {counts.train} pairs, {counts.validation} held out, SHA-256 of the file {dataset.sha256}",
        f"chat template: SHA-256 {dataset.template_sha256}",
        REFERENCE + _reference(config),
    ]
    before = read_lineage(run) if run.exists() else None
    if before is None:
        return lineage_from(source.require(), find_checkpoint(source, "best"), steps)
    began = {_kind(step): step for step in before.steps}  # those of the run itself are the last
    if began.get(_kind(steps[0])) != steps[0]:
        raise WrongDataError(
            f"{run.path} began with other preferences than those in {dataset.folder}: the file or a setting of it changed "
            f"since; restore it, or start a new run from these weights with --init-from {run.path}"
        )
    template, reference = (began.get(_kind(step), step) for step in steps[1:])  # earlier versions did not write them
    if template != steps[1]:
        raise WrongDataError(
            f"{run.path} began with another chat template than that of {source.path}; restore it, or start a new run from "
            f"these weights with --init-from {run.path}"
        )
    if _checksum(reference) != _checksum(steps[2]):
        raise CheckpointError(
            f"{run.path} began with another reference than the weights in {config.preference.reference or source.path}; "
            f"restore {reference.removeprefix(REFERENCE)}, or start a new run"
        )
    return before


def _kind(step: str) -> str:
    """Return what a line of the lineage is about, its first words."""
    return step.partition(":")[0]


def _checksum(step: str) -> str:
    """Return the last word of a line of the lineage, so that a reference may be moved."""
    return step.rpartition(" ")[2]


def _reference(config: RunConfig) -> str:
    """Return the weights that a run is compared with, in words for the lineage."""
    if not config.preference.reference:
        return "the weights that the adapter is added to"  # they are checked when it is loaded
    run = RunFolder(Path(config.preference.reference)).require()
    checkpoint = find_checkpoint(run, "best")
    return f"{checkpoint.name} of {run.path.absolute()}, SHA-256 {weights_fingerprint(checkpoint)}"
