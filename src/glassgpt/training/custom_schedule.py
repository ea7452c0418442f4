"""The learning rate of a configuration: one of our schedules, or the user's own, named by `schedule.function`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

from glassgpt import plugin
from glassgpt.training.config import ScheduleConfig
from glassgpt.training.schedule import learning_rate_ratio

PARAMETERS = ("step", "max_steps", "warmup_steps", "final_ratio")
"""Arguments of the function, by position."""


def configured_ratio(schedule: ScheduleConfig, step: int, max_steps: int) -> float:
    """Return the learning rate after `step` steps as a share of its peak; see `learning_rate_ratio`.

    Raises:
        PluginError: the user's own schedule cannot be used, or returns no rate.
        PluginFailedError: it fails.
    """
    if not schedule.function:
        return learning_rate_ratio(schedule, step, max_steps)
    function = _function(schedule.function)
    try:
        ratio = function(step, max_steps, schedule.warmup_steps, schedule.final_ratio)
    except (Exception, SystemExit) as error:
        raise plugin.failed(schedule.function, error) from error
    try:
        value = float(ratio)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise plugin.PluginError(
            f"{schedule.function} returned {ratio!r} for step {step}; it must return the learning rate over its peak, "
            "a number of at least 0"
        )
    return value


@cache
def _function(spec: str) -> Callable[..., Any]:
    return plugin.load_function(spec, PARAMETERS)
