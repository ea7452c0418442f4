"""Train a model made of another one's parts to predict what that one predicts, as a run of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glassgpt.api.compression import EVALUATED_TOKENS, CompressionSource, OpenedSource
from glassgpt.api.loading import load_checkpoint
from glassgpt.api.runs import kept_files, resumed_config, trainer_config, write_run_files
from glassgpt.api.training import check, train
from glassgpt.compression.distillation import require_student, require_text, training_settings
from glassgpt.compression.methods import check_methods
from glassgpt.compression.methods.base import CompressionMethod
from glassgpt.compression.report import CompressionReport, compare_models
from glassgpt.config import RunConfig, load_config
from glassgpt.data.files import write_atomically
from glassgpt.data.staging import staged_folder
from glassgpt.errors import CheckpointError
from glassgpt.evaluation.observer import EvaluationObserver
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint import TrainingState, save_checkpoint
from glassgpt.training.lineage import Lineage, read_lineage
from glassgpt.training.optimizers import build_optimizers
from glassgpt.training.run_folder import RunFolder


def distil(
    source: CompressionSource,
    out: Path,
    methods: Sequence[CompressionMethod],
    *,
    overrides: Mapping[str, Any] | None = None,
    observer: EvaluationObserver | None = None,
) -> CompressionReport:
    """Make a run's model smaller, train it to predict what the original predicts, and measure the result.

    Args:
        source: the run to compress.
        out: folder of the new run.
        methods: what makes the model smaller: `Distil`, `Prune`, or both.
        overrides: settings of the training, by dotted name.
        observer: receives progress and notices of everything but the training; None shows them.

    Returns:
        The report, which the new run holds as `compression.json`.

    Raises:
        UsageError: a method does not fit the model, a setting cannot be changed, the dataset holds conversations, or
            `out` exists.
        Interrupted: the training was stopped; `finish_distillation` continues it.
        GlassGPTError: see `compress` and `train`.
    """
    RunFolder(out).require_new()
    opened = OpenedSource(source, observer, reads_text=any(method.reads_text for method in methods))
    require_text(opened.dataset.folder)
    shape, run = opened.loaded.model.config, Path(source.run)
    check_methods(methods, shape)
    trained = load_config(run).train
    settings = training_settings(
        run, opened.dataset.folder, methods, shape, trained, overrides or {}, source.checkpoint
    )
    config = check(load_config(run, settings), out)
    _create_run(opened, opened.apply(methods), config, out, opened.lineage(methods))
    return _train_and_report(config, out, opened)


def finish_distillation(
    run: str | Path,
    out: Path,
    *,
    device: str = "auto",
    eval_tokens: int = EVALUATED_TOKENS,
    overrides: Mapping[str, Any] | None = None,
    observer: EvaluationObserver | None = None,
) -> CompressionReport:
    """Continue the training of a run that `distil` began, and measure the result.

    Args:
        run: the original.
        out: the run to continue.
        device: see `load`.
        eval_tokens: see `CompressionSource`.
        overrides: settings to change, by dotted name.
        observer: see `distil`.

    Raises:
        UsageError: `out` is not trained to predict what `run` predicts.
        GlassGPTError: see `compress` and `train`.
    """
    config = resumed_config(out, dict(overrides or {}))
    require_student(config.train.teacher, Path(run), out)
    source = CompressionSource(run, Path(config.data), device=device, eval_tokens=eval_tokens)
    return _train_and_report(config, out, OpenedSource(source, observer, reads_text=False))


def _create_run(opened: OpenedSource, model: LanguageModel, config: RunConfig, out: Path, lineage: Lineage) -> None:
    """Create a run that has done no step yet, so that it can always be resumed."""
    dataset = opened.dataset
    state = TrainingState(train_tokens=len(dataset.split("train")), tokenizer_fingerprint=dataset.tokenizer_fingerprint)
    with staged_folder(out, force=False, what="run") as (folder, _):
        staged = RunFolder(folder)
        save_checkpoint(staged, model, build_optimizers(model, trainer_config(config).optimizer), state)
        write_run_files(staged, config, dataset.tokenizer, lineage)
        for name, content in kept_files(Path(opened.source.run)).items():
            write_atomically(folder / name, content)


def _train_and_report(config: RunConfig, out: Path, opened: OpenedSource) -> CompressionReport:
    """Train a run to its end, from wherever it is, and compare its best model with the original."""
    train(config, out, resume=True)
    run, device = RunFolder(out), next(opened.loaded.model.parameters()).device
    trained = load_checkpoint(out, "best", device.type, "auto", 1)[0].model
    lineage = read_lineage(run)
    report = compare_models(
        opened.loaded.model,
        trained,
        opened.dataset,
        () if lineage is None else lineage.steps,
        limit=opened.source.eval_tokens,
        observer=opened.observer,
    )
    try:
        write_atomically(run.compression, report.to_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot write {run.compression}: {error.strerror}") from error
    return report
