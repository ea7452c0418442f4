"""Find the cause of a non-finite step: run it again with hooks, then with one change at a time.

Lowering the learning rate after a NaN is often the wrong remedy: as often the cause is one row of the data, the
precision, a kernel, or weights that were damaged. So the step is replayed from where it began, with hooks on every
module, forward and backward, that find the first result that is not finite; its micro-batch is bisected to the row;
and it is run again with other weights, precision, attention or learning rate. What makes the fault go away is the
cause; what does not is ruled out.

`replay` works within a run, because a skipped step has changed nothing; `replay_saved_run` on the files of a run that
has ended, because its steps give the same bits when they are run again from a checkpoint.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from glassgpt.diagnosis.findings import Value
from glassgpt.diagnosis.replay_result import Cause, NonFiniteModule, NonFiniteRow, Reason, ReplayResult
from glassgpt.diagnosis.variants import Batch, Variant
from glassgpt.errors import GlassGPTError, TrainingDivergedError
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.attention_modules import reference_attention
from glassgpt.training.checkpoint import TrainingState, load_optimizers, load_weights, read_state
from glassgpt.training.loop import Trainer
from glassgpt.training.outcomes import Decision, Outcome, Policy, Skipped
from glassgpt.training.rng import capture_torch_rng, preserved_rng, restore_rng, restore_torch_rng
from glassgpt.training.snapshot import InitialState
from glassgpt.training.step import TrainStep

T = TypeVar("T")

MAX_REPLAYED_STEPS = 100
"""Steps from the last good weights to the fault that are run again, to tell a learning rate that is too high from
damaged weights."""
STEPS_AHEAD = (1, 3, 7)
"""Later steps whose rows are tried, to see whether other rows fail too."""
LOWER_RATE_FACTOR, SAFE_RATE = 0.1, 1e-5
"""A factor on the learning rate, and a learning rate with which no model of this kind fails."""
MAX_TEXT_CHARACTERS = 200
SAME_WEIGHTS_TOLERANCE = 1e-3
"""Relative distance up to which weights that were trained again count as equal."""


def replay(trainer: Trainer, skipped: Skipped, last_good: Path | InitialState | None = None) -> ReplayResult:
    """Find the cause of a skipped step in a live run, without changing the run.

    Args:
        trainer: a run whose weights and optimizer are as the step found them; its model must not be sharded.
        skipped: the step.
        last_good: a checkpoint, or the initial state, whose weights are known to be good.
    """
    return _unchanged(trainer, lambda: _Case(trainer, skipped, last_good).find_cause())


def explain_divergence(trainer: Trainer, last_good: Path | InitialState | None = None) -> ReplayResult | None:
    """Find out whether training produced the current weights, or something else changed them.

    The steps since the last good weights are run again on a copy: only what training causes happens again.

    Args:
        trainer: a run whose loss is finite but has diverged.
        last_good: a checkpoint, or the initial state, whose weights are known to be good.

    Returns:
        A result of cause `weights` or `learning rate`; None if the last good weights are too many steps away, or the
        run has several ranks.
    """
    step = trainer.state.step
    rate, snapshot = trainer.learning_rate(step), trainer.train_step.snapshot()
    here = Skipped(step + 1, math.nan, math.nan, rate, False, 0, snapshot)
    return _unchanged(trainer, lambda: _Case(trainer, here, last_good).compare_with_training_again())


def _unchanged(trainer: Trainer, work: Callable[[], T]) -> T:
    """Run a replay and restore the position in the data; nothing else is changed by a replay."""
    trainer.train_step.loader.reset()
    position = trainer.train_step.batches.position
    try:
        return work()
    finally:
        trainer.train_step.batches.seek(position)


class _Case:
    """A skipped step and the experiments to find its cause."""

    def __init__(self, trainer: Trainer, skipped: Skipped, last_good: Path | InitialState | None) -> None:
        self._trainer, self._skipped, self._last_good = trainer, skipped, last_good
        self._train_step, self._hardware = trainer.train_step, trainer.hardware
        self._ruled_out: list[Reason] = []
        self._module: NonFiniteModule | None = None

    def find_cause(self) -> ReplayResult:
        """Run the experiments one after the other, the most conclusive first."""
        bad = [name for name, p in self._train_step.model.named_parameters() if not p.isfinite().all()]
        if bad:
            return self._result("weights", 0.95, "weights-not-finite", {"parameter": bad[0]}, parameters=bad)
        found = self._find_micro_batch()
        if found is None:
            return self._result("not reproduced", 0.6, "finite-when-done-again")
        number, batch, variant = found
        self._module = variant.find_non_finite_module(batch)
        others_fail = not any(variant.is_finite(other) for other in self._other_batches())
        if not others_fail:
            self._rule_out("weights", "other-rows-are-finite")
        return (
            # Weights before the kernel: where weights have diverged, a fused kernel is the first to fail.
            (self._try_good_weights(batch, variant) if others_fail else None)
            or self._try_reference_attention(batch, variant)
            or self._try_better_precision(batch, variant)
            or (None if others_fail else self._try_rows(number, batch, variant))
            or self._blame_model(others_fail)
        )

    def compare_with_training_again(self) -> ReplayResult | None:
        """Train again from the last good weights and compare the result; None if that is not possible."""
        if self._train_step.loss.is_sharded or self._last_good is None:
            return None
        again = self._train_again(1.0)
        if again is None:
            return None
        changed = self._compare_weights(again)
        return changed or self._result("learning rate", 0.8, "same-weights-when-done-again")

    def _find_micro_batch(self) -> tuple[int, Batch, Variant] | None:
        """Return the first non-finite micro-batch, with the random generator states before it."""
        step, snapshot, device = self._train_step, self._skipped.snapshot, self._hardware.device
        with preserved_rng(device):
            restore_torch_rng(snapshot.rng, device)
            for number in range(step.batch_size // step.micro_batch_size):
                batch = self._batch(snapshot.windows + number * step.micro_batch_size * step.dist.world_size)
                chunk_tokens = step.memory_plan.loss_chunk_tokens
                rng = capture_torch_rng(device)
                variant = Variant(step.model, self._hardware.autocast, rng, chunk_tokens, step.loss.of)
                if not variant.is_finite(batch):
                    return number, batch, variant
                with torch.no_grad(), self._hardware.autocast():  # draw what this micro-batch drew for its dropout
                    step.loss.of(step.model)(*batch)
        return None

    def _batch(self, position: int) -> Batch:
        batches = self._train_step.batches
        inputs, targets = batches.read(batches.starts_at(position, self._train_step.micro_batch_size))
        return inputs.to(self._hardware.device), targets.to(self._hardware.device)

    def _other_batches(self) -> list[Batch]:
        """Return micro-batches of later steps; several, because one of them may contain a bad sequence as well."""
        windows = self._train_step.batch_size * self._train_step.dist.world_size
        return [self._batch(self._skipped.snapshot.windows + ahead * windows) for ahead in STEPS_AHEAD]

    def _try_reference_attention(self, batch: Batch, variant: Variant) -> ReplayResult | None:
        with reference_attention(variant.model):
            if variant.is_finite(batch):
                return self._result("kernel", 0.9, "finite-with-plain-attention")
        self._rule_out("kernel", "plain-attention-fails-too")
        return None

    def _try_better_precision(self, batch: Batch, variant: Variant) -> ReplayResult | None:
        given = self._hardware.precision
        if given == "fp32":
            model, better = copy.deepcopy(variant.model).double(), "float64"
        else:
            model, better = variant.model, "float32"
        if dataclasses.replace(variant, model=model, autocast=nullcontext).is_finite(batch):
            seen = {"better": better, "given": given}
            return self._result("precision", 0.85, "finite-in-a-better-precision", seen)
        self._rule_out("precision", "a-better-precision-fails-too", {"better": better})
        return None

    def _try_rows(self, number: int, batch: Batch, variant: Variant) -> ReplayResult | None:
        without_dropout = dataclasses.replace(variant, rng=None)

        def fails(rows: list[int]) -> bool:
            return not without_dropout.is_finite((batch[0][rows], batch[1][rows]))

        bad = _bisect(range(len(batch[0])), fails)
        if not bad:
            return None
        rows = [self._row(number, row) for row in bad]
        seen = {"row": rows[0].row, "micro_step": number}
        return self._result("data", 0.9, "row-not-finite-by-itself", seen, rows=rows)

    def _row(self, number: int, row: int) -> NonFiniteRow:
        batches, step = self._train_step.batches, self._train_step
        position = self._skipped.snapshot.windows + number * step.micro_batch_size * step.dist.world_size
        start = int(batches.starts_at(position, step.micro_batch_size)[row])
        end = start + batches.context_length + 1
        return NonFiniteRow(number, row, start, end, _decode(self._trainer, start, end))

    def _try_good_weights(self, batch: Batch, variant: Variant) -> ReplayResult | None:
        good = self._good_model()
        if good is None:
            self._rule_out("data", "every-row-fails")
            return None
        if not dataclasses.replace(variant, model=good).is_finite(batch):
            self._rule_out("weights", "last-good-weights-fail-too")
            return None
        self._rule_out("data", "last-good-weights-are-finite")
        return self._damaged_or_diverged()

    def _good_model(self) -> LanguageModel | None:
        """Return a copy of the model with the last known good weights."""
        if self._last_good is None:
            return None
        model = copy.deepcopy(self._train_step.model)
        if isinstance(self._last_good, InitialState):
            self._last_good.load_weights(model)
        else:
            load_weights(model, self._last_good)
        return model

    def _damaged_or_diverged(self) -> ReplayResult:
        """Train again from the last good weights: are the weights the same, and does a lower learning rate help?"""
        again = self._train_again(1.0)
        if again is None:
            return self._result("weights", 0.6, "only-the-last-good-weights-are-finite")
        changed = self._compare_weights(again)
        if changed is not None:
            return changed
        rate = self._skipped.learning_rate
        for lower in (LOWER_RATE_FACTOR * rate, SAFE_RATE):
            slower = self._train_again(lower / rate)
            assert slower is not None, "the same steps were run just now"
            rng = self._skipped.snapshot.rng
            variant = Variant(slower.model, self._hardware.autocast, rng, loss=self._train_step.loss.of)
            if variant.is_finite(self._batch(self._skipped.snapshot.windows)):
                return self._result("learning rate", 0.9, "finite-at-a-lower-rate", {"lower": f"{lower:.2g}"})
        return self._result("model", 0.5, "a-lower-rate-fails-too")

    def _compare_weights(self, again: TrainStep) -> ReplayResult | None:
        """Return the result if repeated training does not reproduce the weights; None if it does."""
        present = dict(self._train_step.model.named_parameters())
        trained = dict(again.model.named_parameters())
        distances = {name: _distance(p, present[name]) for name, p in trained.items()}
        changed = [name for name, distance in distances.items() if not distance <= SAME_WEIGHTS_TOLERANCE]
        if not changed:
            self._rule_out("weights", "training-again-gives-the-same")
            return None
        # A change from outside also affects later steps, so other weights differ as well, but less.
        first = max(changed, key=lambda name: distances[name])
        names = (first, *(name for name in changed if name != first))
        return self._result("weights", 0.9, "changed-by-something-else", {"parameter": first}, parameters=names)

    def _train_again(self, rate_factor: float) -> TrainStep | None:
        """Return a copy of the run, trained from the last good state to the skipped step; None if that is too far."""
        trainer = self._trainer
        state = read_state(self._last_good) if isinstance(self._last_good, Path) else TrainingState()
        steps = self._skipped.step - 1 - state.step
        first_window = self._skipped.snapshot.windows - steps * self._train_step.batch_size
        rolled_back_to, rewarmup_steps = trainer.state.rewarmup
        # A rollback does not rewind the data, so the position in the checkpoint does not count.
        is_known = first_window == state.windows or (rolled_back_to == state.step and rewarmup_steps > 0)
        if trainer.dist.world_size > 1 or not is_known or not 0 <= steps <= MAX_REPLAYED_STEPS:
            return None
        model = self._good_model()
        assert model is not None
        hardware = dataclasses.replace(self._hardware, compile=False)
        again = TrainStep(model, trainer.dataset.split("train"), trainer.config, hardware, trainer.dist)
        with preserved_rng(hardware.device):
            self._load_last_good(again, state)
            again.seek(first_window)
            for step in range(state.step, state.step + steps):
                again.run_and_wait(step + 1, trainer.learning_rate(step) * rate_factor)
        again.close()
        return again

    def _load_last_good(self, again: TrainStep, state: TrainingState) -> None:
        again.model.train()
        again.set_memory_plan(self._train_step.memory_plan)
        again.batches.quarantine(self._train_step.batches.quarantined)
        if isinstance(self._last_good, InitialState):
            again.restore(self._last_good.snapshot)
        elif self._last_good is not None:
            load_optimizers(again.optimizers, self._last_good)
            restore_rng(state.rng[0])
            if state.scaler:
                again.scaler.load_state_dict(state.scaler)

    def _blame_model(self, others_fail: bool) -> ReplayResult:
        if others_fail:
            if self._module is None:
                return self._result("model", 0.7, "every-batch-fails")
            return self._result("model", 0.7, "every-batch-fails-in-a-module", {"module": self._module.name})
        return self._result("unknown", 0.3, "only-this-batch-fails")

    def _result(
        self,
        cause: Cause,
        confidence: float,
        why: str,
        seen: Mapping[str, Value] | None = None,
        rows: Sequence[NonFiniteRow] = (),
        parameters: Sequence[str] = (),
    ) -> ReplayResult:
        reason, ruled_out = Reason(why, cause, seen or {}), tuple(self._ruled_out)
        return ReplayResult(cause, confidence, reason, ruled_out, self._module, tuple(rows), tuple(parameters))

    def _rule_out(self, cause: Cause, why: str, seen: Mapping[str, Value] | None = None) -> None:
        self._ruled_out.append(Reason(why, cause, seen or {}))


class _StopAtSkip(Policy):
    """Stops at the first skipped step, like the default policy, and records it."""

    skipped: Skipped | None = None

    def decide(self, outcome: Outcome | None) -> Decision:
        if isinstance(outcome, Skipped):
            self.skipped = outcome
        return super().decide(outcome)


def replay_saved_run(trainer: Trainer, checkpoint: Path, steps: int = MAX_REPLAYED_STEPS) -> ReplayResult | None:
    """Find out why a finished run failed: continue from a checkpoint until it fails again.

    Args:
        trainer: built as the run was, on the same data, without observers: its folder is not written to.
        checkpoint: the last verified one.
        steps: after which to give up.

    Returns:
        The result, or None if no step was skipped.

    Raises:
        MemoryExhaustedError: memory ran out.
    """
    trainer.resume(checkpoint)
    trainer.policy = policy = _StopAtSkip()
    try:
        with trainer.hardware.kernels():
            trainer.run_steps(steps)
    except TrainingDivergedError:
        if policy.skipped is None:
            raise
        return replay(trainer, policy.skipped, checkpoint)
    finally:
        trainer.train_step.close()
    return None


def _bisect(rows: Sequence[int], fails: Callable[[list[int]], bool]) -> list[int]:
    """Return the sequences that fail on their own."""
    if not fails(list(rows)):
        return []
    if len(rows) == 1:
        return [rows[0]]
    middle = len(rows) // 2
    return _bisect(rows[:middle], fails) + _bisect(rows[middle:], fails)


def _distance(a: Tensor, b: Tensor) -> float:
    """Return the distance of two tensors relative to the smaller norm, so that scaling in either direction shows."""
    a, b = a.detach().double(), b.detach().double()  # the norm of large weights would overflow
    smaller = min(a.norm().item(), b.norm().item())
    difference = (a - b).norm().item()
    return difference / smaller if smaller else math.inf if difference else 0.0


def _decode(trainer: Trainer, start: int, end: int) -> str:
    ids = trainer.dataset.split("train").read(start, end - start)
    tokens = ids[ids >= 0].tolist()  # a position of a picture or sound has no token
    try:
        return trainer.dataset.tokenizer.decode(tokens)[:MAX_TEXT_CHARACTERS]
    except (GlassGPTError, IndexError, KeyError):
        return f"tokens that the tokenizer does not know: {tokens[:20]}"
