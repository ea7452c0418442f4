"""What is wrong, or would go wrong: of a configuration, a run, a data set, a text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glassgpt.api.loading import load
from glassgpt.api.runs import trainer_config
from glassgpt.config import RunConfig, load_config, preset_names, resolve_config
from glassgpt.data.shards import TokenDataset
from glassgpt.data.summary import SUMMARY_FILE
from glassgpt.data.tokenizers import load_tokenizer
from glassgpt.diagnosis import doctor as diagnosis
from glassgpt.diagnosis.checks.data import check_tokenizer, dataset_baseline, sample
from glassgpt.diagnosis.checks.run import diagnose_run
from glassgpt.diagnosis.checks.settings import check_config_problems
from glassgpt.diagnosis.checks.text import diagnose_text, held_out_prompts
from glassgpt.diagnosis.findings import CheckResult, Finding
from glassgpt.diagnosis.ngram_baseline import NGramBaseline
from glassgpt.diagnosis.post_mortem import check_replay
from glassgpt.diagnosis.report import write_report
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.errors import CheckpointError, ConfigError, GlassGPTError, UsageError
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.evaluation.show import ConsoleObserver
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.config import GPT2_VOCAB_SIZE
from glassgpt.schema import did_you_mean
from glassgpt.training.checkpoint import find_checkpoint, read_state
from glassgpt.training.run_folder import RunFolder

HELD_OUT_TOKENS = 16_384
"""Held-out tokens that generated text is held against."""


def doctor(
    target: str | Path | None = None,
    *,
    data: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
    rate_range: bool = False,
    text: GenerationOptions | None = None,
) -> Iterator[CheckResult]:
    """Look at a configuration before it is trained, at a run from its files, or at a data set.

    Args:
        target: a preset's name or TOML file, a run's folder, a data set's folder; None looks at this machine.
        data: data set that a preset is to be trained on.
        overrides: settings by dotted name.
        rate_range: also find out which learning rates are stood.
        text: also let a run write with these settings, and tell what is wrong with its text.

    Yields:
        Each check as it is made, with the figure that it measured and what is wrong.

    Raises:
        ConfigError: the target names nothing, or holds settings that do not exist.
        UsageError: the target is a folder or file that is none of these, or text is asked of something that is no run.
    """
    if text is not None and (target is None or not RunFolder(Path(target)).exists()):
        raise UsageError(f"--text looks at what a run writes; name a run instead of {target or 'nothing'}")
    if target is None and data is None and not overrides:
        return diagnosis.diagnose_machine()
    if target is None and data is not None and not overrides:
        return _doctor_data(Path(data))
    if target is not None and RunFolder(Path(target)).exists() and not rate_range:
        return _doctor_run(RunFolder(Path(target)), Path(data) if data else None, text)
    if target is not None and Path(target).is_dir() and not RunFolder(Path(target)).exists():
        _require_data(Path(target))
        return _doctor_data(Path(target))
    _require_configuration(target)
    named = {"data": str(data)} if data else {}
    config = load_config(target, {**(overrides or {}), **named})
    out = Path(target) if target is not None and Path(target).is_dir() else Path("runs")
    return _doctor_config(config, out, rate_range=rate_range)


def _require_data(folder: Path) -> None:
    """A folder that holds no data set was meant to be something else; a damaged one still has its description."""
    run = RunFolder(folder)
    if run.metrics.exists() or run.events.exists():
        raise UsageError(f"{folder} holds what a run wrote, but not its {run.config.name}; bring that back")
    if not (folder / SUMMARY_FILE).exists():
        raise UsageError(f"{folder} is neither a run ({run.config.name}) nor a data set ({SUMMARY_FILE})")


def _require_configuration(target: str | Path | None) -> None:
    names = preset_names()
    if target is None or str(target) in names or Path(target).suffix == ".toml" or Path(target).is_dir():
        return
    if Path(target).is_file():
        raise UsageError(
            f"{target} is neither a configuration (.toml) nor the folder of a run or a data set; a text is looked at "
            f"when it is prepared: glassgpt prepare {target} --out DIR, then glassgpt doctor DIR"
        )
    raise UsageError(
        f"{target} is nothing that can be examined: no folder of a run or a data set, no .toml, no code like GG-NAN-002, "
        f"and none of the presets {', '.join(names)}{did_you_mean(str(target), names)}"
    )


def _doctor_data(folder: Path) -> Iterator[CheckResult]:
    dataset = diagnosis.open_dataset(folder)
    if isinstance(dataset, CheckResult):
        yield dataset
    else:
        yield from diagnosis.diagnose_dataset(dataset)


def _doctor_config(config: RunConfig, out: Path, *, rate_range: bool) -> Iterator[CheckResult]:
    dataset = diagnosis.open_dataset(Path(config.data)) if config.data else None
    if isinstance(dataset, CheckResult):
        yield dataset
        return
    problems = check_config_problems(_problems(config, dataset))
    yield problems
    if not problems.passed:
        return
    weights: Path | None = None
    if config.init_from:
        source = RunFolder(Path(config.init_from)).require()
        weights = find_checkpoint(source, "best")
        if dataset is not None:
            yield check_tokenizer(read_state(weights).tokenizer_fingerprint, dataset)
    vocab_size = config.model.vocab_size or (dataset.vocab_size if dataset else GPT2_VOCAB_SIZE)
    model = dataclasses.replace(config.model, vocab_size=vocab_size)
    yield from diagnosis.diagnose_training(
        diagnosis.TrainingPlan(model, trainer_config(config), dataset, out, weights), rate_range=rate_range
    )


def _problems(config: RunConfig, dataset: TokenDataset | None) -> list[str]:
    """What `resolve_config` would refuse; without data, what can be known without."""
    if dataset is None:
        return config.problems()
    try:
        resolve_config(config, None)
    except ConfigError as error:
        return error.problems
    return []


def _doctor_run(run: RunFolder, data: Path | None, text: GenerationOptions | None) -> Iterator[CheckResult]:
    config = load_config(run.config)
    folder = data or (Path(config.data) if config.data else None)
    dataset = diagnosis.open_dataset(folder) if folder is not None and folder.is_dir() else None
    known = None
    if isinstance(dataset, CheckResult):
        yield dataset
    elif dataset is not None:
        yield _check_runs_tokenizer(run, dataset)
        known = dataset_baseline(dataset)
    record = RunLog.read(run)
    yield from diagnose_run(
        record,
        config.model,
        trainer_config(config),
        known,
        train_tokens=dataset.info.train.tokens if isinstance(dataset, TokenDataset) else 0,
        is_fresh=not config.init_from,
    )
    known_data = dataset if isinstance(dataset, TokenDataset) else None
    replayed = check_replay(record, config.model, trainer_config(config), known_data)
    yield from [replayed] if replayed else []
    if text is not None:
        if dataset is None or known is None or isinstance(dataset, CheckResult):
            raise UsageError(f"--text needs held-out text, and the data of {run.path} are gone; name some with --data")
        yield from _doctor_text(run, dataset, known, text)


def _check_runs_tokenizer(run: RunFolder, dataset: TokenDataset) -> CheckResult:
    try:
        return check_tokenizer(load_tokenizer(run.tokenizer).fingerprint, dataset)
    except GlassGPTError as error:
        finding = Finding("GG-DAT-010", "fatal", {"problem": f"{error}."})
        return CheckResult("tokenizer", "unreadable", findings=(finding,))


def report(run: str | Path, checks: list[CheckResult]) -> Path:
    """Write a run's `report.html` with these checks; where it is.

    Raises:
        CheckpointError: there is no run, or its folder cannot be written to.
    """
    folder = RunFolder(Path(run)).require()
    config = load_config(folder.config)
    dataset = diagnosis.open_dataset(Path(config.data)) if config.data and Path(config.data).is_dir() else None
    known = dataset_baseline(dataset) if isinstance(dataset, TokenDataset) else None
    try:
        write_report(RunLog.read(folder), checks, known)
    except OSError as error:
        raise CheckpointError(f"{folder.report} cannot be written: {error.strerror}") from error
    return folder.report


def _doctor_text(
    run: RunFolder, dataset: TokenDataset, known: NGramBaseline, options: GenerationOptions
) -> Iterator[CheckResult]:
    loaded = load(run.path)
    loss = evaluate_dataset(loaded.model, dataset, limit=HELD_OUT_TOKENS, observer=ConsoleObserver()).loss
    held_out = sample(dataset.split("validation"), HELD_OUT_TOKENS).tolist()
    prompts = held_out_prompts(held_out, loaded.tokenizer, loaded.model.config.context_length)
    yield from diagnose_text(loaded.writer, loaded.tokenizer, prompts, options, validation_loss=loss, ladder=known)
