"""The recovery policy: how to respond to a skipped step, a diverging loss, or running out of memory.

It undoes only what can be undone, each within a budget, and reports everything to `events.jsonl`. A step that is not
finite was skipped by the device already; the policy decides what follows. See docs/decisions/0018-recovery.md.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from glassgpt.diagnosis.catalogue import reason
from glassgpt.diagnosis.checks.memory import USABLE, fit_micro_batch_size
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.replay import ReplayResult, explain_divergence, replay
from glassgpt.training.checkpoint import checkpoint_step, find_damage, resolve_pointer, set_pointer
from glassgpt.training.config import divisors
from glassgpt.training.loop import Trainer
from glassgpt.training.outcomes import Continue, Decision, Outcome, OutOfMemory, Policy, Retry, Rollback, Skipped, Stop
from glassgpt.training.snapshot import InitialState


class Monitor(Protocol):
    """The part of `glassgpt.diagnosis.monitor.TrainingMonitor` that the policy needs."""

    def diverging(self) -> bool:
        """Return whether the loss has risen too far to recover by itself."""
        ...

    def is_calm(self) -> bool:
        """Return whether a checkpoint may be certified as healthy."""
        ...

    def forget_after(self, step: int) -> None:
        """Forget the metrics after a step: the run is rolled back to it."""
        ...

    def on_replay(self, step: int, result: ReplayResult, actions: Sequence[str], /) -> None:
        """Report the result of a replay and the actions taken, by their names in the catalogue."""
        ...

    def on_divergence(self, step: int, result: ReplayResult | None, actions: Sequence[str], /) -> None:
        """Report that the loss diverged, with the cause, if known, and the actions taken."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        ...


