"""Find the combination of compression methods that meets a target, and make a run of it."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from glassgpt.api.compression import CompressionSource, OpenedSource
from glassgpt.api.runs import trainer_config
from glassgpt.compression.distillation import training_settings
from glassgpt.compression.methods.base import CompressionMethod
from glassgpt.compression.report import CompressionReport
from glassgpt.compression.search import Candidate, Combination, Target, best_for, combinations, search
from glassgpt.compression.shrink import with_dropout
from glassgpt.config import RunConfig, load_config, resolve_config
from glassgpt.data.chat.dataset import is_conversations
from glassgpt.errors import MemoryExhaustedError, TrainingDivergedError
from glassgpt.evaluation.observer import EvaluationObserver
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loop import Trainer
from glassgpt.training.observers import Observer, StepMetrics
from glassgpt.training.run_folder import RunFolder

TIMED_STEPS = 2
FEWEST_STEPS = 40
"""Steps below which a model is not trained at all: the first ones, at a rate that is soon at its peak, do harm."""


def compress_to_target(
    source: CompressionSource,
    out: Path | None,
    target: Target,
    *,
    seconds: float,
    overrides: Mapping[str, Any] | None = None,
    observer: EvaluationObserver | None = None,
) -> tuple[list[Candidate], CompressionReport | None]:
    """Try combinations of methods, and save the one that meets a target at the lowest perplexity.

    Args:
        source: the run to compress.
        out: folder of the new run; None saves nothing.
        target: size or speed to reach.
        seconds: time for trying combinations and training smaller models; see `search`.
        overrides: settings of the training, by dotted name.
        observer: receives progress and notices; None shows them.

    Returns:
        The combinations that were measured, and the report of the one that was saved; None if none meets the target or
        nothing was to be saved.

    Raises:
        GlassGPTError: see `compress` and `train`.
    """
    if out is not None:
        RunFolder(out).require_new()
    attempt = _Search(OpenedSource(source, observer, reads_text=True), target, overrides or {})
    shapes = combinations(attempt.opened.loaded.model.config)
    if is_conversations(attempt.opened.dataset.folder) or source.checkpoint != "best":
        shapes = [
            shape for shape in shapes if shape.method is None
        ]  # smaller models learn from text, and from the best
    for shape in shapes:
        if shape.method is not None:
            attempt.settings(shape.method)  # what is invalid is reported now, not after minutes of measuring
    found = search(shapes, attempt.measure, attempt.train, seconds)
    best = best_for(target, found)
    if best is None or out is None or not best.methods:
        return found, None
    return found, attempt.opened.save(attempt.best, best.methods, out, best.steps)


class _Search:
    """A search, with the best model so far and the one that is being quantized: all of them would not fit into memory."""

    def __init__(self, opened: OpenedSource, target: Target, overrides: Mapping[str, Any]) -> None:
        self.opened, self.target, self.overrides = opened, target, overrides
        self.best = self._model = opened.loaded.model
        self._best_candidate: list[Candidate] = []
        self._steps = 0

    def train(self, method: CompressionMethod, seconds: float) -> None:
        """Make a smaller model, and train it; `seconds` are for both. If training fails, it stays as it was made."""
        start, config = time.monotonic(), self.settings(method)
        self._model, self._steps, failed = self._smaller(method, config), 0, True
        try:
            self._steps = train_for(self._model, config, self.opened, seconds - (time.monotonic() - start))
            failed = False
        except (MemoryExhaustedError, torch.OutOfMemoryError):
            self.opened.observer.warning(
                f"{method.label} stays untrained: out of memory; try a smaller --train.micro-batch-size"
            )
        except TrainingDivergedError:
            self.opened.observer.warning(
                f"{method.label} stays untrained: its loss is not finite; try a lower --train.learning-rate"
            )
        if failed:  # after some steps, perhaps
            self._model = self._smaller(method, config)

    def _smaller(self, method: CompressionMethod, config: RunConfig) -> LanguageModel:
        """Make a smaller model, with the dropout that it is trained with instead of the original's."""
        return with_dropout(self.opened.apply([method]), config.model)

    def measure(self, methods: Combination) -> Candidate:
        """Quantize the model as a combination says, and measure it."""
        rest = [method for method in methods if not method.trains]
        model = self.opened.apply(rest, self._model)
        candidate = replace(self.opened.measure(model, methods), steps=self._steps)
        if best_for(self.target, [*self._best_candidate, candidate]) is candidate:
            self._best_candidate, self.best = [candidate], model
        return candidate

    def settings(self, method: CompressionMethod) -> RunConfig:
        """Return the settings that a smaller model is trained with.

        Raises:
            GlassGPTError: one of them is invalid.
        """
        run, dataset = Path(self.opened.source.run), self.opened.dataset.folder
        given = load_config(run)
        shape, checkpoint = self.opened.loaded.model.config, self.opened.source.checkpoint
        settings = training_settings(run, dataset, [method], shape, given.train, self.overrides, checkpoint)
        device = next(self._model.parameters()).device.type
        here = {"train.device": device}
        if "train.compile" not in {name.replace("-", "_") for name in self.overrides}:
            here["train.compile"] = "off"  # compiling takes longer than it saves in minutes
        return resolve_config(load_config(run, settings | here), None)


def train_for(model: LanguageModel, config: RunConfig, opened: OpenedSource, seconds: float) -> int:
    """Train a model for as many steps as fit into a time, at most `train.max_steps`; return how many, 0 if too few fit.

    The steps are timed first, on a copy, because the learning rate follows a schedule over all of them.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:  # nothing is saved before the end
        step_seconds = _step_seconds(_trainer(copy.deepcopy(model), config, opened, folder), seconds)
        steps = min(config.train.max_steps, int((seconds - (time.monotonic() - start)) / step_seconds))
        if steps < min(FEWEST_STEPS, config.train.max_steps):
            return 0
        train = replace(config.train, max_steps=steps)
        trainer = _trainer(model, replace(config, train=train, schedule=config.schedule.fitted(steps)), opened, folder)
        torch.manual_seed(config.seed)
        with (
            closing(trainer.train_step),
            trainer.hardware.kernels(),
            opened.observer.progress("training", steps, "steps") as advance,
        ):
            trainer.observers.append(_Progress(advance))
            trainer.run_steps(steps)
    model.eval()
    return steps


def _trainer(model: LanguageModel, config: RunConfig, opened: OpenedSource, folder: str) -> Trainer:
    return Trainer(model, opened.dataset, trainer_config(config), RunFolder(Path(folder)))


def _step_seconds(trainer: Trainer, seconds: float) -> float:
    """Return the time of a step; only the first is timed if more would take half of the time."""
    start = time.monotonic()
    with closing(trainer.train_step), trainer.hardware.kernels():
        trainer.run_steps(1)
        first = time.monotonic() - start
        if (1 + TIMED_STEPS) * first < seconds / 2:
            trainer.run_steps(TIMED_STEPS)
    spent = time.monotonic() - start
    return (spent - first) / TIMED_STEPS if spent > first else first


class _Progress(Observer):
    """Advances a progress bar with each step."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def on_step(self, metrics: StepMetrics) -> None:
        """Advance by one."""
        self._advance(1)
