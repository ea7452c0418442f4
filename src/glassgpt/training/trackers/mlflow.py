"""MLflow: a SQLite database and texts in `mlflow/` of the run."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from glassgpt.training.trackers.base import TrackedRun, Tracker

EXPERIMENT = "glassgpt"
FLUSH_SECONDS = 1.0
"""Longest time that metrics are held back: a transaction per step would take longer than a step of a small model."""
MAX_BATCH = 1000
"""Most metrics in one request (MLflow's limit)."""
MAX_PARAMETERS = 100


class MLflow(Tracker):
    """Records with MLflow, in the run's folder unless the environment variable MLFLOW_TRACKING_URI says otherwise."""

    def __init__(self, run: TrackedRun) -> None:
        for variable in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):  # MLflow reports its use over the network
            os.environ.setdefault(variable, "true")
        mlflow: Any = import_module("mlflow")
        entities: Any = import_module("mlflow.entities")

        folder = run.folder("mlflow").absolute()
        self._metric = entities.Metric
        own = os.environ.get("MLFLOW_TRACKING_URI")
        self._client: Any = mlflow.MlflowClient(own or f"sqlite:///{folder / 'mlflow.db'}")
        found = self._client.get_experiment_by_name(EXPERIMENT)
        texts = None if own else (folder / "artifacts").as_uri()
        experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT, texts)
        self._id: str = self._client.create_run(experiment, run_name=run.name).info.run_id
        settings = [entities.Param(name, str(value)[:500]) for name, value in run.settings.items()]
        for first in range(0, len(settings), MAX_PARAMETERS):
            self._client.log_batch(self._id, params=settings[first : first + MAX_PARAMETERS])
        self._waiting: list[Any] = []
        self._flushed = time.monotonic()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        now = int(time.time() * 1000)
        self._waiting += [self._metric(name, value, now, step) for name, value in values.items()]
        if time.monotonic() - self._flushed >= FLUSH_SECONDS or len(self._waiting) >= MAX_BATCH:
            self._flush()

    def write(self, step: int, title: str, text: str) -> None:
        """See `Tracker`. Each text is a file, numbered, because several events may share a step."""
        self._client.log_text(self._id, text, f"{title}/{step:08d}-{time.time_ns()}.txt")

    def close(self) -> None:
        """See `Tracker`."""
        self._flush()
        self._client.set_terminated(self._id)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for first in range(0, len(waiting), MAX_BATCH):
            self._client.log_batch(self._id, metrics=waiting[first : first + MAX_BATCH])
        self._flushed = time.monotonic()
