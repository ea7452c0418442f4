"""Who decides what happens to a run that is in trouble. The loop asks; this one stops.

A guard that knows better lives in a later room and derives from `Guard`. It reaches into the run through what
`Trainer` offers in public: `quarantine`, `rewind`, `certify`, `adapt`, `tell`. On several ranks each has a guard of its
own, all are told the same figures, and all must decide the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from glassgpt.training.step import StepSnapshot


class Run(Protocol):
    """What the plain guard needs of a training; it is the `Trainer`, which is defined after its guard."""

    def diverge(self, step: int, loss: float, grad_norm: float) -> NoReturn:
        """See `Trainer.diverge`."""
        ...


RunT = TypeVar("RunT", bound=Run)


@dataclass(frozen=True)
class RefusedStep:
    """A step whose loss or gradient was not finite; nothing of it was applied.

    Attributes:
        step: its number. It counts as done, and its batch as consumed.
        loss: mean nats per token.
        grad_norm: global norm before clipping.
        bad_micro_steps: how many micro-steps had a loss that was not finite.
        learning_rate: that it would have used.
        start: where it began; weights and optimizer are still as it found them.
    """

    step: int
    loss: float
    grad_norm: float
    bad_micro_steps: int
    learning_rate: float
    start: StepSnapshot


class Guard(Generic[RunT]):
    """Stops a run that diverges or runs out of memory; override what you can mend."""

    def begin(self, trainer: RunT) -> None:
        """Before the first step, also of a resumed run."""

    def on_refused(self, trainer: RunT, refused: RefusedStep) -> None:
        """After a refused step; training goes on from wherever the trainer is when this returns.

        Raises:
            TrainingDivergedError: training is to stop.
        """
        trainer.diverge(refused.step, refused.loss, refused.grad_norm)

    def after_step(self, trainer: RunT) -> None:
        """After each step that was not refused; its figures come one step later."""

    def on_saved(self, trainer: RunT, checkpoint: Path) -> None:
        """After each checkpoint."""

    def on_out_of_memory(self, trainer: RunT, message: str) -> bool:
        """Whether room was made, so that the step can be done again; nothing of it is in memory any more."""
        return False

    def state(self) -> dict[str, Any]:
        """What a resumed run's guard must remember, as JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
