"""The registry of trackers: turns `train.trackers` into an observer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from glassgpt.training.trackers.base import TrackedRun, Tracker
from glassgpt.training.trackers.mlflow import MLflow
from glassgpt.training.trackers.names import tracker_names
from glassgpt.training.trackers.observer import Emit, Sample, Trackers
from glassgpt.training.trackers.tensorboard import TensorBoard
from glassgpt.training.trackers.trackio import Trackio
from glassgpt.training.trackers.wandb import WandB

CLASSES: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow, "trackio": Trackio,
}  # fmt: skip


def build_trackers(setting: str, run: TrackedRun, emit: Emit, sample: Sample | None) -> list[Trackers]:
    """Return the observer that feeds the trackers of a setting, or nothing if it names none.

    Args:
        setting: value of `train.trackers`, already checked.
        run: the run.
        emit: records an event of the run.
        sample: returns a text that the model generates; None records none.
    """
    builders = {name: partial(CLASSES[name], run) for name in tracker_names(setting)}
    return [Trackers(builders, emit, sample)] if builders else []