class RecoveryPolicy(Policy):
    """Skips steps, quarantines data, rolls back or reduces memory use; stops when its budget is spent.

    Args:
        trainer: the run.
        config: what may be done, and how often.
        monitor: watches the metrics, and may call for a rollback.
        peak_memory: returns the peak of memory in use since it was last called, and the total, in bytes; None if the
            device does not tell. By default the peak of CUDA.
        fit_micro_batch: measures how many sequences fit into memory at once, for `train.micro_batch_size = "auto"`.

    Attributes:
        replays: results of the replays in this process.
        initial_state: rollback target until a checkpoint is certified.
    """

    def __init__(
        self,
        trainer: Trainer,
        config: DiagnosisConfig,
        monitor: Monitor | None = None,
        peak_memory: Callable[[], tuple[int, int]] | None = None,
        fit_micro_batch: Callable[[Trainer], int | None] = fit_micro_batch_size,
    ) -> None:
        self._trainer, self._config, self._monitor = trainer, config, monitor
        self._fit_micro_batch = fit_micro_batch
        self._peak_memory = peak_memory or (_cuda_peak_memory if torch.cuda.is_available() else None)
        self.replays: list[ReplayResult] = []
        self.initial_state: InitialState | None = None
        self._skipped_steps: deque[int] = deque(maxlen=config.skips_before_rewind)
        self._replay_count = self._rollback_count = 0
        self._uncertified: list[Path] = []
        self._proven: list[Path] = []
        self._uses_reference_attention = False
        self._peaks: dict[int, int] = {}
        self._memory_changed_at = 0
        self._too_large_micro_batch: int | None = None

    def on_start(self) -> Continue:
        """Choose the micro-batch size if configured, and keep the initial state as a rollback target."""
        trainer, plan = self._trainer, None
        if trainer.config.train.micro_batch_size == "auto" and not trainer.state.memory:
            size = self._fit_micro_batch(trainer)
            if size is not None:
                plan = replace(trainer.train_step.memory_plan, micro_batch_size=size)
                trainer.emit("micro-batch fitted", {"rows": size, "of": trainer.train_step.batch_size})
        if self._config.recover and trainer.state.step == 0:
            self.keep_initial_state()
        return Continue(memory_plan=plan, use_reference_attention=self._uses_reference_attention)

    def keep_initial_state(self) -> None:
        """Keep the current weights in host memory, as the rollback target until a checkpoint is certified."""
        self.initial_state = InitialState.capture(self._trainer.model, self._trainer.train_step.snapshot())

    def decide(self, outcome: Outcome | None) -> Decision:
        """Decide what to do after a step; see `Policy`."""
        match outcome:
            case Skipped():
                return self._after_skip(outcome)
            case OutOfMemory():
                return self._after_out_of_memory(outcome)
            case _:
                return self._after_step()

    def on_checkpoint(self, checkpoint: Path) -> None:
        """Put a checkpoint on probation: it is certified after enough normal steps."""
        self._uncertified.append(checkpoint)

    def on_saved(self) -> None:
        """Certify the checkpoint that has become complete, if enough steps have passed meanwhile."""
        self._point_at_proven()

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as JSON."""
        return {
            "skips": list(self._skipped_steps),
            "replays": self._replay_count,
            "rewinds": self._rollback_count,
            "plain_attention": self._uses_reference_attention,
            "roomy_since": self._memory_changed_at,
            "too_many_rows": self._too_large_micro_batch,
            "watch": self._monitor.state() if self._monitor else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; do nothing if it is empty."""
        if not state:
            return
        self._skipped_steps.extend(state["skips"])
        self._replay_count, self._rollback_count = state["replays"], state["rewinds"]
        self._uses_reference_attention = state["plain_attention"]
        self._memory_changed_at, self._too_large_micro_batch = state["roomy_since"], state["too_many_rows"]
        if self._monitor is not None:
            self._monitor.restore(state["watch"])

    # Skipped steps

    def _after_skip(self, skipped: Skipped) -> Decision:
        """Find the cause, and remove it if possible."""
        result = self._find_cause(skipped)
        advice = _advice(self._trainer, result)
        decision, actions = self._remove_cause(skipped, result) if self._config.recover else (None, ())
        if result is not None and self._monitor is not None:
            self._monitor.on_replay(skipped.step, result, actions)
        return decision or Stop(advice)

    def _remove_cause(
        self, skipped: Skipped, result: ReplayResult | None
    ) -> tuple[Continue | Rollback | None, tuple[str, ...]]:
        """Return a decision that removes the cause, and its actions by their catalogue names; None if the budget is spent."""
        self._trainer.emit("step skipped", {"at": skipped.step, **_details(skipped)})
        self._uncertified.clear()  # what was saved just before may contain the cause
        self._skipped_steps.append(skipped.step)
        cause = result.cause if result else "unknown"
        spans = self._spans_to_quarantine(result)
        if spans:
            self._trainer.emit("rows quarantined", {"spans": list(spans)})
            return Continue(quarantine=spans), ("skipped-step", "quarantined-rows")
        if cause == "kernel" and not self._uses_reference_attention:
            self._uses_reference_attention = True
            self._trainer.emit("attention replaced", {"by": "plain operations"})
            return Continue(use_reference_attention=True), ("skipped-step", "replaced-attention")
        if cause in ("weights", "learning rate") or self._skips_too_often():
            factor = 1.0 if cause == "weights" else self._config.rewind_rate_factor
            rollback = self._roll_back(factor, result)
            return rollback, ("rewound",) if rollback else ()
        return Continue(), ("skipped-step",)

    def _find_cause(self, skipped: Skipped) -> ReplayResult | None:
        """Replay the step. Each rank replays its own part, and all take the first result that names a cause."""
        trainer = self._trainer
        if self._replay_count >= self._config.most_replays or trainer.train_step.loss.is_sharded:
            return None
        self._replay_count += 1
        results = trainer.dist.all_gather_objects(replay(trainer, skipped, self._last_good()))
        reproduced = [result for result in results if result.cause != "not reproduced"]
        rows = tuple(row for result in results for row in result.rows)
        result = replace((reproduced or results)[0], rows=rows)
        self.replays.append(result)
        trainer.emit("replay", {"at": skipped.step, **result.to_json()})
        return result

    def _spans_to_quarantine(self, result: ReplayResult | None) -> tuple[tuple[int, int], ...]:
        if result is None or result.cause != "data":
            return ()
        quarantined = self._trainer.train_step.batches.quarantined
        spans = tuple((row.start, row.end) for row in result.rows)
        return spans if len(quarantined) + len(spans) <= self._config.most_rows else ()

    def _skips_too_often(self) -> bool:
        steps = self._skipped_steps
        return len(steps) == self._config.skips_before_rewind and steps[-1] - steps[0] < self._config.skip_window_steps

    # Rollback

    def _after_step(self) -> Decision:
        """Certify checkpoints, roll back if the loss diverges, and grow the micro-batch if memory allows."""
        self._certify()
        if self._config.recover and self._monitor is not None and self._monitor.diverging():
            return self._after_divergence(self._monitor)
        return self._grow_micro_batch()

    def _certify(self) -> None:
        """Certify the checkpoints that were followed by enough calm steps."""
        if self._monitor is not None and not self._monitor.is_calm():
            self._uncertified.clear()
        due = self._trainer.state.step - self._config.certify_steps - 1  # a step's metrics come one step later
        self._proven += [path for path in self._uncertified if checkpoint_step(path) <= due]
        self._uncertified = [path for path in self._uncertified if checkpoint_step(path) > due]
        self._point_at_proven()

    def _point_at_proven(self) -> None:
        """Point `healthy` at the newest certified checkpoint, which is then kept; one that is still being written has to wait."""
        for path in [path for path in self._proven if path != self._trainer.saving]:
            self._proven.remove(path)
            self.initial_state = None
            if self._trainer.dist.is_main:
                set_pointer(self._trainer.run_folder, "healthy", path)

    def _after_divergence(self, monitor: Monitor) -> Decision:
        step, result = self._trainer.state.step, self._explain_divergence()
        # Damaged weights are no evidence against the learning rate, unless it happens again.
        was_damaged = result is not None and result.cause == "weights" and self._rollback_count == 0
        rollback = self._roll_back(1.0 if was_damaged else self._config.rewind_rate_factor, result)
        monitor.on_divergence(step, result, ("rewound",) if rollback else ())
        return rollback or Stop()

    def _explain_divergence(self) -> ReplayResult | None:
        """Repeat the last steps to find the cause. It costs up to a hundred steps and counts as a replay."""
        if self._replay_count >= self._config.most_replays or self._trainer.dist.world_size > 1:
            return None
        self._replay_count += 1
        return explain_divergence(self._trainer, self._last_good())

    def _roll_back(self, learning_rate_factor: float, result: ReplayResult | None) -> Rollback | None:
        """Return the rollback to the last good state, or None if there is none or the budget is spent."""
        target = self._last_good()
        if target is None or self._rollback_count >= self._config.most_rewinds:
            checkpoint = target.name if isinstance(target, Path) else None
            self._trainer.emit("recovery ended", {"rewinds": self._rollback_count, "checkpoint": checkpoint})
            return None
        self._rollback_count += 1
        self._skipped_steps.clear()
        self._uncertified.clear()
        if self._monitor is not None:
            self._monitor.forget_after(checkpoint_step(target) if isinstance(target, Path) else 0)
        return Rollback(
            target,
            learning_rate_factor,
            self._config.rewarmup_steps,
            reason=result.cause if result else "the loss diverged",
            rollbacks_left=self._config.most_rewinds - self._rollback_count,
        )

    def _last_good(self) -> Path | InitialState | None:
        """Return the certified checkpoint if it is intact, else the initial state if it is still kept.

        The one that is being written may be certified already, so this waits for it. Must be called on all ranks.
        """
        self._trainer.finish_save()
        path = resolve_pointer(self._trainer.run_folder, "healthy")
        return path if path is not None and find_damage(path) is None else self.initial_state

    # Memory

    def _after_out_of_memory(self, outcome: OutOfMemory) -> Decision:
        """Halve the micro-batch, then compute the loss in chunks, then recompute activations: the cheapest remaining option."""
        trainer, step = self._trainer, self._trainer.train_step
        before = step.memory_plan
        after = before.reduced(step.batch_size, step.batches.context_length)
        details = {"at": outcome.step, "message": outcome.message, "before": before.to_json()}
        if after is None or not self._config.recover:
            trainer.emit("out of memory", {**details, "recovered": False})
            return Stop()
        self._too_large_micro_batch = before.micro_batch_size
        self._memory_changed_at = trainer.state.step
        trainer.emit("out of memory", {**details, "after": after.to_json(), "recovered": True})
        return Retry(after)

    def _grow_micro_batch(self) -> Continue:
        """After enough steps, use the largest micro-batch that fits by measurement, but never one that ran out of memory."""
        trainer, wait, limit = self._trainer, self._config.grow_after_steps, self._too_large_micro_batch
        calm_steps = trainer.state.step - self._memory_changed_at
        if self._peak_memory is None or limit is None or wait == 0 or calm_steps < wait:
            return Continue()
        step, plan = trainer.train_step, trainer.train_step.memory_plan
        self._memory_changed_at = trainer.state.step
        self._peaks[plan.micro_batch_size], total = self._peak_memory()
        fitting = largest_fitting_micro_batch(self._peaks, step.batch_size, _fixed_bytes(trainer), USABLE * total)
        fitting = min(trainer.dist.all_gather_objects(fitting))  # other programs may share some of the devices
        limit = min(fitting, limit - 1, trainer.config.train.resolve_micro_batch_size(step.batch_size))
        size = max((n for n in divisors(step.batch_size) if n <= limit), default=0)
        if size <= plan.micro_batch_size:
            return Continue()
        trainer.emit("micro-batch grown", {"before": plan.micro_batch_size, "after": size})
        return Continue(memory_plan=replace(plan, micro_batch_size=size))


