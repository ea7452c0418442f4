"""A loss that stopped falling: at an n-gram baseline (GG-LAD-001 to 003), or elsewhere (GG-PLT-001)."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glassgpt.diagnosis.detectors.base import Detector, RunContext
from glassgpt.diagnosis.findings import Finding, Severity
from glassgpt.diagnosis.ngram_baseline import NEAR_NATS, BaselineName, NGramBaseline
from glassgpt.diagnosis.series import Slope, Validation, robust, slope
from glassgpt.training.observers import StepMetrics

HIGH_RATE = 0.5
"""Share of the peak learning rate below which the schedule explains a loss that no longer falls."""
MIN_STALL_POINTS = 50
STALL_NATS = 0.1
"""A loss that fell by less over the second half of the steps at a high rate has stalled."""
PLATEAU_STEPS, PLATEAU_SHARE = 500, 0.05
"""A plateau is this many steps and this share of the run; shorter level stretches occur in every run."""


@dataclass(frozen=True)
class Stall:
    """A loss that reached a baseline and stayed there.

    Attributes:
        baseline: which one.
        loss: median at the end, in nats.
        points: how many points of the series it stayed.
    """

    baseline: BaselineName
    loss: float
    points: int


@dataclass(frozen=True)
class Plateau:
    """A range of steps in which the loss did not fall although the learning rate was high.

    Attributes:
        first: its first step.
        last: its last step.
        loss: median over it, in nats.
        slope: of the loss over it.
    """

    first: int
    last: int
    loss: float
    slope: Slope


class StagnationDetector(Detector):
    """Checks every 100 steps that the loss still falls.

    A loss at a baseline is more specific than a plateau, so that is checked first. The best validation must be at that
    baseline too, because dropout makes the training loss look worse than the model is. A run that ends above the
    unigram baseline has learned nothing useful, even if its loss was still falling; but loaded weights that are worse
    than a uniform guess on a new text have learned if the loss fell by `LEARNED_NATS`.
    """

    codes = ("GG-LAD-001", "GG-LAD-002", "GG-LAD-003", "GG-PLT-001")
    CODES: Mapping[BaselineName, tuple[str, Severity]] = {
        "uniform": ("GG-LAD-001", "fatal"),  # the result means nothing
        "unigram": ("GG-LAD-002", "warning"),
        "bigram": ("GG-LAD-003", "note"),  # some texts allow no more
    }
    CHECK_EVERY = 100
    MIN_STEPS, MIN_SHARE = 200, 0.1
    """Steps after warmup, and share of the run, before the first check: every run begins at ln V."""
    ABOVE_BIGRAM_NATS = 0.05
    """A plateau below this distance above the bigram baseline may be all that the text allows."""
    LAST_STEPS = 50
    """Steps whose median is the final loss of a run."""
    MIN_FINISHED_STEPS = 100
    """A shorter run is a trial; that it ends high means nothing."""
    FOREIGN_NATS, LEARNED_NATS = 1.0, 0.5
    """Loaded weights meet a foreign text if their loss begins this far above a uniform guess, where no untrained model
    begins; they are learning if it has fallen by the second number."""
    MAX_POINTS = 1000
    """Points of the series that are kept, each a mean over equally many steps, so that state stays small."""
    STALL_CONFIDENCE, PLATEAU_CONFIDENCE = 0.8, 0.7

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._width = max(1, math.ceil(context.max_steps / self.MAX_POINTS))
        self._points: list[tuple[int, float, float]] = []  # last step, mean loss, learning rate
        self._pending: list[float] = []
        self._recent: deque[float] = deque(maxlen=self.LAST_STEPS)
        self._best_validation = math.inf

    def on_step(self, metrics: StepMetrics) -> Finding | None:
        """Return a finding at every hundredth step and at the last, if the loss has stagnated."""
        self._recent.append(metrics.loss)
        self._pending.append(metrics.loss)
        if len(self._pending) == self._width:
            self._points.append((metrics.step, round(statistics.fmean(self._pending), 6), metrics.learning_rate))
            self._pending.clear()
        is_last = metrics.step >= self._context.max_steps >= self.MIN_FINISHED_STEPS
        return (self._stagnation(metrics) if self._is_due(metrics.step) else None) or (
            self._ended_too_high(metrics) if is_last else None
        )

    def _is_due(self, step: int) -> bool:
        context = self._context
        first = context.warmup_steps + max(self.MIN_STEPS, self.MIN_SHARE * context.max_steps)
        return step % self.CHECK_EVERY == 0 and step >= first

    def on_validation(self, validation: Validation) -> Finding | None:
        """Keep the best validation."""
        if validation.is_finite:
            self._best_validation = min(self._best_validation, validation.loss)

    def _stagnation(self, metrics: StepMetrics) -> Finding | None:
        steps, losses, rates = zip(*self._points, strict=True)
        baseline, warmup_steps = self._context.baseline(), self._context.warmup_steps
        stall = find_stall(steps, losses, rates, baseline, warmup_steps=warmup_steps)
        if stall is not None:
            return self._at_baseline(stall.baseline, stall.loss, stall.points * self._width, metrics)
        plateau = find_plateau(
            steps,
            losses,
            rates,
            max_steps=self._context.max_steps,
            warmup_steps=warmup_steps,
            epoch_steps=self._context.epoch_steps,
            steps_per_point=self._width,
        )
        if plateau is None or plateau.loss <= baseline.bigram + self.ABOVE_BIGRAM_NATS:
            return None
        evidence = {
            "slope": 1000 * plateau.slope.value,
            "low": 1000 * plateau.slope.low,
            "high": 1000 * plateau.slope.high,
            "loss": plateau.loss,
            "steps": plateau.last - plateau.first + self._width,
        }
        return Finding("GG-PLT-001", "note", evidence, self.PLATEAU_CONFIDENCE)

    def _ended_too_high(self, metrics: StepMetrics) -> Finding | None:
        final_loss = robust(list(self._recent)).median
        baseline = self._context.baseline()
        first_loss = robust([loss for _, loss, _ in self._points[: self.LAST_STEPS]] or [final_loss]).median
        if first_loss > baseline.uniform + self.FOREIGN_NATS and first_loss - final_loss > self.LEARNED_NATS:
            return None
        level = baseline.level(final_loss)
        if level not in ("uniform", "unigram"):
            return None
        return self._at_baseline(level, final_loss, metrics.step, metrics)

    def _at_baseline(self, name: BaselineName, loss: float, steps: int, metrics: StepMetrics) -> Finding | None:
        baseline = self._context.baseline()
        if baseline.level(min(loss, self._best_validation)) != name:
            return None
        code, severity = self.CODES[name]
        evidence = {
            "loss": loss,
            "rung": baseline.value(name),
            "steps": steps,
            "step": metrics.step,
            "rate": metrics.learning_rate,
        }
        return Finding(code, severity, evidence, self.STALL_CONFIDENCE, self._beaten(loss))

    def _beaten(self, loss: float) -> tuple[str, ...]:
        """Codes of the baselines that lie clearly above the loss; closer ones cannot be ruled out."""
        baseline = self._context.baseline()
        return tuple(code for name, (code, _) in self.CODES.items() if baseline.value(name) - loss > NEAR_NATS)

    def forget_after(self, step: int) -> None:
        """See `Detector`."""
        self._points = [point for point in self._points if point[0] <= step]
        self._pending.clear()
        self._recent.clear()

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        best = self._best_validation if math.isfinite(self._best_validation) else None  # JSON has no infinity
        return {
            "steps_per_point": self._width,
            "points": self._points,
            "pending": self._pending,
            "recent": list(self._recent),
            "best_validation": best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Detector`."""
        self._width = state["steps_per_point"]
        self._points = [(step, loss, rate) for step, loss, rate in state["points"]]
        self._pending = list(state["pending"])
        self._recent = deque(state["recent"], maxlen=self.LAST_STEPS)
        self._best_validation = math.inf if state["best_validation"] is None else state["best_validation"]


