"""Tune a run on preferences, and measure on held-out pairs what that did."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from glassgpt.adaptation.memory import count_trainable, finetuning_memory
from glassgpt.adaptation.show import print_memory, print_pairs
from glassgpt.api.load_run import load
from glassgpt.api.preference_data import open_preferences
from glassgpt.api.training import check, train
from glassgpt.config import RunConfig
from glassgpt.data.files import write_atomically
from glassgpt.data.preferences.batches import pairs_in_order
from glassgpt.data.preferences.dataset import PreferenceDataset
from glassgpt.errors import CheckpointError, UsageError
from glassgpt.model.accounting import count_parameters
from glassgpt.model.lora_config import LoRAConfig
from glassgpt.training.loop import TrainingResult
from glassgpt.training.preference import PreferenceLoss, PreferenceValidation, validate_preferences
from glassgpt.training.run_folder import RunFolder
from glassgpt.training.time_estimate import TimeEstimate

FILE_NAME = "preferences.json"
VALIDATION_PAIRS = 8
"""Pairs in one forward pass of the last measurement."""


@dataclass(frozen=True)
class PreferenceResult:
    """The result of tuning on preferences.

    Attributes:
        training: the result of the training run.
        held_out: the best weights on the held-out pairs, beside those of the run that was tuned.
    """

    training: TrainingResult
    held_out: PreferenceValidation


def tune_preferences(
    config: RunConfig, out: str | Path, *, resume: bool = False, approve: Callable[[TimeEstimate], None] | None = None
) -> PreferenceResult:
    """Tune the run `config.init_from` on the preferences in `config.preference.data`, into the folder `out`.

    Args:
        config: the configuration; with `lora.rank` an adapter is trained, without it all weights.
        out: folder of the new run.
        resume: continue the run there.
        approve: see `train`.

    Raises:
        UsageError: the configuration names no run or no preferences.
        GlassGPTError: see `train`.
    """
    if not config.init_from or not config.preference.data:
        raise UsageError("tuning on preferences needs a run and a file; name them as init_from and preference.data")
    checked = check(config, out, resume=resume)
    dataset = open_preferences(checked)
    _print_size(checked, dataset)
    training = train(checked, out, resume=resume, approve=approve)
    held_out = _measure(checked, Path(out), dataset)
    _write(Path(out), held_out)
    return PreferenceResult(training, held_out)


def _print_size(config: RunConfig, dataset: PreferenceDataset) -> None:
    """Print the numbers of pairs, of trained parameters, and the predicted memory."""
    print_pairs(dataset.counts.train, dataset.counts.validation)
    longest = dataset.split("train").row_length // 2
    model = replace(config.model, context_length=max(1, longest - 1))
    pairs = config.train.resolve_micro_batch_size(config.train.batch_tokens // config.model.context_length)
    predicted, full = (finetuning_memory(model, lora, 2 * pairs) for lora in (config.lora, LoRAConfig()))
    print_memory(count_trainable(config.model, config.lora), count_parameters(config.model), predicted, full)


def _measure(config: RunConfig, out: Path, dataset: PreferenceDataset) -> PreferenceValidation:
    """Return the loss of the best weights on the held-out pairs, with the run that was tuned as reference."""
    tuned, base = (load(run, device=config.train.device).model for run in (out, Path(config.init_from)))
    loss = PreferenceLoss(tuned, base, config.preference)
    batches = pairs_in_order(dataset.split("validation"), VALIDATION_PAIRS)
    return validate_preferences(loss, batches, device=next(tuned.parameters()).device)


def _write(out: Path, held_out: PreferenceValidation) -> None:
    try:
        content = {**held_out.metrics(), **asdict(held_out)}
        write_atomically(RunFolder(out).path / FILE_NAME, json.dumps(content, indent=1).encode() + b"\n")
    except OSError as error:
        raise CheckpointError(f"cannot write {out / FILE_NAME}: {error.strerror}") from error
