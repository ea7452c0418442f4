"""Measure complete runs: the time to a loss, and the loss after three minutes of training."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassgpt import api
from glassgpt.config import load_config
from glassgpt.data.shards import TokenDataset
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.training.loss import ValidationLoss
from glassgpt.training.observers import Observer, StepMetrics

FIRST_TOKENS = 393_216
"""Number of validation tokens that the peers evaluate."""
TRIAL_STEPS = 220
"""Steps of the run that is timed to fit the number of steps to a time. The first 20, two of which are audited, are followed
by as many as lie between two later audits."""
MARGIN = 0.01
"""Share of that time that is kept free, because the time of steps varies."""


@dataclass(frozen=True)
class Point:
    """The result of a validation: step, seconds of training without compilation, loss."""

    step: int
    seconds: float
    loss: float


class Clock(Observer):
    """Records the validations of a run with the seconds of training before each.

    The first step compiles, so it is counted as the mean duration of the others.
    """

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._first, self._latest = 0.0, 0.0

    def on_step(self, metrics: StepMetrics) -> None:
        self._first = self._first or metrics.seconds
        self._latest = metrics.seconds

    def on_validation(self, step: int, validation: ValidationLoss, is_best: bool) -> None:
        seconds = (self._latest - self._first) * step / max(1, step - 1)
        self.points.append(Point(step, seconds, validation.loss))

    @property
    def step_ms(self) -> float:
        """Mean duration of a step in milliseconds."""
        return 1e3 * self.points[-1].seconds / self.points[-1].step


def crossing(points: Sequence[Point], loss: float) -> float | None:
    """Return the seconds after which a loss was reached, interpolated linearly between validations, or None."""
    for before, after in zip([None, *points], points, strict=False):
        if after.loss > loss:
            continue
        if before is None:
            return after.seconds
        share = (before.loss - loss) / (before.loss - after.loss)
        return before.seconds + share * (after.seconds - before.seconds)
    return None


def time_to_loss(
    preset: str, overrides: Mapping[str, str], seeds: Sequence[int], loss: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return one row for all seeds, and the details of each run."""
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        given = {
            **overrides,
            "seed": str(seed),
            "train.eval_tokens": str(FIRST_TOKENS),
            "checkpoint.keep_best": "false",
        }
        clock, _ = train_once(preset, given)
        points = [[point.step, round(point.seconds, 2), round(point.loss, 4)] for point in clock.points]
        runs.append({"seed": seed, "seconds": crossing(clock.points, loss), "step_ms": clock.step_ms, "points": points})
        print(json.dumps(runs[-1]), flush=True)
    reached = [run["seconds"] for run in runs if run["seconds"] is not None]
    all_reached = len(reached) == len(runs)
    row: dict[str, Any] = {
        "system": f"glassgpt {preset}",
        "figure": round(statistics.median(reached), 2) if all_reached else None,
        "unit": "s",
        "least_most": [round(min(reached), 2), round(max(reached), 2)] if all_reached else None,
        "final_losses": [run["points"][-1][2] for run in runs],
    }
    return row, runs


def steps_within(seconds: float, points: Sequence[Point]) -> int:
    """Return how many steps take at most some seconds, by a trial run's validations.

    The first steps take longer (two are audited), so the time until the first validation counts once.
    """
    first, last = points[0], points[-1]  # one audit lies between them, as in every later stretch of that length
    step_seconds = (last.seconds - first.seconds) / (last.step - first.step)
    return int(first.step + (seconds * (1 - MARGIN) - first.seconds) / step_seconds)


def three_minutes(
    preset: str, overrides: Mapping[str, str], seeds: Sequence[int], seconds: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return one row for all seeds with the final losses over all validation tokens, and the details of each run.

    Args:
        preset: name of the preset.
        overrides: settings that replace its own.
        seeds: one run each.
        seconds: time that a trial run fits the number of steps to; 0 leaves it as it is.
    """
    given = dict(overrides)
    if seconds:
        validations = {"train.eval_every_steps": str(max(1, TRIAL_STEPS // 11)), "train.eval_tokens": "4096"}
        trial, _ = train_once(preset, {**given, "train.max_steps": str(TRIAL_STEPS), **validations})
        given["train.max_steps"] = str(steps_within(seconds, trial.points))
        print(f"{given['train.max_steps']} steps fit, by a trial of {trial.points[-1]}", flush=True)
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        runs.append(_final_loss(preset, {**given, "seed": str(seed)}))
        print(json.dumps(runs[-1]), flush=True)
    figures = [run["loss"] for run in runs]
    row: dict[str, Any] = {
        "system": f"glassgpt {preset}",
        "figure": round(statistics.median(figures), 4),
        "unit": "nats per token",
        "least_most": [min(figures), max(figures)],
        **{name: runs[0][name] for name in ("tokens", "steps")},
        "first_tokens_figure": round(statistics.median(run["first_tokens_loss"] for run in runs), 4),
        "bits_per_byte": round(statistics.median(run["bits_per_byte"] for run in runs), 4),
        "training_seconds": max(run["training_seconds"] for run in runs),
    }
    return row, runs


def _final_loss(preset: str, overrides: Mapping[str, str]) -> dict[str, Any]:
    """Train once and evaluate the result in float32."""
    with tempfile.TemporaryDirectory() as folder:
        clock, run = train_once(preset, overrides, Path(folder) / "run")
        model = api.load(run).model
        dataset = TokenDataset.open(Path(overrides["data"]))
        full, first = (evaluate_dataset(model, dataset, limit=limit) for limit in (0, FIRST_TOKENS))
    return {
        "seed": int(overrides["seed"]),
        "loss": round(full.loss, 4),
        "first_tokens_loss": round(first.loss, 4),
        "bits_per_byte": round(full.bits_per_byte, 4),
        "tokens": full.tokens,
        "training_seconds": round(clock.points[-1].seconds, 2),
        "steps": clock.points[-1].step,
        "step_ms": round(clock.step_ms, 2),
        "points": [[point.step, round(point.seconds, 2), round(point.loss, 4)] for point in clock.points],
    }


def train_once(preset: str, overrides: Mapping[str, str], out: Path | None = None) -> tuple[Clock, Path]:
    """Train, and return the validations and the run's folder, which is temporary unless `out` is given."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        run = out or Path(folder) / "run"
        api.train(load_config(preset, dict(overrides)), run, observers=(clock,))
    return clock, run
