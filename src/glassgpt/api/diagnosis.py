"""Diagnosis of a configuration, a run, a dataset or the text that a run generates."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glassgpt.adaptation.preference_checks import preference_problems
from glassgpt.api.initialization import model_to_train
from glassgpt.api.load_run import load
from glassgpt.api.preference_data import checked_lineage, open_data
from glassgpt.api.runs import trainer_config
from glassgpt.config import RunConfig, load_config, preset_names, resolve_config
from glassgpt.data.chat.dataset import ConversationDataset, require_text
from glassgpt.data.remote.folder import dataset_folder
from glassgpt.data.shards import TokenDataset
from glassgpt.data.tokenizers import load_tokenizer
from glassgpt.diagnosis import doctor as diagnosis
from glassgpt.diagnosis.checks.data import (
    check_overlap,
    check_token_ids,
    check_tokenizer,
    dataset_baseline,
    sample,
)
from glassgpt.diagnosis.checks.run import diagnose_run
from glassgpt.diagnosis.checks.settings import check_config_problems
from glassgpt.diagnosis.checks.text import diagnose_text, held_out_prompts
from glassgpt.diagnosis.findings import CheckResult, Finding
from glassgpt.diagnosis.ngram_baseline import NGramBaseline
from glassgpt.diagnosis.post_mortem import check_replay
from glassgpt.diagnosis.report import write_report
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.diagnosis.show import coordinates_progress, rate_range_progress
from glassgpt.diagnosis.targets import require_target
from glassgpt.errors import CheckpointError, ConfigError, GlassGPTError, UsageError
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.evaluation.show import ConsoleObserver
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.config import GPT2_VOCAB_SIZE, ModelConfig
from glassgpt.model.transformer import LanguageModel
from glassgpt.multimodal.batches import EncodedDataset
from glassgpt.multimodal.data_checks import check_media
from glassgpt.multimodal.dataset import MultimodalDataset, is_multimodal
from glassgpt.multimodal.fitting import is_augmented
from glassgpt.multimodal.model import MultimodalModel
from glassgpt.multimodal.run_checks import diagnose_encoders
from glassgpt.training.checkpoint import find_checkpoint, read_state
from glassgpt.training.run_folder import RunFolder

HELD_OUT_TOKENS = 16_384
"""Held-out tokens that generated text is compared with."""


def doctor(
    target: str | Path | None = None,
    *,
    data: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
    rate_range: bool = False,
    coordinates: bool = False,
    text: GenerationOptions | None = None,
) -> Iterator[CheckResult]:
    """Diagnose a configuration before training, a run from its files, a dataset, or this machine.

    Args:
        target: name or TOML file of a preset, folder of a run, folder of a dataset, or None for this machine.
        data: dataset that a preset is to be trained on, or that replaces a run's own.
        overrides: settings by dotted name.
        rate_range: also run a learning-rate range test.
        coordinates: also compare how much a few steps change activations in narrower and wider models.
        text: also generate text from a run with these options and diagnose it.

    Yields:
        Each check with what it measured and its findings, as soon as it is done.

    Raises:
        ConfigError: the target does not exist, or a setting does not.
        UsageError: the target is a file or folder of another kind, `text` is given for something that is not a run, or
            `rate_range` or `coordinates` for something that is not trained, or together with `text`.
    """
    path = None if target is None else Path(target)
    run = RunFolder(path) if path is not None and RunFolder(path).exists() else None
    if text is not None and run is None:
        raise UsageError(f"--text generates from a run; give the folder of a run instead of {target or 'nothing'}")
    trains = rate_range or coordinates
    if trains and text is not None:
        raise UsageError("--text cannot be combined with --rate-range or --coordinates; run doctor once for each")
    if path is None and not overrides:
        _refuse_training(trains, target)
        return diagnosis.diagnose_machine() if data is None else _doctor_data(Path(data))
    if run is not None and not trains:
        return _doctor_run(run, Path(data) if data else None, text)
    if target is not None:
        require_target(target, preset_names())
    if path is not None and path.is_dir() and run is None:
        _refuse_training(trains, target)
        return _doctor_data(path)
    config = load_config(target, {**(overrides or {}), **({"data": str(data)} if data else {})})
    out = path if path is not None and path.is_dir() else Path("runs")
    if coordinates and (config.init_from or config.lora.rank):
        raise UsageError("--coordinates trains new models of several widths; --init-from and adapters have only one")
    return _doctor_config(config, out, rate_range=rate_range, coordinates=coordinates)


def _refuse_training(trains: bool, target: str | Path | None) -> None:
    if trains:
        raise UsageError(
            f"--rate-range and --coordinates train; give a preset, a TOML file or a run instead of {target or 'nothing'}"
        )


def _doctor_data(folder: Path) -> Iterator[CheckResult]:
    dataset = _open_dataset(folder)
    if isinstance(dataset, CheckResult):
        yield dataset
    else:
        yield from diagnosis.diagnose_dataset(dataset)


def _open_dataset(folder: Path) -> TokenDataset | CheckResult:
    """Return a dataset of any kind, or a check result that says why it cannot be opened."""
    if is_multimodal(folder):
        return diagnosis.open_dataset(folder, MultimodalDataset.open)
    return diagnosis.open_dataset(folder)


def _doctor_config(config: RunConfig, out: Path, *, rate_range: bool, coordinates: bool) -> Iterator[CheckResult]:
    dataset = _open_dataset(dataset_folder(config.data)) if config.data else None
    if isinstance(dataset, CheckResult):
        yield dataset
        return
    problems = check_config_problems(_problems(config, dataset))
    yield problems
    if not problems.passed:
        return
    weights, known_loss = None, None
    if config.init_from:
        weights = find_checkpoint(RunFolder(Path(config.init_from)).require(), "best")
        state = read_state(weights)
        known_loss = state.best_loss
        # The tokenizer of a dataset with media may have begin tokens more.
        if dataset is not None and not isinstance(dataset, MultimodalDataset):
            fits = check_tokenizer(state.tokenizer_fingerprint, dataset)
            yield fits
            if not fits.passed:  # the weights cannot be used
                return
    plan = _plan(config, dataset, out)
    yield from diagnosis.diagnose_training(
        dataclasses.replace(plan, weights=weights, known_loss=known_loss),
        rate_range=rate_range,
        progress=rate_range_progress,
        coordinates=coordinates,
        coordinate_progress=coordinates_progress,
    )


def _plan(config: RunConfig, dataset: TokenDataset | None, out: Path) -> diagnosis.TrainingPlan:
    """Return the training of a configuration without problems, with data, model and adapter as `train` would have them."""
    if dataset is None and not config.preference.data:
        vocab_size = config.model.vocab_size or GPT2_VOCAB_SIZE
        resolved = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocab_size))
        trained_on = None
    else:
        resolved = resolve_config(config, None)
        trained_on = open_data(resolved)

    def build(shape: ModelConfig) -> LanguageModel:
        return model_to_train(dataclasses.replace(resolved, model=shape), None, trained_on)

    # A warmup that `resolve_config` shortened is reported as it was given.
    settings = dataclasses.replace(trainer_config(resolved), schedule=config.schedule)
    augmented = dataset is not None and is_augmented(resolved.multimodal, dataset.folder)
    return diagnosis.TrainingPlan(
        resolved.model, settings, trained_on, out, build=build, source=dataset, is_augmented=augmented
    )


def _problems(config: RunConfig, dataset: TokenDataset | None) -> list[str]:
    """Return the problems that `train` would report; without a dataset, those that do not depend on it."""
    if dataset is None and not config.preference.data:
        return config.problems()
    try:
        resolve_config(config, None)
    except ConfigError as error:
        return error.problems
    return preference_problems(config.preference, config.lora, config.train, config.data, config.init_from)


def _doctor_run(run: RunFolder, data: Path | None, text: GenerationOptions | None) -> Iterator[CheckResult]:
    config = load_config(run.config)
    opened = _open_run_data(config, data)
    dataset = opened if isinstance(opened, TokenDataset) else None
    if isinstance(opened, CheckResult):
        yield opened
    elif text is not None:
        if config.preference.data and data is None:
            raise UsageError(
                f"--text needs held-out text, but {run.path} was tuned on preferences; give a dataset of text with --data DIR"
            )
        if dataset is None:
            raise UsageError(
                f"--text needs held-out text, but the dataset of {run.path} no longer exists; give one with --data"
            )
        require_text(dataset.folder)
    if dataset is not None:
        yield _check_run_tokenizer(run, dataset)
        yield from _check_run_text(dataset)
    baseline = _baseline(dataset)
    log = RunLog.read(run)
    yield from diagnose_run(
        log,
        config.model,
        trainer_config(config),
        baseline,
        train_tokens=dataset.info.train.tokens if dataset is not None else 0,
        is_fresh=not config.init_from,
        is_augmented=dataset is not None and is_augmented(config.multimodal, dataset.folder),
    )
    if isinstance(dataset, MultimodalDataset):
        yield from _check_encoders(run, config, dataset)
    replayed = check_replay(log, trainer_config(config), lambda: _open_training_data(config, run, data))
    yield from [replayed] if replayed else []
    if text is not None and dataset is not None and baseline is not None:
        yield from _doctor_text(run, dataset, baseline, text)


def _check_encoders(run: RunFolder, config: RunConfig, dataset: MultimodalDataset) -> Iterator[CheckResult]:
    """Check the encoders of a run's best weights; nothing if other checks have found that these cannot be loaded."""
    try:
        model = load(run.path, device="cpu").model
    except GlassGPTError:
        return
    if isinstance(model, MultimodalModel) and dataset.geometry == config.multimodal.geometry:
        yield from diagnose_encoders(model, EncodedDataset(dataset, config.multimodal))


