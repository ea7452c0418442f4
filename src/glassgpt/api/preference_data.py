"""Open what a run is trained on, text or preferences, and record where its weights and its preferences came from."""

from __future__ import annotations

from pathlib import Path

from glassgpt import console
from glassgpt.adaptation.replay import open_training_data
from glassgpt.api.serving import chat_template
from glassgpt.api.teachers import checked_teacher, lineage_from
from glassgpt.config import RunConfig
from glassgpt.data.chat.jinja_template import JinjaTemplate, marked_template
from glassgpt.data.chat.render import Rendered, render
from glassgpt.data.code.batches import with_fim
from glassgpt.data.preferences.dataset import PreferenceDataset, build_dataset
from glassgpt.data.preferences.rows import Preference, read_preferences
from glassgpt.data.shards import TokenDataset
from glassgpt.data.tokenizers import load_tokenizer
from glassgpt.errors import CheckpointError, UsageError, WrongDataError
from glassgpt.training.checkpoint import find_checkpoint
from glassgpt.training.lineage import Lineage, read_lineage
from glassgpt.training.run_folder import RunFolder


def open_data(config: RunConfig) -> TokenDataset:
    """Open the dataset or the preferences that a run is trained on.

    Raises:
        DataError: they cannot be opened.
        GlassGPTError: see `open_training_data` and `open_preferences`.
    """
    if not config.preference.data:
        return with_fim(open_training_data(config.data, config.replay), config.fim)
    return open_preferences(config)


def open_preferences(config: RunConfig) -> PreferenceDataset:
    """Open preferences as tokens, written with the chat template of the run to start from.

    Raises:
        DataError: a row cannot be used; the message names its line.
        UsageError: the run's chat template is a table, in which replies cannot be found.
    """
    base, wanted, file = RunFolder(Path(config.init_from)).require(), config.preference, Path(config.preference.data)
    tokenizer, template = load_tokenizer(base.tokenizer), _template(base.path)

    def rendered(row: Preference) -> tuple[Rendered, Rendered]:
        return render(tokenizer, template, row.chosen), render(tokenizer, template, row.rejected)

    dataset = build_dataset(
        file,
        read_preferences(file, wanted.skip_bad),
        tokenizer,
        rendered,
        validation_share=wanted.validation_share,
        max_tokens=min(wanted.max_tokens or config.model.context_length, config.model.context_length),
    )
    if left_out := dataset.counts.skipped + dataset.counts.too_long:
        console.warn(
            f"{left_out:,} of the rows are left out: {dataset.counts.skipped:,} cannot be used, and "
            f"{dataset.counts.too_long:,} are too long (preference.max_tokens)"
        )
    return dataset


def _template(run: Path) -> JinjaTemplate:
    found = chat_template(run)
    if marked := marked_template(found):
        return marked
    raise UsageError(
        f"{found.source} is a table; to train on replies, write the template as a Jinja program, "
        f"{RunFolder(run).chat_template.name}"
    )


def checked_lineage(config: RunConfig, run: RunFolder, dataset: TokenDataset) -> Lineage | None:
    """Check what else than its data a run that is about to be trained or resumed depends on.

    Returns:
        The lineage to record; None if it does not depend on another run.

    Raises:
        WrongDataError: a resumed run began with other preferences.
        CheckpointError: a resumed run began with another reference.
        GlassGPTError: see `checked_teacher`.
    """
    if not isinstance(dataset, PreferenceDataset):
        return checked_teacher(config, run, dataset)
    counts, before = dataset.counts, read_lineage(run) if run.exists() else None
    step = f"preferences: {counts.train} pairs, {counts.validation} held out, SHA-256 of the file {dataset.sha256}"
    if before is not None and before.steps[-1] != step:
        raise WrongDataError(
            f"{run.path} began with other preferences than those in {dataset.folder}: the file or a setting of it changed "
            f"since; restore it, or start a new run from these weights with --init-from {run.path}"
        )
    source = RunFolder(Path(config.preference.reference or config.init_from))
    if before is not None and not config.preference.reference:
        return before  # its base is checked when the adapter is loaded
    now = lineage_from(source.require(), find_checkpoint(source, "best"), [step])
    if before is not None and before.weights_sha256 != now.weights_sha256:
        raise CheckpointError(
            f"{run.path} began with other weights of its reference than those in {source.path}; restore "
            f"{before.checkpoint} of {before.source} as its best, or start a new run"
        )
    return before or now
