"""Train a configuration into a run folder, monitored from its first step to its report."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from glassgpt import console
from glassgpt.adaptation.conversations import refuse_fatal
from glassgpt.adaptation.replay import mixed_in
from glassgpt.api.initialization import model_to_train, report_encoders
from glassgpt.api.preference_data import checked_lineage, open_data
from glassgpt.api.runs import changed_settings, keep_files, require_same_model, trainer_config, write_run_files
from glassgpt.api.tracking import trackers_of
from glassgpt.config import RunConfig, check_config, load_config, resolve_config, warmup_warning
from glassgpt.data.chat.dataset import held_out_targets
from glassgpt.data.preferences.dataset import PreferenceDataset
from glassgpt.data.shards import TokenDataset
from glassgpt.device import pick_device, require_gpus
from glassgpt.diagnosis import doctor as diagnosis
from glassgpt.diagnosis.checks.data import dataset_baseline
from glassgpt.diagnosis.checks.run import check_live_findings, diagnose_metrics
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.findings import EVENT, Finding
from glassgpt.diagnosis.monitor import TrainingMonitor
from glassgpt.diagnosis.preference_policy import PreferencePolicy
from glassgpt.diagnosis.recovery import RecoveryPolicy
from glassgpt.diagnosis.report import write_report
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.diagnosis.show import print_startup_findings
from glassgpt.diagnosis.show_monitor import MonitorDisplay
from glassgpt.errors import DataError, GlassGPTError, UsageError
from glassgpt.locale import user_language
from glassgpt.model.transformer import LanguageModel
from glassgpt.multimodal.batches import EncodedDataset
from glassgpt.multimodal.fitting import is_augmented
from glassgpt.training.checkpoint import (
    VerifiedCheckpoint,
    best_by_state,
    checkpoint_step,
    find_checkpoint,
    has_optimizer,
    is_damaged_pointer,
    list_checkpoints,
    newest_verified_checkpoint,
    read_state,
    set_pointer,
    write_base,
)
from glassgpt.training.custom_loss import try_loss
from glassgpt.training.custom_schedule import configured_ratio
from glassgpt.training.data_verification import DataVerification
from glassgpt.training.distributed import DistributedContext, distributed_from_environment, process_group
from glassgpt.training.hardware import resolve_hardware, versions
from glassgpt.training.loop import Trainer, TrainingResult
from glassgpt.training.observers import JsonlLogger, Observer
from glassgpt.training.run_folder import RunFolder
from glassgpt.training.run_lock import require_startable, run_lock
from glassgpt.training.show import draw_loss_curve, print_training_setup, progress_display
from glassgpt.training.time_estimate import TimeEstimate, estimate_time
from glassgpt.training.weight_snapshots import WeightSnapshots

LONG_SECONDS = 600.0
"""The predicted time of a run is printed if it is longer."""
LEARNING_RATE_LEAP = 1.5
"""A learning rate that is this many times higher after a resume is reported."""


def train(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    observers: tuple[Observer, ...] = (),
    approve: Callable[[TimeEstimate], None] | None = None,
) -> TrainingResult:
    """Train as configured into the folder `out`, or resume the run there.

    Args:
        config: the configuration; all of it is validated first.
        out: folder of the run.
        resume: continue from the newest intact checkpoint, or start if there is none yet.
        observers: further observers of the run.
        approve: called with the predicted time of a new run on a CPU before anything is created; it raises a
            `UsageError` to refuse. By default no time is too long.

    Raises:
        ConfigError: lists every invalid setting.
        UsageError: there is a run in `out` already, and `resume` is False.
        Interrupted: the user stopped it; it was saved.
        MissingExtraError: a tracker is not installed.
        GlassGPTError: see `Trainer.run`.
    """
    run = RunFolder(Path(out))
    config = check(config, out, processes=distributed_from_environment().world_size, resume=resume)
    with process_group(pick_device(config.train.device)) as dist, _exclusively(run, dist, resume=resume):
        return _train(config, run, dist, resume=resume, observers=observers, approve=approve)


def check(config: RunConfig, out: str | Path, *, processes: int = 1, resume: bool = False) -> RunConfig:
    """Validate everything that can be checked before training starts.

    Returns:
        The resolved configuration; see `glassgpt.config.resolve_config`.

    Raises:
        ConfigError: lists every invalid setting.
        UsageError: `out` cannot be created, or there is a run in it already and `resume` is False.
        DataError: the dataset of a run to resume no longer exists.
        PluginError: a plug-in is not allowed, or cannot be imported or used.
        PluginFailedError: a plug-in fails when it is tried.
    """
    run = RunFolder(Path(out))
    require_startable(run, resume=resume)
    check_config(config, processes, run.path if resume else None)
    require_gpus(config.train.device, processes)
    resolved = resolve_config(config, run.path, processes)
    if resolved.train.loss:
        try_loss(resolved.train.loss, resolved.model.vocab_size, pick_device(resolved.train.device))
    if resolved.schedule.function:
        for step in (0, resolved.train.max_steps - 1):
            configured_ratio(resolved.schedule, step, resolved.train.max_steps)
    if warning := warmup_warning(config, resolved):
        console.warn(warning)
    return resolved


@contextmanager
def _exclusively(run: RunFolder, dist: DistributedContext, *, resume: bool) -> Generator[None]:
    """Hold the lock of a run folder on rank 0; all ranks fail if it cannot be acquired."""
    problem = ""
    with ExitStack() as stack:
        if dist.is_main:
            try:
                is_held = stack.enter_context(run_lock(run))
                run.require_no_links()
                if not resume:
                    run.require_new(can_resume=True)  # it was checked, but not locked then
                if not is_held:
                    console.warn(
                        f"the file system of {run.path} has no locks; make sure that nothing else trains into that folder"
                    )
            except GlassGPTError as error:
                problem = str(error)
            except OSError as error:
                problem = f"cannot create {run.path}: {error.strerror}"
        problem = dist.all_gather_objects(problem)[0]
        if problem:
            raise UsageError(problem)
        yield


def _train(
    config: RunConfig,
    run: RunFolder,
    dist: DistributedContext,
    *,
    resume: bool,
    observers: tuple[Observer, ...],
    approve: Callable[[TimeEstimate], None] | None,
) -> TrainingResult:
    dataset = open_data(config)
    lineage = checked_lineage(config, run, dataset)
    verification = DataVerification(dataset, config.train.max_steps, mixed_in(dataset)) if dist.is_main else None
    checkpoint = newest_verified_checkpoint(run) if resume else None
    if checkpoint is not None:
        require_same_model(run, checkpoint.path, config)
    torch.manual_seed(config.seed)
    model = model_to_train(config, checkpoint, dataset)
    if checkpoint is None:
        report_encoders(config)
        if not config.preference.data:
            _predict_time(model, config, dist, approve)
    findings = _startup_findings(config, run, dataset, None if checkpoint else model, dist)
    trainer = Trainer(model, dataset, trainer_config(config), run, dist=dist)
    attach_diagnosis(trainer, config.diagnosis)
    if dist.rank > 0:
        torch.manual_seed(config.seed + dist.rank)  # all ranks have the same weights, but each its own dropout
    if checkpoint is not None:
        _resume(trainer, checkpoint)
        if dist.is_main:
            _repair_best(run)
    dist.barrier()  # all ranks have read the folder; from here on the first one writes to it
    if verification is None:
        trainer.observers += observers
        WeightSnapshots(trainer).attach()
        return trainer.run()
    verification.start()
    changed = _report_changes(trainer, config) if checkpoint else {}
    write_run_files(run, config, dataset.tokenizer, lineage)
    keep_files(dataset, config.init_from, run.path)
    if config.lora.rank and checkpoint is None:
        write_base(run, Path(config.init_from))
    logger = JsonlLogger(run, trainer.state.step)
    _log_start(logger, trainer, checkpoint.skipped if checkpoint else [], findings, changed)
    # Closed in this order: trackers report to the logger.
    trainer.observers += [*trackers_of(trainer, config), logger, verification]
    return _run_with_display(trainer, config, observers)


def _predict_time(
    model: LanguageModel, config: RunConfig, dist: DistributedContext, approve: Callable[[TimeEstimate], None] | None
) -> None:
    """Predict the time that a new run takes, print it if it is long, and have it approved; all ranks fail if it is not."""
    estimate = estimate_time(model, config.train, resolve_hardware(config.train), dist, config.train.max_steps)
    problem = ""
    if estimate is not None and dist.is_main:
        try:
            if approve:
                approve(estimate)
            if estimate.seconds >= LONG_SECONDS:
                console.info(str(estimate))
        except UsageError as refusal:
            problem = str(refusal)
    problem = dist.all_gather_objects(problem)[0]
    if problem:
        raise UsageError(problem)


def _run_with_display(trainer: Trainer, config: RunConfig, observers: tuple[Observer, ...]) -> TrainingResult:
    """Train with a progress bar, then write the report, even if training fails."""
    print_training_setup(trainer, config.model)
    with progress_display(config.train.max_steps, trainer.state.step) as progress:
        trainer.observers += [progress, *observers]
        WeightSnapshots(trainer).attach()
        trainer.train_step.mark = progress.within_step(trainer)
        try:
            result = trainer.run()
        except GlassGPTError:
            write_run_report(trainer.run_folder, config, trainer.dataset)
            raise
    try:
        draw_loss_curve(trainer.run_folder)
    except (OSError, GlassGPTError) as error:  # the training itself is complete
        console.warn(f"cannot draw {trainer.run_folder.curve}: {error}")
    write_run_report(trainer.run_folder, config, trainer.dataset)
    used, available = result.validation.tokens, _held_out_targets(trainer.dataset)
    if used < available and not config.preference.data:
        console.info(
            f"validated on the first {used:,} of {available:,} tokens (train.eval_tokens); "
            f"on all of them: glassgpt evaluate {shlex.quote(str(trainer.run_folder.path))}"
        )
    return result


def _held_out_targets(dataset: TokenDataset) -> int:
    """Return the number of tokens of the validation split that a loss on all of it counts."""
    if isinstance(dataset, EncodedDataset):
        return dataset.multimodal.validation.supervised
    return held_out_targets(dataset)


def _resume(trainer: Trainer, checkpoint: VerifiedCheckpoint) -> None:
    """Resume from a checkpoint and print what the user should know."""
    for line in checkpoint.skipped:
        console.warn(f"skipping a damaged checkpoint: {line}")
    if not has_optimizer(checkpoint.path):
        path = trainer.run_folder.path
        raise UsageError(f"{path} holds imported weights; continue training them with --init-from {path} --out NEW")
    trainer.resume(checkpoint.path)
    console.info(f"resuming from {checkpoint.path.name}")
    max_steps = trainer.config.train.max_steps
    if trainer.state.step >= max_steps:
        console.info(f"all {max_steps:,} steps are done; train longer with: --train.max-steps NUMBER")


def _report_changes(trainer: Trainer, config: RunConfig) -> dict[str, list[Any]]:
    """Print and return the settings that differ from those that a resumed run had before."""
    before = load_config(trainer.run_folder.config)
    changed = changed_settings(before, config)
    for name, (old, new) in changed.items():
        console.info(f"{name} was {old or 'empty' if isinstance(old, str) else old} and is now {new}")
    step = trainer.state.step
    if trainer.state.step < config.train.max_steps:
        old_ratio = configured_ratio(before.schedule, min(step, before.train.max_steps - 1), before.train.max_steps)
        old_rate, new_rate = (
            before.train.learning_rate * old_ratio * trainer.state.rate_scale,
            trainer.learning_rate(step),
        )
        if changed and new_rate > LEARNING_RATE_LEAP * old_rate:
            console.warn(
                f"the learning rate leaps from {old_rate:.2e} to {new_rate:.2e} at step {step + 1:,}, because the schedule "
                "or its length changed"
            )
    return changed


def _repair_best(run: RunFolder) -> None:
    """Point a damaged `best` at the best checkpoint again, before any checkpoint is deleted."""
    if not is_damaged_pointer(run, "best"):
        return
    best = best_by_state(run)
    if best is None:
        (run.checkpoints / "best").unlink()
        console.warn(f"{run.checkpoints / 'best'} was damaged, and the checkpoint it named is gone; it was removed")
    else:
        set_pointer(run, "best", best)
        console.warn(f"{run.checkpoints / 'best'} was damaged; it names {best.name} again")


def _startup_findings(
    config: RunConfig, run: RunFolder, dataset: TokenDataset, model: LanguageModel | None, dist: DistributedContext
) -> list[Finding]:
    """Run the startup checks on rank 0 and print their findings; all ranks fail if they cannot be trained with.

    Args:
        config: the configuration.
        run: the run.
        dataset: to train on.
        model: the initial model; None if the run is resumed.
        dist: the ranks.

    Raises:
        DataError: the conversations to train on have a fatal problem.
        GlassGPTError: something that the checks read is damaged.
    """
    found: list[Finding] = []
    refused: GlassGPTError | None = None
    if dist.is_main:
        try:
            found = _check_startup(config, run, dataset, model)
        except GlassGPTError as error:
            refused = error
    problem = dist.all_gather_objects("" if refused is None else str(refused))[0]  # the others wait for it here
    if refused is not None:
        raise refused
    if problem:
        raise DataError(problem)
    return found


def _check_startup(
    config: RunConfig, run: RunFolder, dataset: TokenDataset, model: LanguageModel | None
) -> list[Finding]:
    weights = Path(config.init_from) if config.init_from else run.checkpoints if model is None else None
    known_loss = None
    if config.init_from and model is not None:
        known_loss = read_state(find_checkpoint(RunFolder(Path(config.init_from)), "best")).best_loss
    plan = diagnosis.TrainingPlan(
        config.model, trainer_config(config), dataset, run.path, weights, known_loss,
        is_augmented=is_augmented(config.multimodal, dataset.folder),
    )  # fmt: skip
    found = print_startup_findings(diagnosis.run_startup_checks(plan, model), user_language())
    refuse_fatal(found)
    return found


def write_run_report(run: RunFolder, config: RunConfig, dataset: TokenDataset) -> None:
    """Write `report.html` from the files of a run that has just ended, successfully or not; warn if it cannot be written."""
    try:
        _write_report_file(run, config, dataset)
    except (OSError, GlassGPTError) as error:  # the error that ended the run, if there is one, is the one to show
        console.warn(f"cannot write {run.report}: {(error.strerror if isinstance(error, OSError) else None) or error}")


def _write_report_file(run: RunFolder, config: RunConfig, dataset: TokenDataset) -> None:
    is_text = not config.preference.data and not config.multimodal.names
    record, known = RunLog.read(run), dataset_baseline(dataset) if is_text else None
    saved = [checkpoint_step(path) for path in list_checkpoints(run)]
    tokens = dataset.info.train.tokens
    curve = list(diagnose_metrics(record, config.model, trainer_config(config), known, saved, train_tokens=tokens))
    checks = [check_live_findings(record, [finding for check in curve for finding in check.findings]), *curve]
    write_report(record, checks, known)


def attach_diagnosis(trainer: Trainer, config: DiagnosisConfig) -> None:
    """Attach the monitor and the recovery policy to a trainer. Call it before `resume`."""
    monitor = None
    if config.watch != "off":
        monitor = TrainingMonitor(trainer, config, trainer.run_folder.layers)
        monitor.attach()
        trainer.observers.append(MonitorDisplay(monitor, shows_layers=config.watch == "full" and trainer.dist.is_main))
    policy = PreferencePolicy if isinstance(trainer.dataset, PreferenceDataset) else RecoveryPolicy
    trainer.policy = policy(trainer, config, monitor)


def _log_start(
    logger: JsonlLogger,
    trainer: Trainer,
    damaged: list[str],
    findings: list[Finding],
    changed: dict[str, list[Any]],
) -> None:
    step = trainer.state.step
    for line in damaged:
        logger.on_event(step, "checkpoint refused", {"why": line})
    environment = {"hardware": trainer.hardware.describe(), **versions(), "host": platform.node(), "pid": os.getpid()}
    changes = {"changed": changed} if changed else {}
    logger.on_event(step, "resume" if step else "start", {**environment, **changes})
    for finding in findings:
        logger.on_event(step, EVENT, finding.to_json())
