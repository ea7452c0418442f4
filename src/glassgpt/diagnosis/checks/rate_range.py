"""The learning-rate range test (Smith 2017): raise the rate step by step until the loss stops falling."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from glassgpt.diagnosis.findings import CheckResult, Finding
from glassgpt.training.batch_loader import PrefetchingLoader, build_batch_loader
from glassgpt.training.curve import smooth
from glassgpt.training.hardware import Hardware
from glassgpt.training.rng import capture_rng, restore_rng
from glassgpt.training.step import TrainStep

Progress = Callable[[int], AbstractContextManager[Callable[[], None]]]
"""Opened with the number of steps, yields a function to call after each step."""
LOWEST, HIGHEST = 1e-7, 1.0
STEPS = 120
MIN_STEPS = 40
SECONDS = 120.0
SMOOTHING = 0.8
DIVERGED = 1.3
"""Multiple of the lowest smoothed loss at which the test stops."""


@dataclass(frozen=True)
class RateRange:
    """The result of a range test.

    Attributes:
        rates: learning rates tried, in ascending order.
        losses: nats per token in the step at each rate, before its update.
        smoothed: exponential average of the losses.
        limit: learning rate at the lowest smoothed loss.
        suggested: a tenth of the limit.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    limit: float
    suggested: float


@contextmanager
def preserved(train_step: TrainStep) -> Generator[None]:
    """Undo all training in this context at its end, bit for bit.

    Restores weights, gradients, optimizer states, averaged weights, the gradient scaler, the position in the data and
    every random generator.
    """
    model = train_step.model
    weights = copy.deepcopy(model.state_dict())
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    optimizers = [copy.deepcopy(optimizer.state_dict()) for optimizer in train_step.optimizers]
    average = {name: t.clone() for name, t in train_step.average.named().items()} if train_step.average else {}
    scaler, position, rng = copy.deepcopy(train_step.scaler.state_dict()), train_step.batches.position, capture_rng()
    was_training = model.training
    try:
        yield
    finally:
        model.load_state_dict(weights)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        for optimizer, state in zip(train_step.optimizers, optimizers, strict=True):
            optimizer.load_state_dict(state)
        if train_step.average:
            for name, tensor in train_step.average.named().items():
                tensor.copy_(average[name])
        if scaler:
            train_step.scaler.load_state_dict(scaler)
        train_step.batches.seek(position)
        if isinstance(train_step.loader, PrefetchingLoader):  # it has prefetched batches of another position
            device = next(model.parameters()).device
            train_step.loader.close()
            train_step.loader = build_batch_loader(train_step.batches, device)
        model.train(was_training)
        restore_rng(rng)


@contextmanager
def no_progress(steps: int) -> Generator[Callable[[], None]]:
    """Report no progress."""
    yield lambda: None


def find_rate_range(
    train_step: TrainStep,
    hardware: Hardware,
    *,
    steps: int = STEPS,
    seconds: float = SECONDS,
    progress: Progress = no_progress,
) -> RateRange:
    """Train one step at each of a series of rates from 1e-7 to 1 in equal ratios, then restore all state.

    Args:
        train_step: fresh or in the middle of training.
        hardware: it trains on.
        steps: number of rates; fewer are tried if steps are slow.
        seconds: time limit.
        progress: reports each step.
    """
    losses: list[float] = []
    with preserved(train_step), hardware.kernels():
        train_step.model.train()
        rates = _rates(min(steps, max(MIN_STEPS, _affordable_steps(train_step, seconds))))
        with progress(len(rates)) as advance:
            for rate in rates:
                losses.append(_step(train_step, rate))
                advance()
                if not math.isfinite(losses[-1]) or _has_diverged(losses):
                    break
    losses = [loss for loss in losses if math.isfinite(loss)]
    smoothed = smooth(losses, SMOOTHING)
    limit = rates[min(range(len(smoothed)), key=smoothed.__getitem__)]
    return RateRange(rates[: len(losses)], losses, smoothed, limit, limit / 10)


def _affordable_steps(train_step: TrainStep, seconds: float) -> int:
    _step(train_step, LOWEST)  # the first step may compile the model
    start = time.monotonic()
    _step(train_step, LOWEST)
    return int(seconds / max(1e-9, time.monotonic() - start))


def _rates(count: int) -> list[float]:
    ratio = (HIGHEST / LOWEST) ** (1 / (count - 1))
    return [LOWEST * ratio**i for i in range(count)]


def _step(train_step: TrainStep, rate: float) -> float:
    return train_step.run_and_wait(1, rate).loss


def _has_diverged(losses: list[float]) -> bool:
    smoothed = smooth(losses, SMOOTHING)
    return smoothed[-1] > DIVERGED * min(smoothed)


def check_rate_range(
    train_step: TrainStep,
    hardware: Hardware,
    learning_rate: float,
    picture: Path | None,
    progress: Progress = no_progress,
) -> CheckResult:
    """Compare the configured learning rate with the one at which the loss stops falling.

    Args:
        train_step: the training to test; its state is restored.
        hardware: it trains on.
        learning_rate: the configured one.
        picture: file for a plot of the loss, or None for no plot.
        progress: reports each step.
    """
    found = find_rate_range(train_step, hardware, progress=progress)
    if picture is not None:
        draw_rate_range(found, learning_rate, picture)
    values = {"rate": learning_rate, "limit": found.limit, "suggested": f"{found.suggested:.1g}"}
    findings = (Finding("GG-LRT-001", "warning", values, confidence=0.7),) if learning_rate > found.limit else ()
    measured = {"limit": found.limit, "suggested": found.suggested, "rate": learning_rate, "picture": str(picture)}
    return CheckResult("learning-rate range", "plotted" if picture else "found", measured, findings)


def draw_rate_range(found: RateRange, learning_rate: float, picture: Path) -> None:
    """Plot the loss over the learning rate; mark the limit, the suggested and the configured rate."""
    from matplotlib.figure import Figure  # imported only when a picture is drawn

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, color="#0072B2", alpha=0.3)
    axes.plot(found.rates, found.smoothed, color="#0072B2", label="loss (smoothed)")
    for rate, color, label in (
        (found.suggested, "#009E73", "suggested"),
        (learning_rate, "#D55E00", "configured"),
        (found.limit, "#666666", "lowest loss"),
    ):
        axes.axvline(rate, color=color, linestyle="--", label=f"{label}: {rate:.1g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=110)
