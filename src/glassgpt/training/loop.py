"""The training loop. Start reading at `Trainer._train`; everything else is what it calls.

A step is a pure function of weights, optimizer, data position and random generators, and a checkpoint holds all of
them; so a run that was killed and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from glassgpt.errors import GlassGPTError, Interrupted, MemoryExhaustedError, TrainingDivergedError
from glassgpt.model.attention import attend_readable
from glassgpt.training import failures
from glassgpt.training.attention_modules import set_attention
from glassgpt.training.checkpoint import clean_staging
from glassgpt.training.garbage import manual_garbage_collection
from glassgpt.training.interrupt import stop_requests
from glassgpt.training.loss import ValidationLoss
from glassgpt.training.outcomes import Applied, Continue, Decision, Outcome, OutOfMemory, Retry, Rollback, Skipped, Stop
from glassgpt.training.training_run import TrainingRun


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run.

    Attributes:
        step: steps done.
        validation: the last validation.
        best_loss: lowest validation loss, nats per token.
        seconds: time spent training.
        stopped_early: whether early stopping ended it.
    """

    step: int
    validation: ValidationLoss
    best_loss: float
    seconds: float
    stopped_early: bool


class Trainer(TrainingRun):
    """Trains a model on a dataset and writes a run folder; see `TrainingRun` for the arguments."""

    _after_step: Callable[[], None] = staticmethod(lambda: None)

    def run(self) -> TrainingResult:
        """Train until `max_steps`, or until early stopping or the user ends it.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the run was saved and can be resumed.
            TrainingDivergedError: the loss is not finite; nothing of it was saved.
            CheckpointError: a checkpoint could not be written.
            MemoryExhaustedError: memory ran out, and there was no plan that takes less.
        """
        with failures.closing_all(self.run_folder, self, self.observers):
            return self._run()

    def _run(self) -> TrainingResult:
        if self.dist.is_main:
            clean_staging(self.run_folder)
        self._act(self.policy.on_start(), None)
        try:
            with (
                stop_requests(self._on_stop_request) as self.stop_request,
                self.hardware.kernels(),
                manual_garbage_collection() as self._after_step,
            ):
                return self._train()
        except (Interrupted, TrainingDivergedError):  # reported already
            raise
        except torch.OutOfMemoryError as error:  # not in forward or backward pass: in the optimizer or a validation
            exhausted = self._out_of_memory(
                OutOfMemory(self.state.step + 1, str(error), self.train_step.memory_guard.can_retry)
            )
            self.report_failure(exhausted)
            raise exhausted from error
        except Exception as error:
            self.report_failure(error)
            raise

    def run_steps(self, count: int) -> None:
        """Run steps without validating or saving."""
        self.model.train()
        for _ in range(count):
            self._take_step()
        self._finish_step()

    def _train(self) -> TrainingResult:
        """Step, validate and save until the end."""
        train, checkpoint = self.config.train, self.config.checkpoint
        validation: ValidationLoss | None = None
        self.model.train()
        while self.state.step < train.max_steps and not self._should_stop_early():
            if not self._take_step():
                continue  # skipped, out of memory or rolled back: run it again
            step, keeps_best = self.state.step, False
            is_last = step == train.max_steps
            validates = is_last or _is_due(step, train.eval_every_steps)
            saves = is_last or _is_due(step, checkpoint.every_steps)
            stop_signal = None if is_last else self._stop_signal()
            if (validates or saves or stop_signal) and not self._finish_step():
                continue  # rolled back: the step was bad, which only became known now
            if validates:
                validation = self.validate()
                keeps_best = self._record_validation(validation) and checkpoint.keep_best
            if saves or keeps_best or stop_signal or self._should_stop_early():
                self.save(is_best=keeps_best)
            if stop_signal:
                # So that the best checkpoint is current; but it would change when early stopping ends the resumed run.
                updates_best = checkpoint.keep_best and not validates and not train.early_stop_evaluations
                if updates_best and self._record_validation(self.validate()):
                    self.save(is_best=True)
                self.finish_save()
                self._interrupt(stop_signal)
        self.finish_save()
        # A run that is resumed after its last step has nothing left to do but to validate.
        return self._result(validation or self.validate())

    def _take_step(self) -> bool:
        """Run one optimizer step; return False if it does not count and must be repeated."""
        self.check_save()
        start = time.perf_counter()
        step = self.state.step + 1
        stop_requested = self.stop_request.signal_number is not None
        outcome = self.train_step.run(step, self.learning_rate(step - 1), stop_requested=stop_requested)
        if isinstance(outcome, Skipped | OutOfMemory):
            self._handle(outcome)
            return False
        if outcome is not None:
            self._report(outcome)
        duration = time.perf_counter() - start
        self.throughput.add(duration)
        self.state.step = step
        self.state.windows = self.train_step.batches.position
        self.state.seconds += duration
        self._after_step()
        return self._act(self.policy.decide(outcome), outcome)

    def _finish_step(self) -> bool:
        """Wait for the outcome of the last step; return False if the run was rolled back."""
        start = time.perf_counter()
        outcome = self.train_step.finish()
        self.state.seconds += time.perf_counter() - start
        if isinstance(outcome, Skipped):
            return self._handle(outcome)
        if outcome is not None:
            self._report(outcome)
        return True

    def _handle(self, outcome: Skipped | OutOfMemory) -> bool:
        """Ask the policy about a step that was not applied, and carry out its decision; return False if rolled back."""
        if isinstance(outcome, Skipped):
            self.any_rank_stops = outcome.stop_requested
        elif not outcome.can_retry:
            return self._act(Stop(), outcome)
        return self._act(self.policy.decide(outcome), outcome)

    def _act(self, decision: Decision, outcome: Outcome | None) -> bool:
        """Carry out a decision of the policy; return False if the run was rolled back."""
        match decision:
            case Continue():
                if decision.quarantine:
                    self.quarantine(decision.quarantine)
                if decision.memory_plan is not None:
                    self.set_memory_plan(decision.memory_plan)
                if decision.use_reference_attention:
                    set_attention(self.model, attend_readable)
            case Retry():
                self.set_memory_plan(decision.memory_plan)
                if self.hardware.device.type == "cuda":
                    torch.cuda.empty_cache()
            case Rollback():
                self.roll_back(decision)
            case Stop():
                raise self._failure(outcome, decision.advice, decision.reason)
        return not isinstance(decision, Rollback)

    def _report(self, applied: Applied) -> None:
        """Pass the metrics of a step to the observers."""
        self.any_rank_stops = applied.stop_requested
        tokens = self.state.windows * self.window_tokens
        metrics = self.throughput.metrics(applied, self.state.seconds, tokens)
        for observer in self.observers:
            observer.on_step(metrics)

    def _record_validation(self, validation: ValidationLoss) -> bool:
        """Notify the observers of a validation; return whether it is the best so far.

        Raises:
            TrainingDivergedError: its loss is not finite.
        """
        state = self.state
        if not math.isfinite(validation.loss):
            raise self._diverged(state.step, validation.loss, math.nan, f"the validation loss is {validation.loss:g}")
        is_best = state.best_loss is None or validation.loss < state.best_loss
        state.best_loss = validation.loss if is_best else state.best_loss
        state.evaluations_since_best = 0 if is_best else state.evaluations_since_best + 1
        for observer in self.observers:
            observer.on_validation(state.step, validation, is_best)
        return is_best

    def _should_stop_early(self) -> bool:
        return 0 < self.config.train.early_stop_evaluations <= self.state.evaluations_since_best

    def _result(self, validation: ValidationLoss) -> TrainingResult:
        state, stopped_early = self.state, self._should_stop_early()
        if stopped_early:
            self.emit("early stop", {"evaluations_since_best": state.evaluations_since_best})
        best = validation.loss if state.best_loss is None else state.best_loss
        return TrainingResult(state.step, validation, best, state.seconds, stopped_early)

    # Stopping

    def _on_stop_request(self) -> None:
        for observer in self.observers:
            observer.on_stop_request()

    def _stop_signal(self) -> int | None:
        """Return the signal that requests a stop; all ranks stop at the same step, one after any of them received it."""
        if self.dist.world_size == 1:
            return self.stop_request.signal_number
        return (self.stop_request.signal_number or signal.SIGTERM) if self.any_rank_stops else None

    def _interrupt(self, signal_number: int) -> None:
        self.emit("interrupted", {"signal": signal_number})
        raise Interrupted(
            f"stopped and saved after step {self.state.step:,}; resume with: "
            f"glassgpt train --resume --out {shlex.quote(str(self.run_folder.path))}",
            signal_number,
        )

    def _failure(self, outcome: Outcome | None, advice: str, reason: str) -> GlassGPTError:
        """Return the error for an outcome that ends the run; a diverged one is reported here."""
        if reason:
            return TrainingDivergedError(f"step {self.state.step:,}: {reason}. {advice}")
        if isinstance(outcome, OutOfMemory):
            return self._out_of_memory(outcome)
        if isinstance(outcome, Skipped):
            what = f"the loss is {outcome.loss:g} and the gradient norm {outcome.grad_norm:g}"
            return self._diverged(outcome.step, outcome.loss, outcome.grad_norm, what, advice)
        what = "the loss rose far above its lowest value and did not come back"
        return self._diverged(self.state.step, math.nan, math.nan, what, advice)

    def _diverged(self, step: int, loss: float, grad_norm: float, what: str, advice: str = "") -> TrainingDivergedError:
        # JSON has no NaN, so the numbers are written as strings.
        self.emit("diverged", {"at": step, "loss": str(loss), "grad_norm": str(grad_norm)})
        return failures.diverged(step, what, self.config.train, self.run_folder, advice)

    def _out_of_memory(self, outcome: OutOfMemory) -> MemoryExhaustedError:
        step = self.train_step
        return failures.out_of_memory(outcome, step.memory_plan, step.batch_size, self.run_folder, self.dist)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