def _open_run_data(config: RunConfig, data: Path | None) -> TokenDataset | CheckResult | None:
    """Return the dataset of a run or its replacement, a message if it cannot be opened, or None if it no longer exists."""
    folder = dataset_folder(data) if data else Path(config.data) if config.data else None
    return _open_dataset(folder) if folder is not None and folder.is_dir() else None


def _open_training_data(config: RunConfig, run: RunFolder, data: Path | None) -> TokenDataset | None:
    """Return what a run was trained on, old text that is mixed in included, or None if it no longer exists.

    Raises:
        GlassGPTError: it cannot be opened, or it or what else the run depends on has changed since.
    """
    chosen = config if data is None else dataclasses.replace(config, data=str(data))
    source = Path(chosen.data or chosen.preference.data)
    if not source.exists():
        return None
    dataset = open_data(chosen)
    checked_lineage(chosen, run, dataset)
    return dataset


def _baseline(dataset: TokenDataset | CheckResult | None) -> NGramBaseline | None:
    """Return what n-gram models know of a text; None without one, as they know nothing of pictures and sound."""
    if not isinstance(dataset, TokenDataset) or isinstance(dataset, MultimodalDataset):
        return None
    return dataset_baseline(dataset)


def _check_run_tokenizer(run: RunFolder, dataset: TokenDataset) -> CheckResult:
    try:
        return check_tokenizer(load_tokenizer(run.tokenizer).fingerprint, dataset)
    except GlassGPTError as error:
        finding = Finding("GG-DAT-010", "fatal", {"problem": f"{error}."})
        return CheckResult("tokenizer", "unreadable", findings=(finding,))


