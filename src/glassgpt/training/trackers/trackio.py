"""Trackio: a SQLite database in `trackio/` of the run, which `trackio show` displays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from glassgpt.training.trackers.base import TrackedRun, Tracker


class Trackio(Tracker):
    """Records with Trackio, in the run's folder unless the environment variable TRACKIO_DIR says otherwise."""

    def __init__(self, run: TrackedRun) -> None:
        # Read once, when trackio is imported. Another run of the same process writes where the first one does.
        os.environ.setdefault("TRACKIO_DIR", str(run.folder("trackio").absolute()))
        trackio: Any = import_module("trackio")
        self._trackio: Any = trackio
        self._run: Any = trackio.init(
            project="glassgpt",
            name=run.name,
            config=dict(run.settings),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def write(self, step: int, title: str, text: str) -> None:
        """See `Tracker`."""
        self._run.log({title: self._trackio.Markdown(f"```\n{text}\n```")}, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()
