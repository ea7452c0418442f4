"""The learning rate schedule: a pure function of the step, so that resuming needs no state."""

from __future__ import annotations

import math

from glassgpt.training.config import ScheduleConfig


def learning_rate_ratio(schedule: ScheduleConfig, step: int, max_steps: int) -> float:
    """Return the learning rate after `step` steps as a share of its peak, in [0, 1].

    Warmup ends at 1; the decay after it reaches `final_ratio` at the last step.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    decay_steps = max_steps - schedule.warmup_steps
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "step":
        return schedule.step_factor ** ((step - schedule.warmup_steps) // schedule.step_every)
    if schedule.kind == "wsd":
        decay_steps = min(decay_steps, round(schedule.decay_fraction * max_steps))
    remaining = max_steps - 1 - step
    progress = 1.0 - min(1.0, max(0.0, remaining / max(1, decay_steps - 1)))
    if schedule.kind == "cosine":
        progress = 0.5 * (1.0 - math.cos(math.pi * progress))
    return 1.0 - (1.0 - schedule.final_ratio) * progress
