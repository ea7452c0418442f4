"""Weights & Biases: offline files in `wandb/` of the run, which `wandb sync` uploads if the user wants that."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from glassgpt.training.trackers.base import TrackedRun, Tracker


class WandB(Tracker):
    """Records with Weights & Biases, offline unless the environment variable WANDB_MODE says otherwise."""

    def __init__(self, run: TrackedRun) -> None:
        wandb: Any = import_module("wandb")
        self._wandb: Any = wandb
        run.folder("wandb")
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "glassgpt"),
            name=run.name,
            group=run.name,  # a resumed run is another one of the same group: offline, none can be continued
            dir=str(run.path),
            config=dict(run.settings),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        # After a rollback, steps are repeated; W&B would drop what has a lower step than its own counter.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log({**values, "step": step})

    def write(self, step: int, title: str, text: str) -> None:
        """See `Tracker`."""
        self._run.log({title: self._wandb.Html(f"<pre>{html.escape(text)}</pre>"), "step": step})

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()
