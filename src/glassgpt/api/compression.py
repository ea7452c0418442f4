"""Compress a run's model into a new run, and find out what that would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from glassgpt import console
from glassgpt.api.loaded_model import LoadedModel
from glassgpt.api.loading import load_checkpoint
from glassgpt.api.runs import kept_files, save_as_run
from glassgpt.api.teachers import lineage_from
from glassgpt.compression.calibration import calibration_windows
from glassgpt.compression.methods import check_methods, in_order
from glassgpt.compression.methods.base import CompressionMethod
from glassgpt.compression.methods.int4 import Int4
from glassgpt.compression.report import CompressionReport, compare_models, stored_bytes, tokens_per_second
from glassgpt.compression.search import Candidate
from glassgpt.compression.sensitivity import Sensitivity, measure_sensitivity
from glassgpt.config import RunConfig, held_out_folder
from glassgpt.data.folder_kinds import rows_in
from glassgpt.data.shards import TokenDataset
from glassgpt.data.verification import verify_once
from glassgpt.errors import UsageError
from glassgpt.evaluation.loss import evaluate_dataset, require_same_tokenizer
from glassgpt.evaluation.observer import EvaluationObserver
from glassgpt.evaluation.perplexity import held_out_tokens
from glassgpt.evaluation.show import ConsoleObserver
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.vectors import ModelWithEncoders
from glassgpt.training.lineage import Lineage
from glassgpt.training.run_folder import RunFolder

CALIBRATION_TOKENS = 32768
EVALUATED_TOKENS = 32768


@dataclass(frozen=True)
class CompressionSource:
    """A run to compress, and how.

    Attributes:
        run: the run; it is not changed.
        data: dataset to calibrate and evaluate on; None takes the one that the run was trained on.
        checkpoint: see `load`, as is `device`.
        calibration_tokens: tokens of the training text that a method may read.
        eval_tokens: held-out tokens to evaluate; 0 means all.
    """

    run: str | Path
    data: Path | None = None
    checkpoint: str = "best"
    device: str = "auto"
    calibration_tokens: int = CALIBRATION_TOKENS
    eval_tokens: int = EVALUATED_TOKENS


class OpenedSource:
    """A run to compress whose model and dataset are loaded."""

    def __init__(self, source: CompressionSource, observer: EvaluationObserver | None, *, reads_text: bool) -> None:
        self.source, self.observer = source, ConsoleObserver() if observer is None else observer
        folder = held_out_folder(Path(source.run), source.data)
        if rows := rows_in(folder):
            raise UsageError(f"{folder} holds {rows}; to measure what is lost, add --data DIR with a dataset of text")
        self.dataset = TokenDataset.open(folder)
        loaded, self.checkpoint = load_checkpoint(source.run, source.checkpoint, source.device, "auto", 1)
        if isinstance(loaded.model, ModelWithEncoders):
            loaded = replace(loaded, model=loaded.model.language_model)
            console.warn("only the language model is compressed: the encoders of pictures and sound are left out")
        self.loaded: LoadedModel = loaded
        require_same_tokenizer(loaded.tokenizer.fingerprint, self.dataset)
        held_out_tokens(self.dataset)
        verify_once(self.dataset, ("train", "validation") if reads_text else ("validation",))

    def apply(self, methods: Sequence[CompressionMethod], model: LanguageModel | None = None) -> LanguageModel:
        """Return a compressed copy of the model, or of another one."""
        model = self.loaded.model if model is None else model
        config = model.config
        with torch.no_grad():
            for method in in_order(methods):
                tokens = self.source.calibration_tokens
                text = calibration_windows(self.dataset, config.context_length, tokens) if method.reads_text else None
                model = method.apply(model, text, self.observer.progress).eval()
        return model

    def lineage(self, methods: Sequence[CompressionMethod], steps: int = 0) -> Lineage:
        """Return the lineage of the model with methods applied, trained for some steps after the one that asks for it."""
        done: list[str] = []
        for method in in_order(methods):
            done.append(method.describe())
            if method.trains and steps:
                done.append(f"trained for {steps:,} steps to predict what the original predicts")
        return lineage_from(RunFolder(Path(self.source.run)), self.checkpoint, done)

    def save(
        self, model: LanguageModel, methods: Sequence[CompressionMethod], out: Path, steps: int = 0
    ) -> CompressionReport:
        """Measure a compressed model and save it as a run; `steps` are those that it was trained for."""
        lineage = self.lineage(methods, steps)
        report = compare_models(
            self.loaded.model, model, self.dataset, lineage.steps, limit=self.source.eval_tokens, observer=self.observer
        )
        files = kept_files(Path(self.source.run)) | {RunFolder(out).compression.name: report.to_bytes()}
        config = RunConfig(data=str(self.dataset.folder.absolute()))
        save_as_run(model, self.loaded.tokenizer, out, config=config, lineage=lineage, files=files)
        return report

    def measure(self, model: LanguageModel, methods: Sequence[CompressionMethod]) -> Candidate:
        """Measure a model without the texts."""
        loss = evaluate_dataset(model, self.dataset, limit=self.source.eval_tokens, observer=self.observer)
        return Candidate(tuple(methods), loss.perplexity, stored_bytes(model), tokens_per_second(model))


def compress(
    source: CompressionSource,
    out: Path,
    methods: Sequence[CompressionMethod],
    *,
    observer: EvaluationObserver | None = None,
) -> CompressionReport:
    """Compress a run's model into a new run, and measure what that costs.

    Args:
        source: the run to compress.
        out: folder of the new run.
        methods: what to do; their order does not matter.
        observer: receives progress and notices; None shows them.

    Returns:
        The report, which the new run holds as `compression.json`.

    Raises:
        UsageError: a method does not fit the model or another method, or `out` exists.
        GlassGPTError: see `load` and `TokenDataset.open`; or the new run cannot be written.
    """
    RunFolder(out).require_new()
    opened = OpenedSource(source, observer, reads_text=any(method.reads_text for method in methods))
    check_methods(methods, opened.loaded.model.config, trains=False)
    return opened.save(opened.apply(methods), methods, out)


def sensitivity(source: CompressionSource, *, observer: EvaluationObserver | None = None) -> list[Sensitivity]:
    """Return how much each matrix of a run's model suffers from 4 bits; see `measure_sensitivity`.

    Raises:
        UsageError: the widths of the model are not multiples of the group size.
        GlassGPTError: see `compress`.
    """
    opened = OpenedSource(source, observer, reads_text=False)
    model = opened.loaded.model
    check_methods([Int4("nearest")], model.config)
    return measure_sensitivity(model, opened.dataset, opened.observer.progress)
