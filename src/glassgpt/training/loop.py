"""The training loop.

Read `Trainer.run` first, then `Trainer._step`: all else is what they call. A step is a pure function of the
weights, the optimizer, the data position and the random generators, and all of these are in a checkpoint;
so a run that was killed and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from glassgpt import console
from glassgpt.data.batches import Batches, validation_windows
from glassgpt.data.shards import TokenDataset
from glassgpt.errors import CheckpointError, Interrupted, TrainingDivergedError
from glassgpt.model.accounting import flops_per_token
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint import (
    TrainingState,
    capture_rng,
    clean_staging,
    load_optimizer,
    load_weights,
    point,
    prune,
    read_state,
    restore_rng,
    save_checkpoint,
)
from glassgpt.training.config import CheckpointConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from glassgpt.training.hardware import Hardware, resolve_hardware
from glassgpt.training.interrupt import StopRequest, stop_requests
from glassgpt.training.loss import ValidationLoss, cross_entropy, validation_loss
from glassgpt.training.observers import Observer, StepMetrics
from glassgpt.training.optimizers import build_optimizer, set_learning_rate
from glassgpt.training.run import RunFolder
from glassgpt.training.schedule import learning_rate_ratio

SPEED_WINDOW_STEPS = 20
EVALUATION_ROWS = 16
"""Most sequences in one forward pass of a validation when the micro-batch does not say."""


@dataclass(frozen=True)
class Settings:
    """The configuration of training, component by component."""

    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    seed: int = 1337


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: steps done.
        validation: the last validation; its set is the one that training looks at.
        best_loss: lowest validation loss, nats per token.
        seconds: time spent training.
        stopped_early: whether early stopping ended it.
    """

    step: int
    validation: ValidationLoss
    best_loss: float
    seconds: float
    stopped_early: bool


@dataclass(frozen=True)
class _PendingStep:
    """A step whose figures still lie on the device."""

    step: int
    loss: Tensor
    grad_norm: Tensor
    learning_rate: float