def _check_run_text(dataset: TokenDataset) -> Iterator[CheckResult]:
    """Check that validation text does not occur in the training text, if the dataset is of text; else check its media."""
    if isinstance(dataset, MultimodalDataset):
        yield from check_media(dataset)
        return
    if not isinstance(dataset, ConversationDataset) and check_token_ids(dataset, dataset.vocab_size).passed:
        yield check_overlap(dataset)


def report(run: str | Path, checks: list[CheckResult]) -> Path:
    """Write a run's `report.html` with these checks and return its path.

    Raises:
        CheckpointError: the run does not exist, or its folder cannot be written to.
    """
    folder = RunFolder(Path(run)).require()
    dataset = _open_run_data(load_config(folder.config), None)
    baseline = _baseline(dataset)
    try:
        write_report(RunLog.read(folder), checks, baseline)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder.report}: {error.strerror}") from error
    return folder.report


def _doctor_text(
    run: RunFolder, dataset: TokenDataset, baseline: NGramBaseline, options: GenerationOptions
) -> Iterator[CheckResult]:
    loaded = load(run.path)
    loss = evaluate_dataset(loaded.model, dataset, limit=HELD_OUT_TOKENS, observer=ConsoleObserver()).loss
    held_out = sample(dataset.split("validation"), HELD_OUT_TOKENS).tolist()
    prompts = held_out_prompts(held_out, loaded.tokenizer, loaded.model.config.context_length)
    yield from diagnose_text(
        loaded.decoding_model, loaded.tokenizer, prompts, options, validation_loss=loss, baseline=baseline
    )