def largest_fitting_micro_batch(peaks: Mapping[int, int], batch_size: int, fixed_bytes: int, limit: float) -> int:
    """Return the largest micro-batch size whose peak memory, fixed + size x each, stays under a limit; 0 if none does.

    Args:
        peaks: measured bytes by micro-batch size.
        batch_size: sequences per step and rank, which the result divides.
        fixed_bytes: memory of weights, gradients and optimizer; used if only one size was measured.
        limit: in bytes.
    """
    (small, low), (large, high) = min(peaks.items()), max(peaks.items())
    each = (high - low) / (large - small) if large > small else max(0, low - fixed_bytes) / small
    fixed = low - each * small
    return max((n for n in divisors(batch_size) if fixed + n * each <= limit), default=0)


def _fixed_bytes(trainer: Trainer) -> int:
    """Return the bytes of weights, gradients and AdamW's two moments in float32."""
    return 16 * sum(p.numel() for p in trainer.model.parameters())


def _cuda_peak_memory() -> tuple[int, int]:
    peak, total = torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[1]
    torch.cuda.reset_peak_memory_stats()
    return peak, total


def _advice(trainer: Trainer, result: ReplayResult | None) -> str:
    """Return advice for causes other than the learning rate; empty for the usual advice."""
    if result is None or result.cause in ("learning rate", "unknown"):
        return ""
    why = reason(result.why.key, result.why.seen)
    return (
        f"The cause is {result.cause}: {why}. What to do: glassgpt doctor {shlex.quote(str(trainer.run_folder.path))}"
    )


def _details(skipped: Skipped) -> dict[str, Any]:
    """Return the metrics of a skipped step as JSON, which has no NaN: non-finite numbers become strings."""
    return {
        "loss": str(skipped.loss),
        "grad_norm": str(skipped.grad_norm),
        "bad_micro_steps": skipped.bad_micro_steps,
        "learning_rate": skipped.learning_rate,
        "windows": skipped.snapshot.windows,
    }
