"""From a configuration to a trained run, watched over from its first step to its report."""

from __future__ import annotations

import dataclasses
import os
import platform
from pathlib import Path

import torch

from glassgpt import console
from glassgpt.api.runs import require_new_run, trainer_config, write_run_files
from glassgpt.config import RunConfig, resolve_config, warmup_warning
from glassgpt.data.shards import TokenDataset
from glassgpt.device import pick_device, require_gpus
from glassgpt.diagnosis import doctor as diagnosis
from glassgpt.diagnosis.catalogue import terminal_language
from glassgpt.diagnosis.checks.data import dataset_baseline
from glassgpt.diagnosis.checks.run import check_live_findings, diagnose_metrics
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.findings import EVENT, Finding
from glassgpt.diagnosis.monitor import TrainingMonitor
from glassgpt.diagnosis.recovery import RecoveryPolicy
from glassgpt.diagnosis.report import write_report
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.diagnosis.show import print_startup_findings
from glassgpt.diagnosis.show_monitor import MonitorDisplay
from glassgpt.errors import CheckpointError, ConfigError, GlassGPTError, TokenizerError, UsageError
from glassgpt.model.build import build_model
from glassgpt.model.config import GPT2_VOCAB_SIZE, SHAPE_FIELDS
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.bench import TrainingSpeed, measure_training
from glassgpt.training.checkpoint import (
    checkpoint_step,
    find_checkpoint,
    has_optimizer,
    list_checkpoints,
    load_weights,
    newest_verified_checkpoint,
    read_model_config,
    read_state,
)
from glassgpt.training.curve import draw_loss_curve
from glassgpt.training.distributed import DistributedContext, distributed_from_environment, process_group
from glassgpt.training.hardware import versions
from glassgpt.training.loop import Trainer, TrainingResult, announce
from glassgpt.training.observers import JsonlLogger, Observer, TensorBoard, display
from glassgpt.training.run_folder import RunFolder


def train(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    tensorboard: bool = False,
    observers: tuple[Observer, ...] = (),
) -> TrainingResult:
    """Train as configured, into the folder `out`; with `resume`, go on where the run there stopped.

    Args:
        config: the configuration; it is checked as a whole first.
        out: the run's folder.
        resume: continue from the newest whole checkpoint, or start if there is none yet.
        tensorboard: also write TensorBoard events.
        observers: further listeners.

    Raises:
        ConfigError: lists everything that cannot work.
        UsageError: there is a run in `out` already, and `resume` was not asked for.
        Interrupted: the user stopped it; it was saved.
        GlassGPTError: see `Trainer.run`.
    """
    run = RunFolder(Path(out))
    config = check(config, out, processes=distributed_from_environment().world_size, resume=resume)
    with process_group(pick_device(config.train.device)) as dist:
        return _train(config, run, dist, resume=resume, tensorboard=tensorboard, observers=observers)


