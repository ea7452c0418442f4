"""The outcomes of a training step, and the decisions that a policy can take on them.

A step ends as `Applied`, `Skipped` or `OutOfMemory`. A policy answers with a decision, and the loop alone acts on it:
`Continue`, `Retry`, `Rollback` or `Stop`. The plain `Policy` stops at the first failure; the one that recovers is
`glassgpt.diagnosis.recovery.RecoveryPolicy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glassgpt.training.memory_plan import MemoryPlan
from glassgpt.training.snapshot import InitialState, StepSnapshot

LEARNED = "learned"
"""Metric of a loss over some of the targets: their number in a batch relative to what the loss was divided by.

The reported loss is divided by it; it is not reported itself.
"""


@dataclass(frozen=True)
class Applied:
    """A step that changed the weights.

    Attributes:
        step: number of the step; the first is 1.
        loss: mean over the batch and all ranks before the update, in nats per learned token.
        grad_norm: global norm before clipping.
        learning_rate: rate of the update.
        data_seconds: seconds in which the host waited for batches.
        stop_requested: whether the user of any rank had asked to stop before this step.
        scaler_skipped: whether the fp16 gradient scaler skipped the update because the gradient overflowed, which is
            routine: it then lowers its scale.
        loss_metrics: what the loss measured besides itself, by name: means over the batch and all ranks.
    """

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    data_seconds: float
    stop_requested: bool = False
    scaler_skipped: bool = False
    loss_metrics: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Skipped:
    """A step that changed nothing because its loss or gradient was not finite. It counts, and its batch is consumed.

    Attributes:
        step: number of the step.
        loss: mean over the batch and all ranks, in nats per token.
        grad_norm: global norm before clipping.
        learning_rate: rate that the update would have used.
        stop_requested: see `Applied`.
        bad_micro_steps: micro-batches, over all ranks, whose loss was not finite.
        snapshot: host state before the step; with the weights, which are as the step found them, it can be replayed.
    """

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    stop_requested: bool
    bad_micro_steps: int
    snapshot: StepSnapshot


@dataclass(frozen=True)
class OutOfMemory:
    """A step that did not complete because memory ran out. It does not count; the state is as before the step.

    Attributes:
        step: number of the step.
        message: first line of the error.
        can_retry: False if other ranks are waiting in the middle of the step, where they cannot be reached.
    """

    step: int
    message: str
    can_retry: bool = True


Outcome = Applied | Skipped | OutOfMemory


@dataclass(frozen=True)
class Continue:
    """Continue training, after these changes if any.

    Attributes:
        quarantine: spans of training tokens, (first, end), to exclude from all further batches.
        memory_plan: plan for the next steps.
        use_reference_attention: whether to replace the attention kernel by its readable reference implementation.
    """

    quarantine: tuple[tuple[int, int], ...] = ()
    memory_plan: MemoryPlan | None = None
    use_reference_attention: bool = False


@dataclass(frozen=True)
class Retry:
    """Run the step again with another memory plan."""

    memory_plan: MemoryPlan


@dataclass(frozen=True)
class Rollback:
    """Return to an earlier state of the run and continue from there with the data that would have come next.

    Attributes:
        target: a verified checkpoint of this run, or its initial state.
        learning_rate_factor: what the learning rate is multiplied with from now on.
        rewarmup_steps: steps over which it rises to that.
        reason: cause, for `events.jsonl`.
        rollbacks_left: how many more the policy allows, for `events.jsonl`.
    """

    target: Path | InitialState
    learning_rate_factor: float
    rewarmup_steps: int
    reason: str
    rollbacks_left: int


@dataclass(frozen=True)
class Stop:
    """End the run with an error.

    Attributes:
        advice: what the user can do; empty for the usual advice.
        reason: what was seen, if the policy has reported it; empty for a loss that diverged or is not finite.
    """

    advice: str = ""
    reason: str = ""


Decision = Continue | Retry | Rollback | Stop


class Policy:
    """Decides what to do after each step; the trainer alone acts on it. This one stops at the first failure.

    Each rank has its own policy. All see the same outcomes and must make the same decisions.
    """

    def on_start(self) -> Continue:
        """Called before the first step, also of a resumed run."""
        return Continue()

    def decide(self, outcome: Outcome | None) -> Decision:
        """Called after each step with the outcome that became known, or None."""
        return Stop() if isinstance(outcome, Skipped | OutOfMemory) else Continue()

    def on_checkpoint(self, checkpoint: Path) -> None:
        """Called after each checkpoint was copied; it may still be being written."""

    def on_saved(self) -> None:
        """Called when the last checkpoint is complete; on ranks other than 0 when that has to be known."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the policy of a resumed run needs, as JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
