"""The training loop.

Read `Trainer.run` first, then `Trainer._step`: all else is what they call. A step is a pure function of the
weights, the optimizer, the data position and the random generators, and all of these are in a checkpoint;
so a run that was killed and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import gc
import math
import signal
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from glassgpt import console
from glassgpt.data.batches import validation_windows
from glassgpt.data.files import is_disk_full
from glassgpt.data.shards import TokenDataset
from glassgpt.errors import CheckpointError, GlassGPTError, Interrupted, MemoryExhaustedError, TrainingDivergedError
from glassgpt.model.accounting import flops_per_token
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint import (
    TrainingState,
    capture_rng,
    clean_staging,
    load_average,
    load_optimizers,
    load_weights,
    prune,
    read_state,
    restore_rng,
    save_checkpoint,
    set_aside_checkpoints_after,
    set_pointer,
)
from glassgpt.training.config import TrainerConfig, divisors
from glassgpt.training.distributed import DistributedContext, local_tensor
from glassgpt.training.figures import PendingFigures
from glassgpt.training.guard import Guard, RefusedStep
from glassgpt.training.hardware import Hardware, resolve_hardware
from glassgpt.training.interrupt import StopRequest, stop_requests
from glassgpt.training.loss import ValidationLoss, validation_loss
from glassgpt.training.observers import Observer, StepMetrics, append_event
from glassgpt.training.parallel import MemoryPlan
from glassgpt.training.run_folder import RunFolder
from glassgpt.training.schedule import learning_rate_ratio
from glassgpt.training.step import StepSnapshot, TrainStep

SPEED_WINDOW_STEPS = 20
COLLECT_EVERY_STEPS = 100
"""Steps between two garbage collections; in between there is none, see `_quiet_collector`."""
EVALUATION_ROWS = 16
"""Most sequences in one forward pass of a validation when the micro-batch does not say."""


@dataclass(frozen=True)
class TrainingResult:
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
class Beginning:
    """What a run began with.

    Attributes:
        weights: this rank's part of each parameter, on the CPU.
        start: of the first step.
    """

    weights: dict[str, Tensor]
    start: StepSnapshot


@dataclass(frozen=True)
class _PendingStep:
    """A step whose figures still lie on the device."""

    step: int
    figures: PendingFigures
    learning_rate: float
    start: StepSnapshot
    data_seconds: float


class Trainer:
    """Trains one model on one data set into one run folder.

    Args:
        model: on the CPU, freshly initialised or loaded; it is moved to the device and changed in place.
        dataset: where training and validation tokens come from.
        settings: the configuration.
        run: where checkpoints go.
        observers: who is told what happens, in this order.
        ranks: the processes that train together, this one among them.
        guard: who decides when a step is refused or memory runs out; the plain one stops.

    Attributes:
        dataset: the data set.
        train_step: what does a step.
        state: what a checkpoint holds besides weights and optimizer.
        hardware: what `auto` came to.
        beginning: see `keep_initial_weights`.
    """

    def __init__(
        self,
        model: LanguageModel,
        dataset: TokenDataset,
        config: TrainerConfig,
        run: RunFolder,
        observers: Sequence[Observer] = (),
        dist: DistributedContext | None = None,
        guard: Guard[Trainer] | None = None,
    ) -> None:
        self.dataset, self.guard = dataset, guard or Guard[Trainer]()
        self.config, self.run_folder, self.observers = config, run, list(observers)
        self.dist = dist or DistributedContext()
        self.hardware: Hardware = resolve_hardware(config.train)
        self.train_step = TrainStep(model, dataset.split("train"), config, self.hardware, self.dist)
        self.train_step.on_out_of_memory = lambda message: self.guard.on_out_of_memory(self, message)
        self.model = self.train_step.model
        self.state = TrainingState(
            train_tokens=len(dataset.split("train")), tokenizer_fingerprint=dataset.tokenizer_fingerprint
        )
        self._context = model.config.context_length
        self._validation = dataset.split("validation")
        self._byte_lengths = dataset.tokenizer.byte_lengths()
        self._flops_per_token = flops_per_token(model.config)
        self._durations: deque[float] = deque(maxlen=SPEED_WINDOW_STEPS)
        self._pending: _PendingStep | None = None
        self._others_stop = False
        self._request = StopRequest()
        self.beginning: Beginning | None = None

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
        self._load(checkpoint, state)
        self.train_step.batches.quarantine(state.quarantined)
        self.train_step.seek(state.windows)
        if state.memory:
            self.train_step.adapt(self._remembered(MemoryPlan.from_json(state.memory)))
        self.guard.restore(state.guard)
        self.state = state

    def _remembered(self, memory: MemoryPlan) -> MemoryPlan:
        """What a checkpoint says of memory, for as many ranks as there are now; less where less is asked for."""
        rows = self.train_step.batch_size
        train, chunks = self.config.train, [memory.loss_chunk_tokens, self.config.train.loss_chunk_tokens]
        most = min(memory.micro_batch_size, train.resolve_micro_batch_size(rows))
        return MemoryPlan(
            micro_batch_size=max(n for n in divisors(rows) if n <= most),
            loss_chunk_tokens=min((tokens for tokens in chunks if tokens), default=0),
            recompute_activations=memory.recompute_activations or train.recompute_activations,
        )

    def _load(self, checkpoint: Path, state: TrainingState) -> None:
        """Weights, optimizer, average, scaler and generators of a verified checkpoint."""
        load_weights(self.model, checkpoint)
        load_optimizers(self.train_step.optimizers, checkpoint)
        if self.train_step.average is not None:
            average = load_average(checkpoint) or dict(self.model.named_parameters())
            for name, tensor in self.train_step.average.named().items():
                tensor.copy_(average[name].detach())
        if state.scaler:
            self.train_step.scaler.load_state_dict(state.scaler)
        self._restore_rng(state)

    def _restore_rng(self, state: TrainingState) -> None:
        if len(state.rng) == self.dist.world_size:
            restore_rng(state.rng[self.dist.rank])
            return
        # Another number of ranks draws its dropout otherwise; what remains is that no two draw the same.
        torch.manual_seed(hash((self.config.seed, state.step, self.dist.rank)))

    def keep_initial_weights(self) -> None:
        """Remember the weights as they are, in the host's memory, until a checkpoint is certified: to rewind to."""
        weights = {name: local_tensor(p).cpu().clone() for name, p in self.model.named_parameters()}
        self.beginning = Beginning(weights, self.train_step.start())

    def certify(self, checkpoint: Path) -> None:
        """Let `healthy` name a checkpoint: it is kept until another one is certified."""
        if self.dist.is_main:
            set_pointer(self.run_folder, "healthy", checkpoint)
        self.beginning = None

    def rewind(self, checkpoint: Path | None, rate_factor: float, rewarmup_steps: int) -> None:
        """Go on from an earlier checkpoint, with the data that would have come next.

        Checkpoints after it are put aside, so that a resumed run does not find them.

        Args:
            checkpoint: a verified one of this run; None for the beginning, see `keep_initial_weights`.
            rate_factor: what the learning rate is multiplied with from now on.
            rewarmup_steps: over which it rises.
        """
        before, windows = self.state, self.train_step.batches.position
        self._pending = None
        state = TrainingState(
            train_tokens=before.train_tokens, tokenizer_fingerprint=before.tokenizer_fingerprint, model=before.model
        )
        if checkpoint is None:
            self._load_beginning()
        else:
            state = read_state(checkpoint)
            self._load(checkpoint, state)
        if self.dist.is_main:
            set_aside_checkpoints_after(self.run_folder, state.step)
        self.train_step.seek(windows)
        self.train_step.release()
        self.state = replace(
            state,
            windows=windows,
            seconds=before.seconds,
            quarantined=before.quarantined,
            rate_scale=before.rate_scale * rate_factor,
            rewarmup=(state.step, rewarmup_steps),
            memory=before.memory,
        )
        for observer in self.observers:
            observer.on_rollback(state.step)

    def train_on(self, steps: int) -> None:
        """So many steps without validating or saving; to see what happens in them."""
        self.model.train()
        for _ in range(steps):
            self._step()
        self._catch_up()

    def _load_beginning(self) -> None:
        assert self.beginning is not None, "keep_initial_weights was not called, or a checkpoint was certified since"
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                local_tensor(parameter).copy_(self.beginning.weights[name])
        self.train_step.begin_again()
        self.train_step.go_back(self.beginning.start)

    def quarantine(self, spans: Sequence[tuple[int, int]]) -> None:
        """Keep spans of training tokens out from the next batch on, besides those that are kept out already.

        Raises:
            DataError: nothing would be left.
        """
        self.train_step.batches.quarantine([*self.train_step.batches.quarantined, *spans])
        self.train_step.loader.restart()
        self.state.quarantined = self.train_step.batches.quarantined

    def adapt(self, memory: MemoryPlan) -> None:
        """Take less memory, or more, from the next step on; the batch and its gradient stay the same."""
        self.train_step.adapt(memory)
        self.state.memory = memory.to_json()

    def run(self) -> TrainingResult:
        """Train until `max_steps`, or until early stopping or the user ends it.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the run was saved and can be resumed.
            TrainingDivergedError: the loss is no longer finite; nothing of it was saved.
            CheckpointError: a checkpoint could not be written.
            MemoryExhaustedError: memory ran out, and no room could be made.
        """
        if self.dist.is_main:
            clean_staging(self.run_folder)
        self.guard.begin(self)
        try:
            with stop_requests(aloud=self.dist.is_main) as self._request, self.hardware.kernels(), _quiet_collector():
                return self._run()
        except (Interrupted, TrainingDivergedError):  # told already
            raise
        except torch.OutOfMemoryError as error:
            exhausted = self._exhausted(str(error))
            self._tell_failure(exhausted)
            raise exhausted from error
        except Exception as error:
            self._tell_failure(error)
            raise
        finally:
            self.train_step.close()
            for observer in self.observers:
                observer.close()

    def validate(self) -> ValidationLoss:
        """Loss on the fixed validation set, of the averaged weights where there are any; ranks share the work."""
        rows = max(1, min(self.train_step.micro_batch_size, EVALUATION_ROWS))
        limit = self.config.train.eval_tokens or None
        windows = validation_windows(self._validation, self._context, batch_size=rows, limit=limit)
        shared = self.dist.world_size > 1 and not self.train_step.loss.is_sharded
        if shared:
            windows = islice(windows, self.dist.rank, None, self.dist.world_size)
        with self.train_step.average.in_place() if self.train_step.average else nullcontext():
            found = validation_loss(
                self.model,
                windows,
                self._byte_lengths,
                device=self.hardware.device,
                autocast=self.hardware.autocast(),
                loss=self.train_step.loss.validate,
            )
        if not shared:
            return found
        parts = torch.tensor([found.nats, found.tokens, found.n_bytes], dtype=torch.float64)
        nats, tokens, n_bytes = self.dist.all_reduce_sum(parts.to(self.hardware.device)).tolist()
        return ValidationLoss(nats, int(tokens), int(n_bytes))

    def _run(self) -> TrainingResult:
        train, checkpoint = self.config.train, self.config.checkpoint
        self.model.train()
        validation: ValidationLoss | None = None
        stopped_early = self._has_stopped_early()
        while self.state.step < train.max_steps and not stopped_early:
            before = self.state.step
            self._step()
            if self.state.step > before:
                self.guard.after_step(self)
            step = self.state.step
            if step != before + 1:
                continue  # a refused step came to light, or the guard has rewound
            is_last = step == train.max_steps
            is_best = False
            if _is_due(step, COLLECT_EVERY_STEPS):
                gc.collect()
            if is_last or _is_due(step, train.eval_every_steps) or _is_due(step, checkpoint.every_steps):
                self._catch_up()
                if self.state.step != step:
                    continue
            if is_last or _is_due(step, train.eval_every_steps):
                validation = self.validate()
                is_best = self._record(validation)
                stopped_early = self._has_stopped_early()
            wants_best = is_best and checkpoint.keep_best
            asked = None if is_last else self._stop_signal()
            due = is_last or stopped_early or wants_best or _is_due(step, checkpoint.every_steps)
            if due or asked is not None:
                self._save(is_best=wants_best)
            if asked is not None:
                self._stop(asked)
        if stopped_early:
            self.tell("early stop", {"evaluations_since_best": self.state.evaluations_since_best})
        best = self.state.best_loss
        if validation is None:
            # Resumed after the last step: everything is saved, only the closing words are missing.
            validation = self.validate()
        return TrainingResult(
            self.state.step, validation, validation.loss if best is None else best, self.state.seconds, stopped_early
        )

    def _step(self) -> None:
        """One optimizer step over `batch_tokens`, accumulated from micro-batches.

        Where the step before turns out to have been refused, this one is undone, and `state.step` stays.
        """
        start = time.perf_counter()
        learning_rate = self.learning_rate(self.state.step)
        asked = self._request.signal_number is not None
        figures = PendingFigures(self.train_step.step(self.state.step + 1, learning_rate, asked_to_stop=asked))
        began, waited = self.train_step.began, self.train_step.data_seconds
        # Reading the step before only now keeps a GPU busy with this one.
        if not self._flush(began):
            return
        duration = time.perf_counter() - start
        self._durations.append(duration)
        self.state.step += 1
        self.state.windows = self.train_step.batches.position
        self.state.seconds += duration
        self._pending = _PendingStep(self.state.step, figures, learning_rate, began, waited)

    def _stop_signal(self) -> int | None:
        """The signal to stop by; several ranks stop at the same step, one after any of them was asked."""
        if self.dist.world_size == 1:
            return self._request.signal_number
        return (self._request.signal_number or signal.SIGTERM) if self._others_stop else None

    def learning_rate(self, step: int) -> float:
        """Of the step after `step` steps."""
        train, state = self.config.train, self.state
        scheduled = train.learning_rate * learning_rate_ratio(self.config.schedule, step, train.max_steps)
        first, steps = state.rewarmup
        rising = min(1.0, (step - first + 1) / (steps + 1))
        return scheduled * state.rate_scale * rising

    def _catch_up(self) -> None:
        """Wait for the last step, on the clock of training, and pass its figures on."""
        if self._pending is not None:
            start = time.perf_counter()
            self._pending.figures.read()
            self.state.seconds += time.perf_counter() - start
        self._flush()

    def _flush(self, behind: StepSnapshot | None = None) -> bool:
        """Read the figures of the step before and pass them on.

        Args:
            behind: where a step began that was queued since; it is undone if the step before was refused.

        Returns:
            Whether the step before was applied; if not, the guard has dealt with it.

        Raises:
            TrainingDivergedError: it was not, and the guard stops.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return True
        figures = pending.figures.read()
        loss, grad_norm = figures.loss, figures.grad_norm
        self._others_stop = figures.stop_requests > 0
        # With a scaler, an overflowing gradient is its everyday business: it skips that step by itself.
        if figures.refused and not (self.train_step.scaler.is_enabled() and math.isfinite(loss)):
            if behind is not None:
                self.train_step.go_back(behind)
            self.train_step.release()
            refused = RefusedStep(
                pending.step, loss, grad_norm, figures.bad_micro_steps, pending.learning_rate, pending.start
            )
            self.guard.on_refused(self, refused)
            return False
        speed = self._tokens_per_second()
        peak = self.hardware.peak_flops
        metrics = StepMetrics(
            step=pending.step,
            loss=loss,
            learning_rate=pending.learning_rate,
            grad_norm=grad_norm,
            tokens=pending.step * self.config.train.batch_tokens,
            seconds=self.state.seconds,
            tokens_per_second=speed,
            mfu=speed * self._flops_per_token / peak / self.dist.world_size if peak else None,
            data_seconds=pending.data_seconds,
            skipped=figures.refused,
        )
        for observer in self.observers:
            observer.on_step(metrics)
        return True

    def _tokens_per_second(self) -> float:
        return len(self._durations) * self.config.train.batch_tokens / sum(self._durations)

    def _record(self, validation: ValidationLoss) -> bool:
        if not math.isfinite(validation.loss):
            self.diverge(self.state.step, validation.loss, math.nan)
        best = self.state.best_loss
        is_best = best is None or validation.loss < best
        self.state.best_loss = validation.loss if is_best else best
        self.state.evaluations_since_best = 0 if is_best else self.state.evaluations_since_best + 1
        for observer in self.observers:
            observer.on_validation(self.state.step, validation, is_best)
        return is_best

    def _save(self, *, is_best: bool = False) -> None:
        self._catch_up()  # what has diverged must not be saved
        self.state.rng = self.dist.all_gather_objects(capture_rng())
        self.state.scaler = self.train_step.scaler.state_dict()
        self.state.guard = self.guard.state()
        average = self.train_step.average.named() if self.train_step.average else None
        path = save_checkpoint(
            self.run_folder, self.model, self.train_step.optimizers, self.state, average=average, dist=self.dist
        )
        if self.dist.is_main:
            if is_best:
                set_pointer(self.run_folder, "best", path)
            prune(self.run_folder, self.config.checkpoint.keep_last, self.state.step)
        self.dist.barrier()
        for observer in self.observers:
            observer.on_checkpoint(self.state.step, path)
        self.guard.on_saved(self, path)

    def _has_stopped_early(self) -> bool:
        return 0 < self.config.train.early_stop_evaluations <= self.state.evaluations_since_best

    def _stop(self, signal_number: int) -> None:
        self.tell("interrupted", {"signal": signal_number})
        raise Interrupted(
            f"stopped and saved after step {self.state.step:,}; go on with: "
            f"glassgpt train --resume --out {self.run_folder.path}",
            signal_number,
        )

    def diverge(self, step: int, loss: float, grad_norm: float, way_out: str = "") -> NoReturn:
        """Stop because a step's figures are not finite.

        Args:
            step: the step.
            loss: mean nats per token.
            grad_norm: global norm before clipping.
            way_out: what to do, where more is known than that a lower rate often helps.

        Raises:
            TrainingDivergedError: always.
        """
        lower = f"--train.learning-rate {self.config.train.learning_rate / 2:g}"
        go_on = (
            f"Go on from the last checkpoint with a lower rate: glassgpt train --resume --out {self.run_folder.path}"
        )
        self.tell("diverged", {"at": step, "loss": str(loss), "grad_norm": str(grad_norm)})
        raise TrainingDivergedError(
            f"step {step:,}: the loss is {loss:g} and the gradient norm {grad_norm:g}; nothing of it was saved. "
            + (way_out or f"{go_on} {lower}")
        )

    def _exhausted(self, shortage: str) -> MemoryExhaustedError:
        """What to say where memory ran out for good, or where the other ranks wait and cannot be asked."""
        memory, step = self.train_step.memory, self.state.step + 1
        alone = self.dist.world_size > 1 and not self.train_step.is_careful
        who = f"process {self.dist.rank} of {self.dist.world_size} " if alone else ""
        why = "; the others wait in the middle of the step, so that it cannot be done again" if alone else ""
        smaller = [n for n in divisors(self.train_step.batch_size) if n <= memory.micro_batch_size // 2]
        less = f"--train.micro-batch-size {smaller[-1]}" if smaller else "--train.recompute-activations true"
        way_out = f"Go on with less: glassgpt train --resume --out {self.run_folder.path} {less}"
        if not smaller and memory.recompute_activations:
            way_out = "Nothing is left to be traded: take a smaller model, a shorter context, or more processes"
        return MemoryExhaustedError(
            f"step {step:,}: {who}ran out of memory with a micro-batch of {memory.micro_batch_size} ({shortage}){why}. "
            f"{way_out}",
            alone=alone,
        )

    def _tell_failure(self, error: Exception) -> None:
        """Write down what ended the run, for whoever looks at its files later."""
        details: dict[str, object] = {"error": type(error).__name__, "message": str(error)}
        details["disk_full"] = is_disk_full(error)
        if isinstance(error, MemoryExhaustedError):
            details["micro_rows"] = self.train_step.micro_batch_size
        with suppress(GlassGPTError):  # on a full disk not even this; the error itself is on its way to the user
            self.tell("failed", details)
            if not self.dist.is_main:  # whose files are not written
                append_event(self.run_folder, self.state.step, "failed", details)

    def tell(self, event: str, details: Mapping[str, object]) -> None:
        """Let all observers know that something happened."""
        for observer in self.observers:
            observer.on_event(self.state.step, event, details)


@contextmanager
def _quiet_collector() -> Generator[None]:
    """No garbage collection at moments of its own choosing, when it would stop the host inside a step.

    What there is by now is set aside, so that the collections between steps are quick.
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def announce(trainer: Trainer) -> None:
    """Say what is about to be trained, on what, and how."""
    model, train = trainer.model, trainer.config.train
    parameters = sum(p.numel() for p in model.parameters())
    kernel = trainer.hardware.attention_kernel(model.config)
    processes = f", {trainer.dist.world_size} processes" if trainer.dist.world_size > 1 else ""
    console.info(
        f"{model.config.arch} with {console.format_count(parameters, 'parameters')} on {trainer.hardware.describe()}, "
        f"attention by {kernel}{processes}; "
        f"{console.format_count(trainer.state.train_tokens, 'tokens')} of text, "
        f"{train.max_steps:,} steps of {train.batch_tokens:,} tokens"
    )
