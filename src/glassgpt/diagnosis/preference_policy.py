"""The recovery policy of training on preferences, which also stops when the chosen replies become too unlikely.

DPO only asks for a difference of two rewards, which also grows while both replies become less likely; then the model
unlearns the replies that it should prefer.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Mapping
from typing import Any

from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.recovery import Monitor, RecoveryPolicy
from glassgpt.training.checkpoint import resolve_pointer
from glassgpt.training.loop import Trainer
from glassgpt.training.observers import Observer, StepMetrics
from glassgpt.training.outcomes import Decision, Outcome, Stop

WINDOW_STEPS = 20
"""Steps over which the change of the chosen replies is averaged: a batch has few of them."""
STOP_EVENT = "preference stop"


class ChosenChanges(Observer):
    """The change of the chosen replies' log-probability in the last steps, in nats per token; a rollback starts again."""

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=WINDOW_STEPS)

    def on_step(self, metrics: StepMetrics) -> None:
        """Keep the change of a step."""
        self.recent.append(metrics.loss_metrics["chosen_change"])

    def on_rollback(self, step: int) -> None:
        """Drop everything."""
        self.recent.clear()

    def drop(self) -> float:
        """Return by how much the chosen replies became less likely, on average; 0 before there are enough steps."""
        full = len(self.recent) == WINDOW_STEPS
        return -sum(self.recent) / WINDOW_STEPS if full else 0.0


class PreferencePolicy(RecoveryPolicy):
    """Recovers as `RecoveryPolicy` does, and stops training when the chosen replies fell by more than is allowed."""

    def __init__(self, trainer: Trainer, config: DiagnosisConfig, monitor: Monitor | None = None) -> None:
        super().__init__(trainer, config, monitor)
        self._changes = ChosenChanges()
        trainer.observers.append(self._changes)

    def decide(self, outcome: Outcome | None) -> Decision:
        """See `RecoveryPolicy`."""
        limit, drop = self._trainer.config.preference.max_chosen_drop, self._changes.drop()
        if not 0 < limit < drop:
            return super().decide(outcome)
        self._trainer.emit(STOP_EVENT, {"drop": drop, "limit": limit})
        reason = f"the chosen replies became less likely by {drop:.2f} nats per token, more than preference.max_chosen_drop {limit:g}"
        return Stop(self._way_out(), reason)

    def state_dict(self) -> dict[str, Any]:
        """See `RecoveryPolicy`."""
        return {**super().state_dict(), "chosen_changes": list(self._changes.recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `RecoveryPolicy`."""
        super().load_state_dict(state)
        self._changes.recent.extend(state.get("chosen_changes", ()))

    def _way_out(self) -> str:
        """Return what the user can do."""
        run, rate = self._trainer.run_folder, self._trainer.config.train.learning_rate / 4
        best, folder = resolve_pointer(run, "best"), shlex.quote(str(run.path))
        if best is None:
            return f"Start again in another folder with --train.learning-rate {rate:g} or --preference.chosen-weight 1"
        return (
            f"{folder} keeps {best.name}, the best one validated. Or start again in another folder with "
            f"--train.learning-rate {rate:g} or --preference.chosen-weight 1"
        )