class Trainer:
    """Trains one model on one data set into one run folder.

    Args:
        model: on the CPU, freshly initialised or loaded; it is moved to the device and changed in place.
        dataset: where training and validation tokens come from.
        settings: the configuration.
        run: where checkpoints go.
        observers: who is told what happens, in this order.

    Attributes:
        state: what a checkpoint holds besides weights and optimizer.
        hardware: what `auto` came to.
    """

    def __init__(
        self,
        model: LanguageModel,
        dataset: TokenDataset,
        settings: Settings,
        run: RunFolder,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.settings, self.run_folder, self.observers = settings, run, list(observers)
        self.hardware: Hardware = resolve_hardware(settings.train)
        self.model = model.to(self.hardware.device)
        self.optimizer = build_optimizer(self.model, settings.optimizer)
        self.scaler = self.hardware.scaler()
        self.state = TrainingState(
            train_tokens=len(dataset.split("train")), tokenizer_fingerprint=dataset.tokenizer_fingerprint
        )
        self._forward: nn.Module = self.model
        if self.hardware.compile:
            self._forward = torch.compile(self.model)  # type: ignore[assignment]
        self._context = model.config.context_length
        self._train = Batches(dataset.split("train"), self._context, settings.seed)
        self._validation = dataset.split("validation")
        self._byte_lengths = dataset.tokenizer.byte_lengths()
        rows = settings.train.batch_tokens // self._context
        self._micro_rows = settings.train.micro_batch_size or rows
        self._accumulation = rows // self._micro_rows
        self._flops_per_token = flops_per_token(model.config)
        self._durations: deque[float] = deque(maxlen=SPEED_WINDOW_STEPS)
        self._pending: _PendingStep | None = None

    def resume(self, checkpoint: Path) -> None:
        """Go on from a verified checkpoint as if nothing had happened.

        Raises:
            CheckpointError: it belongs to another model, other data, or another tokenizer.
        """
        state = read_state(checkpoint)
        if state.tokenizer_fingerprint != self.state.tokenizer_fingerprint:
            raise CheckpointError(f"{checkpoint} was trained with another tokenizer than the data set's")
        if state.train_tokens != self.state.train_tokens:
            raise CheckpointError(
                f"{checkpoint} was trained on {state.train_tokens:,} tokens, the data set now has "
                f"{self.state.train_tokens:,}: it was exchanged, so the run cannot go on exactly; start a new "
                f"run from these weights with --init-from {self.run_folder.path}"
            )
        load_weights(self.model, checkpoint)
        load_optimizer(self.optimizer, checkpoint)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        restore_rng(state.rng)
        self._train.seek(state.windows)
        self.state = state

    def run(self) -> Outcome:
        """Train until `max_steps`, or until early stopping or the user ends it.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the run was saved and can be resumed.
            TrainingDivergedError: the loss is no longer finite; nothing of it was saved.
            CheckpointError: a checkpoint could not be written.
        """
        clean_staging(self.run_folder)
        try:
            with stop_requests() as request:
                return self._run(request)
        finally:
            for observer in self.observers:
                observer.close()

    def validate(self) -> ValidationLoss:
        """Loss on the fixed validation set."""
        rows = max(1, min(self._micro_rows, EVALUATION_ROWS))
        windows = validation_windows(
            self._validation, self._context, rows=rows, limit=self.settings.train.eval_tokens or None
        )
        return validation_loss(
            self.model,
            windows,
            self._byte_lengths,
            device=self.hardware.device,
            autocast=self.hardware.autocast(),
        )

    def _run(self, request: StopRequest) -> Outcome:
        train, checkpoint = self.settings.train, self.settings.checkpoint
        self.model.train()
        validation: ValidationLoss | None = None
        stopped_early = False
        while self.state.step < train.max_steps and not stopped_early:
            self._step()
            step = self.state.step
            is_last = step == train.max_steps
            is_best = False
            if is_last or _is_due(step, train.eval_every_steps):
                self._flush()
                validation = self.validate()
                is_best = self._record(validation)
                stopped_early = 0 < train.early_stop_evaluations <= self.state.evaluations_since_best
            wants_best = is_best and checkpoint.keep_best
            if is_last or stopped_early or wants_best or _is_due(step, checkpoint.every_steps):
                self._save(is_best=wants_best)
            if request.signal_number is not None and not is_last:
                self._save_and_stop(request.signal_number)
        if stopped_early:
            self._tell("early stop", {"evaluations_since_best": self.state.evaluations_since_best})
        best = self.state.best_loss
        if validation is None:
            # Resumed after the last step: everything is saved, only the closing words are missing.
            validation = self.validate()
        return Outcome(
            self.state.step, validation, validation.loss if best is None else best, self.state.seconds, stopped_early
        )

    def _step(self) -> None:
        """One optimizer step over `batch_tokens`, accumulated from micro-batches."""
        start = time.perf_counter()
        learning_rate = self._learning_rate()
        set_learning_rate(self.optimizer, learning_rate)
        loss = torch.zeros((), device=self.hardware.device)
        for _ in range(self._accumulation):
            inputs, targets = self._to_device(self._train.next(self._micro_rows))
            with self.hardware.autocast():
                micro_loss = cross_entropy(self._forward(inputs), targets)
            # Micro-batches are equally long, so the mean of their means is the mean of the whole batch.
            self.scaler.scale(micro_loss / self._accumulation).backward()
            loss += micro_loss.detach() / self._accumulation
        self.scaler.unscale_(self.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.train.clip_norm or math.inf)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        # Reading the step before only now keeps a GPU busy with this one.
        self._flush()
        duration = time.perf_counter() - start
        self._durations.append(duration)
        self.state.step += 1
        self.state.windows = self._train.position
        self.state.seconds += duration
        self._pending = _PendingStep(self.state.step, loss, grad_norm, learning_rate)

    def _learning_rate(self) -> float:
        train = self.settings.train
        return train.learning_rate * learning_rate_ratio(self.settings.schedule, self.state.step, train.max_steps)

    def _to_device(self, batch: tuple[Tensor, Tensor]) -> Iterable[Tensor]:
        device = self.hardware.device
        if device.type == "cuda":
            return [tensor.pin_memory().to(device, non_blocking=True) for tensor in batch]
        return [tensor.to(device) for tensor in batch]

    def _flush(self) -> None:
        """Read the figures of the step before and pass them on.

        Raises:
            TrainingDivergedError: they are not finite.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        loss, grad_norm = pending.loss.item(), pending.grad_norm.item()
        # With a scaler, an overflowing gradient is its everyday business: it skips that step by itself.
        if not math.isfinite(loss) or not (math.isfinite(grad_norm) or self.scaler.is_enabled()):
            self._diverged(pending.step, loss, grad_norm)
        speed = self._tokens_per_second()
        peak = self.hardware.peak_flops
        metrics = StepMetrics(
            step=pending.step,
            loss=loss,
            learning_rate=pending.learning_rate,
            grad_norm=grad_norm,
            tokens=pending.step * self.settings.train.batch_tokens,
            seconds=self.state.seconds,
            tokens_per_second=speed,
            mfu=speed * self._flops_per_token / peak if peak else None,
        )
        for observer in self.observers:
            observer.on_step(metrics)

    def _tokens_per_second(self) -> float:
        return len(self._durations) * self.settings.train.batch_tokens / sum(self._durations)

    def _record(self, validation: ValidationLoss) -> bool:
        best = self.state.best_loss
        is_best = best is None or validation.loss < best
        self.state.best_loss = validation.loss if is_best else best
        self.state.evaluations_since_best = 0 if is_best else self.state.evaluations_since_best + 1
        for observer in self.observers:
            observer.on_validation(self.state.step, validation, is_best)
        return is_best

    def _save(self, *, is_best: bool = False) -> None:
        self._flush()  # what has diverged must not be saved
        self.state.rng = capture_rng()
        self.state.scaler = self.scaler.state_dict()
        path = save_checkpoint(self.run_folder, self.model, self.optimizer, self.state)
        if is_best:
            point(self.run_folder, "best", path)
        prune(self.run_folder, self.settings.checkpoint.keep_last)
        for observer in self.observers:
            observer.on_checkpoint(self.state.step, path)

    def _save_and_stop(self, signal_number: int) -> None:
        self._save()
        self._tell("interrupted", {"signal": signal_number})
        raise Interrupted(
            f"stopped and saved after step {self.state.step:,}; go on with: "
            f"glassgpt train --resume --out {self.run_folder.path}",
            signal_number,
        )

    def _diverged(self, step: int, loss: float, grad_norm: float) -> None:
        self._tell("diverged", {"at": step, "loss": str(loss), "grad_norm": str(grad_norm)})
        raise TrainingDivergedError(
            f"step {step:,}: the loss is {loss:g} and the gradient norm {grad_norm:g}; nothing of it was saved. "
            f"Go on from the last checkpoint with a lower rate: glassgpt train --resume --out "
            f"{self.run_folder.path} --train.learning-rate {self.settings.train.learning_rate / 2:g}"
        )

    def _tell(self, event: str, details: dict[str, object]) -> None:
        for observer in self.observers:
            observer.on_event(self.state.step, event, details)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def announce(trainer: Trainer) -> None:
    """Say what is about to be trained, on what, and how."""
    model, train = trainer.model, trainer.settings.train
    parameters = sum(p.numel() for p in model.parameters())
    console.say(
        f"{model.config.arch} with {console.amount(parameters)}parameters on {trainer.hardware.describe()}; "
        f"{console.amount(trainer.state.train_tokens)}tokens of text, "
        f"{train.max_steps:,} steps of {train.batch_tokens:,} tokens"
    )