def find_stall(
    steps: Sequence[int], losses: Sequence[float], rates: Sequence[float], baseline: NGramBaseline, *, warmup_steps: int
) -> Stall | None:
    """Return the baseline of the loss, if it hardly moved over the second half of the steps at a high learning rate.

    A run that only passes a baseline on its way down has not stalled. Fewer than 100 points are not judged.

    Args:
        steps: step of each point.
        losses: training loss of each point, in nats.
        rates: learning rate of each point.
        baseline: of the run's data.
        warmup_steps: steps of learning-rate warmup.
    """
    chosen = high_rate_points(steps, rates, warmup_steps)
    half = chosen[len(chosen) // 2 :]
    if len(half) < MIN_STALL_POINTS:
        return None
    quarter = max(10, len(half) // 4)
    first, last = (robust([losses[i] for i in part]).median for part in (half[:quarter], half[-quarter:]))
    name = baseline.level(last)
    return Stall(name, last, len(half)) if name and first - last < STALL_NATS else None


def find_plateau(
    steps: Sequence[int],
    losses: Sequence[float],
    rates: Sequence[float],
    *,
    max_steps: int,
    warmup_steps: int,
    epoch_steps: float = math.inf,
    steps_per_point: int = 1,
) -> Plateau | None:
    """Return the last range of steps at a high learning rate, if the loss no longer fell in it.

    What the schedule explains is left out: the warmup, and steps whose rate is below half of the peak. The stretch
    covers at least a whole epoch where the text is read several times, because the loss drops at the start of each.
    Too short a run is not judged.

    Args:
        steps: step of each point.
        losses: training loss of each point, in nats.
        rates: learning rate of each point.
        max_steps: planned length of the run.
        warmup_steps: steps of learning-rate warmup.
        epoch_steps: steps that read the text once.
        steps_per_point: steps that a point is the mean of.
    """
    chosen = high_rate_points(steps, rates, warmup_steps)
    length = max(PLATEAU_STEPS, PLATEAU_SHARE * max_steps, epoch_steps if epoch_steps < max_steps / 2 else 0)
    n_points = math.ceil(length / steps_per_point)
    window = chosen[-n_points:]
    if len(window) < n_points:
        return None
    x, y = [steps[i] for i in window], [losses[i] for i in window]
    found = slope(x, y)
    return Plateau(x[0], x[-1], robust(y).median, found) if found.is_flat else None


def high_rate_points(steps: Sequence[int], rates: Sequence[float], warmup_steps: int) -> list[int]:
    """Return the indices of points after warmup whose learning rate is at least half of the highest."""
    peak = max(rates, default=0.0)
    return [i for i, step in enumerate(steps) if step > warmup_steps and rates[i] >= HIGH_RATE * peak]
