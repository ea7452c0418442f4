"""Time the parts of audits in a run: whole steps, and each function of an audit with the device synchronized around it."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from glassgpt import api
from glassgpt.config import load_config
from glassgpt.diagnosis.audit import auditor, data, gradients, optimizer, schedule, updates
from glassgpt.diagnosis.audit.reference import ReferenceModel
from glassgpt.diagnosis.layer_probe import LayerProbe
from glassgpt.training.loop import Trainer

TIMED: tuple[tuple[type, str], ...] = (
    (auditor.StepAuditor, "_on_forward"),
    (auditor.StepAuditor, "_on_mark"),
    (auditor.StepAuditor, "before_update"),
    (auditor.StepAuditor, "_sample"),
    (auditor.StepAuditor, "after_update"),
    (ReferenceModel, "__init__"),
    (ReferenceModel, "loss_and_gradients"),
    (data.DataCheck, "before_update"),
    (gradients.StaleGradientsCheck, "before_update"),
    (gradients.GradientCheck, "before_update"),
    (optimizer.OptimizerSettingsCheck, "before_update"),
    (optimizer.OptimizerStateCheck, "before_update"),
    (schedule.ScheduleCheck, "before_update"),
    (updates.UpdateCheck, "after_update"),
    (updates.ContinuityCheck, "compare"),
    (LayerProbe, "before_update"),
    (LayerProbe, "after_update"),
)
"""Functions that are timed; a time includes that of the functions that it calls, and of the forward pass in `_on_forward`."""
SHORT = 1e-3
"""Seconds below which a call is not listed."""


def time_audits(preset: str, overrides: Mapping[str, str]) -> dict[str, Any]:
    """Train, and return seconds of each step, of the parts of audits, and memory that was requested from the driver."""
    steps: list[dict[str, Any]] = []
    parts: dict[int, dict[str, float]] = defaultdict(dict)
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for owner, name in TIMED:
            if name in vars(owner):
                stack.enter_context(patch.object(owner, name, _timed(owner, name, parts, steps)))
        stack.enter_context(patch.object(Trainer, "_take_step", _timed_step(steps)))
        api.train(load_config(preset, dict(overrides)), Path(folder) / "run")
    for step in steps:
        print(step, {name: round(seconds, 3) for name, seconds in parts[step["step"]].items()}, flush=True)
    return {"steps": steps, "parts": {step: each for step, each in parts.items() if each}}


def _timed(
    owner: type, name: str, parts: dict[int, dict[str, float]], steps: list[dict[str, Any]]
) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(owner, name)

    @wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        # Only in the steps of audits and samples: waiting for the device would slow the others.
        is_audited = len(steps) + 1 in (2, 10, 100)
        start = _now() if is_audited else 0.0
        try:
            return function(*arguments, **named)
        finally:
            if is_audited and (seconds := _now() - start) > SHORT:
                own, key = parts[len(steps) + 1], f"{owner.__name__}.{name}"
                own[key] = own.get(key, 0.0) + seconds

    return timed


def _timed_step(steps: list[dict[str, Any]]) -> Callable[[Trainer], bool]:
    take_step = Trainer._take_step

    def timed(trainer: Trainer) -> bool:
        start, allocations = time.perf_counter(), _allocations()
        done = take_step(trainer)
        seconds = time.perf_counter() - start
        row = {"step": len(steps) + 1, "seconds": round(seconds, 4), "cuda_mallocs": _allocations() - allocations}
        steps.append(
            {**row, "reserved_gb": round(torch.cuda.memory_reserved() / 1e9, 1) if torch.cuda.is_available() else 0}
        )
        return done

    return timed


def _allocations() -> int:
    return torch.cuda.memory_stats().get("num_device_alloc", 0) if torch.cuda.is_available() else 0


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
