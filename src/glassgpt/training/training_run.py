"""The state of a run between two steps: validate, save, resume, roll back and change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from glassgpt.data.files import is_disk_full
from glassgpt.data.shards import TokenDataset
from glassgpt.errors import CheckpointError, GlassGPTError, MemoryExhaustedError
from glassgpt.model.accounting import flops_per_token
from glassgpt.model.lora import trainable_parameters
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint import (
    CheckpointContent,
    TrainingState,
    checkpoint_name,
    gather_checkpoint,
    load_average,
    load_optimizers,
    load_weights,
    prune,
    read_state,
    set_aside_checkpoints_after,
    set_pointer,
    write_checkpoint,
)
from glassgpt.training.checkpoint.saver import BackgroundSaver, DirectSaver, Saver
from glassgpt.training.config import TrainerConfig
from glassgpt.training.custom_schedule import configured_ratio
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import resolve_hardware
from glassgpt.training.interrupt import StopRequest
from glassgpt.training.loss import ValidationLoss
from glassgpt.training.memory_plan import MemoryPlan
from glassgpt.training.observers import Observer, append_event
from glassgpt.training.outcomes import Policy, Rollback
from glassgpt.training.rng import capture_rng, restore_rng
from glassgpt.training.run_folder import RunFolder
from glassgpt.training.snapshot import InitialState, groups_with_step_counter
from glassgpt.training.step import TrainStep
from glassgpt.training.throughput import Throughput
from glassgpt.training.validation import build_validator


class TrainingRun:
    """A model, its data and its run folder, with everything that a checkpoint holds.

    Args:
        model: on the CPU, freshly initialized or loaded; it is moved to the device and changed in place.
        dataset: training and validation tokens.
        config: the configuration.
        run: where checkpoints are written.
        observers: notified of what happens, in this order.
        dist: the processes that train together.
        policy: decides what to do about steps that fail; by default the run stops.

    Attributes:
        train_step: runs the steps; holds model, optimizers and data position.
        state: what a checkpoint holds besides weights and optimizer.
        hardware: resolved device and precision.
        window_tokens: tokens of a training window, on average.
        throughput: speed over the last steps.
        stop_request: what the user of this process asked for.
        any_rank_stops: whether the user of any process had asked to stop, when that was last exchanged.
    """

    def __init__(
        self,
        model: LanguageModel,
        dataset: TokenDataset,
        config: TrainerConfig,
        run: RunFolder,
        observers: Sequence[Observer] = (),
        dist: DistributedContext | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.dataset, self.config, self.run_folder = dataset, config, run
        self.observers, self.policy = list(observers), policy or Policy()
        self.dist = dist or DistributedContext()
        self.hardware = resolve_hardware(config.train)
        tokens = dataset.split("train")
        self.train_step = TrainStep(model, tokens, config, self.hardware, self.dist)
        self.model = self.train_step.model
        self.state = TrainingState(train_tokens=len(tokens), tokenizer_fingerprint=dataset.tokenizer_fingerprint)
        self._saver = self._build_saver()
        self._is_saving = False
        self._unreported: tuple[int, Path] | None = None
        self._not_deleted: OSError | None = None
        self._validator = build_validator(dataset.split("validation"), self.train_step, dataset, config.train)
        self.window_tokens = self.train_step.batches.tokens_per_window
        peak = self.hardware.peak_flops
        self.throughput = Throughput(
            self.window_tokens * self.train_step.batch_size * self.dist.world_size,
            flops_per_token(model.config),
            peak * self.dist.world_size if peak else None,
        )
        self.stop_request = StopRequest()
        self.any_rank_stops = False

    def _build_saver(self) -> Saver:
        """Return what writes checkpoints, as `checkpoint.background` says."""
        step, setting = self.train_step, self.config.checkpoint.background
        if setting == "off" or (setting == "auto" and self.hardware.device.type != "cuda"):
            return DirectSaver()
        saver = BackgroundSaver(
            step.model, step.optimizers, step.average, self.hardware,
            is_sharded=step.loss.is_sharded, is_writer=self.dist.is_main,
        )  # fmt: skip
        step.probes.append(saver)
        return saver

    def validate(self) -> ValidationLoss:
        """Return the loss on the validation set, of the averaged weights if there are any."""
        self._saver.protect_copy()  # the average takes the place of the weights
        return self._validator.run()

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of the step after `step` steps."""
        train, state = self.config.train, self.state
        scheduled = train.learning_rate * configured_ratio(self.config.schedule, step, train.max_steps)
        # After a rollback the peak is lower, and the rate rises to it once more.
        since, rewarmup_steps = state.rewarmup
        rising = min(1.0, (step - since + 1) / (rewarmup_steps + 1))
        return scheduled * state.rate_scale * rising

    def emit(self, event: str, details: Mapping[str, object]) -> None:
        """Notify all observers of an event."""
        for observer in self.observers:
            observer.on_event(self.state.step, event, details)

    def save(self, *, is_best: bool = False) -> Path:
        """Copy the state and have it written as a checkpoint, and old ones deleted. Must be called on all ranks.

        With `checkpoint.background` it is complete when `finish_save` has returned, else when this returns.

        Args:
            is_best: point `best` at it.

        Raises:
            CheckpointError: the file system refused, this checkpoint or the one before.
        """
        self.finish_save()  # at most one is being written
        self.state.rng = self.dist.all_gather_objects(capture_rng())
        self.state.scaler = self.train_step.scaler.state_dict()
        self.state.policy = self.policy.state_dict()
        average = self.train_step.average.named() if self.train_step.average else None
        with self._saver.copying() as to_host:
            content = gather_checkpoint(
                self.model, self.train_step.optimizers, self.state, average=average, dist=self.dist, to_host=to_host
            )
        path = self.run_folder.checkpoints / checkpoint_name(self.state.step)
        if content is not None:
            self._saver.start(partial(self._write, content, is_best=is_best))
        self._is_saving, self._unreported = True, (self.state.step, path)
        self.policy.on_checkpoint(path)
        if isinstance(self._saver, DirectSaver):
            self.finish_save()
        return path

    def _write(self, content: CheckpointContent, *, is_best: bool) -> None:
        """Write a checkpoint, then delete old ones; in the thread of a `BackgroundSaver`."""
        path = write_checkpoint(self.run_folder, content)
        if is_best:
            set_pointer(self.run_folder, "best", path)
        try:
            prune(self.run_folder, self.config.checkpoint.keep_last, content.step)
        except OSError as error:  # the new checkpoint is sound; the old ones only take space
            self._not_deleted = error

    @property
    def saving(self) -> Path | None:
        """The checkpoint that is not known to be complete yet; on ranks other than 0 until `finish_save`."""
        return self._unreported[1] if self._unreported else None

    def check_save(self) -> None:
        """Notify the observers of a checkpoint that was completed in the background.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._saver.is_done():
            self._settle_save()

    def finish_save(self) -> None:
        """Wait until the checkpoint that is being written is complete. Must be called on all ranks.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._is_saving:
            self._settle_save()
            self._is_saving = False
            self.dist.barrier()

    def _settle_save(self) -> None:
        """Wait for the checkpoint, and notify the observers if it was not done yet."""
        saved, self._unreported = self._unreported, None
        self._saver.wait()
        if saved is None:
            return
        self.policy.on_saved()
        if (error := self._not_deleted) is not None:
            self._not_deleted = None
            self.emit("not deleted", {"path": str(error.filename), "error": str(error.strerror)})
        if self._saver.problem:
            self.emit("not pinned", {"error": self._saver.problem})
            self._saver.problem = ""
        for observer in self.observers:
            observer.on_checkpoint(*saved)

    def close(self) -> None:
        """Wait for the checkpoint that is being written when an error ends the run, report its own, and stop all threads."""
        try:
            self._settle_save()
        except GlassGPTError as error:
            self.emit("checkpoint not saved", {"error": str(error)})
        finally:
            self._saver.close()
            self.train_step.close()

    def report_failure(self, error: Exception) -> None:
        """Record in the run's files what ended it."""
        details: dict[str, object] = {"error": type(error).__name__, "message": str(error)}
        details["disk_full"] = is_disk_full(error)
        if isinstance(error, MemoryExhaustedError):
            details["micro_rows"] = self.train_step.micro_batch_size
        with suppress(GlassGPTError):  # not even this can be written to a full disk; the error itself goes to the user
            self.emit("failed", details)
            if not self.dist.is_main:  # its observers write no files
                append_event(self.run_folder, self.state.step, "failed", details)

    def resume(self, checkpoint: Path) -> None:
        """Continue from a verified checkpoint as if the run had never stopped.

        Raises:
            CheckpointError: it belongs to another model, other data, or another tokenizer.
        """
        state = read_state(checkpoint)
        if state.tokenizer_fingerprint != self.state.tokenizer_fingerprint:
            raise CheckpointError(f"{checkpoint} was trained with another tokenizer than the dataset's")
        if state.train_tokens != self.state.train_tokens:
            raise CheckpointError(
                f"{checkpoint} was trained on {state.train_tokens:,} tokens, but the dataset now has "
                f"{self.state.train_tokens:,}: it was exchanged, so the run cannot be resumed exactly; start a new run "
                f"from these weights with --init-from {self.run_folder.path}"
            )
        self._load(checkpoint, state)
        self.train_step.batches.quarantine(state.quarantined)
        self.train_step.seek(state.windows)
        if state.memory:
            plan = MemoryPlan.from_json(state.memory)
            self.train_step.set_memory_plan(plan.resumed(self.config.train, self.train_step.batch_size))
        self.policy.load_state_dict(state.policy)
        self.state = state

    def roll_back(self, rollback: Rollback) -> None:
        """Return to an earlier state and continue with the data that would have come next.

        Later checkpoints are set aside, so that a resumed run does not find them.
        """
        self.finish_save()
        before, windows = self.state, self.train_step.batches.position
        if isinstance(rollback.target, InitialState):
            state = TrainingState(train_tokens=before.train_tokens, tokenizer_fingerprint=before.tokenizer_fingerprint)
            self._load_initial(rollback.target)
        else:
            state = read_state(rollback.target)
            self._load(rollback.target, state)
        if self.dist.is_main:
            set_aside_checkpoints_after(self.run_folder, state.step)
        self.train_step.discard_queued()
        self.train_step.seek(windows)
        self.state = replace(
            state,
            windows=windows,
            seconds=before.seconds,
            quarantined=before.quarantined,
            rate_scale=before.rate_scale * rollback.learning_rate_factor,
            rewarmup=(state.step, rollback.rewarmup_steps),
            memory=before.memory,
        )
        for observer in self.observers:
            observer.on_rollback(state.step)
        details = {"from": before.step, "to": state.step, "rate_scale": self.state.rate_scale}
        self.emit("rewind", {**details, "because": rollback.reason, "rewinds_left": rollback.rollbacks_left})

    def quarantine(self, spans: Sequence[tuple[int, int]]) -> None:
        """Exclude further spans of training tokens, (first, end), from the next batch on.

        Raises:
            DataError: nothing would be left.
        """
        batches = self.train_step.batches
        batches.quarantine([*batches.quarantined, *spans])
        self.train_step.loader.reset()
        self.state.quarantined = batches.quarantined

    def set_memory_plan(self, plan: MemoryPlan) -> None:
        """Set the memory plan from the next step on; the batch and its gradient stay the same."""
        self.train_step.set_memory_plan(plan)
        self.state.memory = plan.to_json()

    def _load(self, checkpoint: Path, state: TrainingState) -> None:
        """Load weights, optimizers, average, scaler and generators from a verified checkpoint."""
        load_weights(self.model, checkpoint)
        load_optimizers(self.train_step.optimizers, checkpoint)
        if self.train_step.average is not None:
            average = load_average(checkpoint) or dict(trainable_parameters(self.model))
            for name, tensor in self.train_step.average.named().items():
                tensor.copy_(average[name].detach())
        if state.scaler:
            self.train_step.scaler.load_state_dict(state.scaler)
        if len(state.rng) == self.dist.world_size:
            restore_rng(state.rng[self.dist.rank])
        else:
            # Another number of ranks cannot draw the same dropout; but no two ranks may draw the same.
            torch.manual_seed(hash((self.config.seed, state.step, self.dist.rank)))

    def _load_initial(self, initial: InitialState) -> None:
        """Return to the initial weights, with fresh optimizers."""
        initial.load_weights(self.model)
        for optimizer in self.train_step.optimizers:
            optimizer.state.clear()
        for group in groups_with_step_counter(self.train_step.optimizers):
            group["steps"] = 0
        self.train_step.scaler = self.hardware.scaler()
        if self.train_step.average is not None:
            for name, parameter in trainable_parameters(self.model).items():
                self.train_step.average.named()[name].copy_(parameter.detach())
        self.train_step.restore(initial.snapshot)
