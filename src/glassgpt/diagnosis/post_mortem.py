"""Replay the step that ended a run from the run's files: the offline counterpart of `replay`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from glassgpt.data.shards import TokenDataset
from glassgpt.diagnosis.findings import CheckResult, Value
from glassgpt.diagnosis.monitor import finding_from_replay
from glassgpt.diagnosis.replay import MAX_REPLAYED_STEPS, Reason, ReplayResult, replay_saved_run
from glassgpt.diagnosis.run_log import Line, RunLog
from glassgpt.errors import GlassGPTError
from glassgpt.training.checkpoint import (
    build_as_trained,
    checkpoint_step,
    has_optimizer,
    newest_verified_checkpoint,
    read_state,
)
from glassgpt.training.config import TrainerConfig
from glassgpt.training.loop import Trainer

MAX_SECONDS = 120.0
"""Time limit for training from the checkpoint to the failed step, estimated from the run's own step times."""
CHECK = "replay"
Obstacle = tuple[str, dict[str, Value]]
"""Outcome and values of a check result that says why a step cannot be replayed."""
INTERVENTIONS = (
    "step skipped", "rows quarantined", "attention replaced", "rewind", "out of memory", "micro-batch grown",
)  # fmt: skip
"""Events after which a run no longer follows from its last checkpoint."""


def check_replay(
    log: RunLog, settings: TrainerConfig, open_data: Callable[[], TokenDataset | None]
) -> CheckResult | None:
    """Replay the step that ended a run. Return None if the run did not end because of a non-finite value.

    Args:
        log: of the run.
        settings: of its trainer.
        open_data: opens its training data, as it was trained on; None if it no longer exists.
    """
    if log.event("diverged") is None:
        return None
    step = log.diverged_at
    cause = _cause_of_live_replay(log, step)
    if cause is not None:
        return CheckResult(CHECK, "already replayed", {"step": step, "cause": cause})
    try:
        dataset = open_data()
    except GlassGPTError as error:
        return CheckResult(CHECK, "failed", {"step": step, "problem": str(error)})
    if dataset is None:
        return CheckResult(CHECK, "no data", {"step": step})
    start = _find_start(log, step, settings)
    if isinstance(start, tuple):
        return CheckResult(CHECK, *start)
    return _replay(log, step, start, settings, dataset)


def _cause_of_live_replay(log: RunLog, step: int) -> str | None:
    """Return the cause that the run itself found when it replayed the step, if any."""
    replays = [line for line in log.events if line.get("event") == "replay" and line.get("at") == step]
    return str(replays[-1].get("cause", "?")) if replays else None


def _find_start(log: RunLog, step: int, settings: TrainerConfig) -> Path | Obstacle:
    """Return the checkpoint from which the step can be reproduced bit for bit, or the reason why there is none."""
    values: dict[str, Value] = {"step": step}
    try:
        found = newest_verified_checkpoint(log.run)
    except GlassGPTError as error:
        return "failed", {**values, "problem": str(error)}
    if found is None or not has_optimizer(found.path):
        return "no checkpoint", values
    steps = step - checkpoint_step(found.path)
    values |= {"checkpoint": found.path.name, "steps": steps, "most": MAX_REPLAYED_STEPS}
    if not 0 < steps <= MAX_REPLAYED_STEPS:
        return "too far", values
    processes = len(read_state(found.path).rng)
    if processes != 1:
        return "several processes", {**values, "count": processes}
    changes = [line for line in log.events if _is_intervention(line, checkpoint_step(found.path), step)]
    if changes:
        return "changed since", {**values, "event": str(changes[-1]["event"])}
    trained_on_cpu = str(log.start_event.get("hardware", "cpu")).startswith("cpu")
    if trained_on_cpu != (settings.train.device == "cpu" or not torch.cuda.is_available()):
        return "other machine", {**values, "hardware": str(log.start_event["hardware"])}
    seconds = steps * float(np.median([s for s in log.durations() if math.isfinite(s)] or [0.0]))
    return ("too long", {**values, "seconds": seconds}) if seconds > MAX_SECONDS else found.path


def _is_intervention(line: Line, since: int, step: int) -> bool:
    """Return whether an event since a checkpoint changed the run in a way that a replay would not reproduce."""
    is_failed_step = line.get("event") == "step skipped" and line.get("at") == step
    return line.get("event") in INTERVENTIONS and int(line.get("step", 0)) >= since and not is_failed_step


def _replay(log: RunLog, step: int, checkpoint: Path, settings: TrainerConfig, dataset: TokenDataset) -> CheckResult:
    with torch.random.fork_rng():
        try:
            trainer = Trainer(build_as_trained(checkpoint), dataset, settings, log.run)
            result = replay_saved_run(trainer, checkpoint, step - checkpoint_step(checkpoint) + 1)
        except GlassGPTError as error:
            return CheckResult(CHECK, "failed", {"step": step, "problem": str(error)})
    if result is None:
        reason = Reason("every-step-is-finite", "not reproduced", {"checkpoint": checkpoint.name})
        result = ReplayResult("not reproduced", 0.6, reason)
    values: dict[str, Value] = {"step": step, "checkpoint": checkpoint.name, "cause": result.cause}
    return CheckResult(CHECK, "replayed", values, (finding_from_replay(step, result),))
