"""Snapshots of the weights while a model learns, at step 0 and at every power of two.

A model changes most in its first steps, so that equal distances between checkpoints miss how it learned. A snapshot
is a checkpoint of weights alone in `snapshots/step-NNNNNN`: every command can use it, but no run can be resumed from
it. Snapshots are never pruned. Writing them changes nothing in training: they are copied where a step ends and
written when its outcome is known, so that a step which was skipped and repeated leaves one snapshot.
"""

from __future__ import annotations

from torch import Tensor

from glassgpt.errors import CheckpointError
from glassgpt.model.accounting import FLOAT32_BYTES, count_parameters
from glassgpt.model.config import ModelConfig
from glassgpt.training.checkpoint import TrainingState, delete_snapshots_after, described, save_snapshot, usable_weights
from glassgpt.training.config import TrainConfig
from glassgpt.training.observers import Observer, StepMetrics
from glassgpt.training.training_run import TrainingRun

LARGEST_TOTAL_BYTES = 200_000_000
"""All snapshots of a run together take at most this much with `train.snapshots = "auto"`."""


def snapshot_steps(train: TrainConfig) -> list[int]:
    """Return the steps that get a snapshot: 0 and the powers of two up to `max_steps`."""
    return [0, *(1 << power for power in range(train.max_steps.bit_length()))]


def total_snapshot_bytes(model: ModelConfig, train: TrainConfig) -> int:
    """Return what all snapshots of a run take on disk; 0 if it has none."""
    total = len(snapshot_steps(train)) * count_parameters(model) * FLOAT32_BYTES
    is_wanted = train.snapshots == "on" or (train.snapshots == "auto" and total <= LARGEST_TOTAL_BYTES)
    return total if is_wanted else 0


class WeightSnapshots(Observer):
    """Copies the weights after each step that gets a snapshot, and writes them when the step counts.

    Args:
        run: the run.
    """

    def __init__(self, run: TrainingRun) -> None:
        is_wanted = total_snapshot_bytes(run.model.config, run.config.train) > 0
        self._run, self._steps = run, frozenset(snapshot_steps(run.config.train) if is_wanted else ())
        self._copied: dict[int, dict[str, Tensor]] = {}

    def attach(self) -> None:
        """Register with the run and write the snapshot of the initial weights. Call it on all ranks, after `resume`.

        Snapshots of later steps than the one it continues from are deleted: an earlier process wrote them before it was
        killed, and the run may take another course now.
        """
        self._run.train_step.probes.append(self)
        self._run.observers.append(self)
        self._delete_after(self._run.state.step)
        if self._run.state.step == 0:
            self.after_update(0)
            self._write(0)

    def before_update(self, step: int) -> None:
        """Do nothing."""

    def after_update(self, step: int) -> None:
        """Copy the weights; a step that is repeated replaces what it left before."""
        if step in self._steps:
            average = self._run.train_step.average
            named = average.named() if average is not None else None
            self._copied[step] = usable_weights(self._run.model, named, keep=self._run.dist.is_main)

    def on_step(self, metrics: StepMetrics) -> None:
        """Write the snapshot of a step that counts."""
        self._write(metrics.step)

    def on_rollback(self, step: int) -> None:
        """Delete the snapshots of steps that were undone."""
        self._copied.clear()
        self._delete_after(step)

    def _write(self, step: int) -> None:
        weights = self._copied.pop(step, None)
        if not weights:  # none is due, or another rank writes it
            return
        state = TrainingState(
            step=step,
            train_tokens=self._run.state.train_tokens,
            tokenizer_fingerprint=self._run.state.tokenizer_fingerprint,
        )
        try:
            save_snapshot(self._run.run_folder, weights, described(state, self._run.model))
        except CheckpointError as error:  # training is sound without it
            self._run.emit("snapshot not saved", {"error": str(error)})

    def _delete_after(self, step: int) -> None:
        if self._run.dist.is_main:
            try:
                delete_snapshots_after(self._run.run_folder, step)
            except CheckpointError as error:
                self._run.emit("snapshot not deleted", {"error": str(error)})