def check(config: RunConfig, out: str | Path, *, processes: int = 1, resume: bool = False) -> RunConfig:
    """Everything that can be known to go wrong before training starts.

    Returns:
        The configuration with nothing left open; see `glassgpt.config.resolve_config`.

    Raises:
        ConfigError: lists everything that cannot work.
        UsageError: there is a run in `out` already, and `resume` was not asked for.
    """
    run = RunFolder(Path(out))
    if not resume:
        require_new_run(run)
    existing = next(folder for folder in (run.path.absolute(), *run.path.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(f"{run.path} cannot be made: {existing} is no folder that can be written to")
    require_gpus(config.train.device, processes)
    resolved = resolve_config(config, run.path, processes)
    if warning := warmup_warning(config, resolved):
        console.warn(warning)
    return resolved


def _train(
    config: RunConfig,
    run: RunFolder,
    dist: DistributedContext,
    *,
    resume: bool,
    tensorboard: bool,
    observers: tuple[Observer, ...],
) -> TrainingResult:
    dataset = TokenDataset.open(Path(config.data))
    settings = trainer_config(config)
    torch.manual_seed(config.seed)
    model = build_model(config.model)
    found = newest_verified_checkpoint(run) if resume else None
    if config.init_from and found is None:
        _initialise_from(model, config.init_from, dataset)
    noticed = _first_look(config, run, dataset, None if found else model) if dist.is_main else []
    trainer = Trainer(model, dataset, settings, run, dist=dist)
    attach_diagnosis(trainer, config.diagnosis)
    if dist.rank > 0:
        torch.manual_seed(config.seed + dist.rank)  # equal weights, but dropout of its own
    if found is not None:
        for line in found.refused:
            console.warn(f"passing over a damaged checkpoint: {line}")
        if not has_optimizer(found.path):
            raise UsageError(
                f"{run.path} holds imported weights; train on from them with --init-from {run.path} --out NEW"
            )
        trainer.resume(found.path)
        console.info(f"going on from {found.path.name}")
        if trainer.state.step >= config.train.max_steps:
            console.info(
                f"all its {config.train.max_steps:,} steps are done; train longer with: --train.max-steps NUMBER"
            )
    dist.barrier()  # until all have looked at the folder; from here on the first writes to it
    if not dist.is_main:
        trainer.observers += observers
        return trainer.run()
    run.path.mkdir(parents=True, exist_ok=True)
    write_run_files(run, config, dataset.tokenizer)
    files = JsonlLogger(run, trainer.state.step)
    _note_start(files, trainer, found.refused if found else [], noticed)
    announce(trainer)
    with display(config.train.max_steps - trainer.state.step) as shown:
        trainer.observers += [files, *([TensorBoard(run)] if tensorboard else []), shown, *observers]
        try:
            outcome = trainer.run()
        except GlassGPTError:
            _leave_report(run, config, dataset)
            raise
    draw_loss_curve(run)
    _leave_report(run, config, dataset)
    return outcome


def _first_look(config: RunConfig, run: RunFolder, dataset: TokenDataset, model: LanguageModel | None) -> list[Finding]:
    """What is noticed at a start of training, and said; without a model where it goes on from a checkpoint."""
    weights = Path(config.init_from) if config.init_from else run.checkpoints if model is None else None
    known_loss = None
    if config.init_from and model is not None:
        known_loss = read_state(find_checkpoint(RunFolder(Path(config.init_from)), "best")).best_loss
    plan = diagnosis.TrainingPlan(config.model, trainer_config(config), dataset, run.path, weights, known_loss)
    return print_startup_findings(diagnosis.run_startup_checks(plan, model), terminal_language())


def _leave_report(run: RunFolder, config: RunConfig, dataset: TokenDataset) -> None:
    """What the files tell of a run that has just ended, well or not, on one page in its folder."""
    record, known = RunLog.read(run), dataset_baseline(dataset)
    saved = [checkpoint_step(path) for path in list_checkpoints(run)]
    tokens = dataset.info.train.tokens
    curve = list(diagnose_metrics(record, config.model, trainer_config(config), known, saved, train_tokens=tokens))
    checks = [check_live_findings(record, [finding for check in curve for finding in check.findings]), *curve]
    try:
        write_report(record, checks, known)
    except OSError as error:  # a full disk has ended the run; that is what the user must read
        console.warn(f"{run.report} could not be written: {error.strerror}")


def attach_diagnosis(trainer: Trainer, config: DiagnosisConfig) -> None:
    """Let a training be watched, and mended where that can be undone. Before it is resumed."""
    monitor = None
    if config.watch != "off":
        monitor = TrainingMonitor(trainer, config, trainer.run_folder.layers)
        monitor.attach()
        trainer.observers.append(MonitorDisplay(monitor, shows_layers=config.watch == "full" and trainer.dist.is_main))
    trainer.guard = RecoveryPolicy(config, monitor)


def bench_train(config: RunConfig, *, steps: int = 20) -> TrainingSpeed:
    """How fast a configuration trains here; on its data where it names some, else on random tokens.

    Raises:
        ConfigError: lists everything that cannot work.
    """
    dist = distributed_from_environment()
    require_gpus(config.train.device, dist.world_size)
    if problems := config.problems(dist.world_size):
        raise ConfigError(problems)
    dataset = TokenDataset.open(Path(config.data)) if config.data else None
    model_config = config.model
    if model_config.vocab_size == 0:
        vocab_size = dataset.vocab_size if dataset else GPT2_VOCAB_SIZE
        model_config = dataclasses.replace(model_config, vocab_size=vocab_size)
    if dataset and model_config.vocab_size < dataset.vocab_size:
        raise ConfigError([f"model.vocab_size is {model_config.vocab_size:,}, the data set has {dataset.vocab_size:,}"])
    tokens = dataset.split("train") if dataset else None
    with process_group(pick_device(config.train.device)) as dist:
        torch.manual_seed(config.seed)
        model = build_model(model_config)
        return measure_training(model, trainer_config(config), tokens=tokens, steps=steps, dist=dist)


def _initialise_from(model: LanguageModel, source: str, dataset: TokenDataset) -> None:
    folder = RunFolder(Path(source)).require()
    path = find_checkpoint(folder, "best")
    theirs = read_model_config(path)
    if not theirs.same_shape(model.config):
        different = [
            f"model.{name} is {getattr(model.config, name)} here and {getattr(theirs, name)} there"
            for name in SHAPE_FIELDS
            if getattr(model.config, name) != getattr(theirs, name)
        ]
        raise CheckpointError(f"{source} is another model: {'; '.join(different)}")
    if read_state(path).tokenizer_fingerprint != dataset.tokenizer_fingerprint:
        raise TokenizerError(
            f"{dataset.folder} was made with another tokenizer than {source}; "
            f"prepare the text again with --tokenizer {source}"
        )
    load_weights(model, path, averaged=True)


def _note_start(files: JsonlLogger, trainer: Trainer, refused: list[str], noticed: list[Finding]) -> None:
    step = trainer.state.step
    for line in refused:
        files.on_event(step, "checkpoint refused", {"why": line})
    how = {"hardware": trainer.hardware.describe(), **versions(), "host": platform.node(), "pid": os.getpid()}
    files.on_event(step, "resume" if step else "start", how)
    for finding in noticed:
        files.on_event(step, EVENT, finding.to_json())
