"""The step that ended a run, done again from the run's files: what `replay` tells of a living run, told of a dead one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from glassgpt.data.shards import TokenDataset
from glassgpt.diagnosis.findings import CheckResult, Value
from glassgpt.diagnosis.monitor import finding_from_replay
from glassgpt.diagnosis.replay import MAX_REPLAYED_STEPS, Reason, ReplayResult, replay_saved_run
from glassgpt.diagnosis.run_log import Line, RunLog
from glassgpt.errors import GlassGPTError
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.checkpoint import checkpoint_step, has_optimizer, newest_verified_checkpoint, read_state
from glassgpt.training.config import TrainerConfig
from glassgpt.training.loop import Trainer

MOST_SECONDS = 120.0
"""What going on from the checkpoint to the fault may take, by the time that the run's own steps took."""
NAME = "replay"
Hindrance = tuple[str, dict[str, Value]]
CHANGES = ("step skipped", "rows quarantined", "attention replaced", "rewind", "out of memory", "micro-batch grown")
"""Events after which a run no longer is what its last checkpoint makes of it."""


def check_replay(
    record: RunLog, model: ModelConfig, settings: TrainerConfig, dataset: TokenDataset | None
) -> CheckResult | None:
    """Do the step that a run ended with again; None where it did not end by a number that is not finite.

    Args:
        record: what the run wrote.
        model: its shape.
        settings: its configuration.
        dataset: what it learned from, or None where that is gone.
    """
    if record.event("diverged") is None:
        return None
    step = record.diverged_at
    known = _known_already(record, step)
    if known is not None:
        return CheckResult(NAME, "already replayed", {"step": step, "cause": known})
    if dataset is None:
        return CheckResult(NAME, "no data", {"step": step})
    way = _way_back(record, step, settings)
    if isinstance(way, tuple):
        return CheckResult(NAME, *way)
    return _done_again(record, step, way, model, settings, dataset)


def _known_already(record: RunLog, step: int) -> str | None:
    """The cause that a replay in the living run came to."""
    replays = [line for line in record.events if line.get("event") == "replay" and line.get("at") == step]
    return str(replays[-1].get("cause", "?")) if replays else None


def _way_back(record: RunLog, step: int, settings: TrainerConfig) -> Path | Hindrance:
    """The checkpoint from which a step is reached with the same bits; or why none is: the check's outcome and figures."""
    seen: dict[str, Value] = {"step": step}
    try:
        found = newest_verified_checkpoint(record.run)
    except GlassGPTError as error:
        return "failed", {**seen, "problem": str(error)}
    if found is None or not has_optimizer(found.path):
        return "no checkpoint", seen
    state, steps = read_state(found.path), step - checkpoint_step(found.path)
    seen |= {"checkpoint": found.path.name, "steps": steps, "most": MAX_REPLAYED_STEPS}
    if not 0 < steps <= MAX_REPLAYED_STEPS:
        return "too far", seen
    if len(state.rng) != 1:
        return "several processes", {**seen, "count": len(state.rng)}
    changed = [line for line in record.events if _changed_the_way(line, checkpoint_step(found.path), step)]
    if changed:
        return "changed since", {**seen, "event": str(changed[-1]["event"])}
    trained_on_cpu = str(record.start_event.get("hardware", "cpu")).startswith("cpu")
    if trained_on_cpu != (settings.train.device == "cpu" or not torch.cuda.is_available()):
        return "other machine", {**seen, "hardware": str(record.start_event["hardware"])}
    each = float(np.median([s for s in record.durations() if math.isfinite(s)] or [0.0]))
    return ("too long", {**seen, "seconds": each * steps}) if each * steps > MOST_SECONDS else found.path


def _changed_the_way(line: Line, since: int, step: int) -> bool:
    """Whether an event tells of something that a replay from an older checkpoint would not do."""
    is_that_step = line.get("event") == "step skipped" and line.get("at") == step
    return line.get("event") in CHANGES and int(line.get("step", 0)) >= since and not is_that_step


def _done_again(
    record: RunLog, step: int, checkpoint: Path, model: ModelConfig, settings: TrainerConfig, dataset: TokenDataset
) -> CheckResult:
    with torch.random.fork_rng():
        trainer = Trainer(build_model(model), dataset, settings, record.run)
        try:
            verdict = replay_saved_run(trainer, checkpoint, step - checkpoint_step(checkpoint) + 1)
        except GlassGPTError as error:
            return CheckResult(NAME, "failed", {"step": step, "problem": str(error)})
    seen = {"step": step, "checkpoint": checkpoint.name}
    calm = Reason("every-step-is-finite", "not reproduced", {"checkpoint": checkpoint.name})
    verdict = verdict or ReplayResult("not reproduced", 0.6, calm)
    return CheckResult(NAME, "replayed", {**seen, "cause": verdict.cause}, (finding_from_replay(step, verdict),))
