"""The learning-rate range test (Smith 2017): let the rate rise step by step, and see where the loss stops falling."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from glassgpt import console
from glassgpt.diagnosis.findings import CheckResult, Finding
from glassgpt.training.batch_loader import PrefetchingLoader, build_batch_loader
from glassgpt.training.curve import smooth
from glassgpt.training.hardware import Hardware
from glassgpt.training.rng import capture_rng, restore_rng
from glassgpt.training.step import TrainStep

LOWEST, HIGHEST = 1e-7, 1.0
STEPS = 120
LEAST_STEPS = 40
SECONDS = 120.0
SMOOTHING = 0.8
DIVERGED = 1.3
"""Times the lowest smoothed loss, from which on there is nothing more to learn."""


@dataclass(frozen=True)
class RateRange:
    """What a range test showed.

    Attributes:
        rates: tried, in rising order.
        losses: of the step before each update, in nats.
        smoothed: the same, averaged.
        limit: the rate at the lowest smoothed loss.
        suggested: a tenth of that.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    limit: float
    suggested: float


@contextmanager
def preserved(train_step: TrainStep) -> Generator[None]:
    """Whatever is trained in this context is undone at its end, to the last bit.

    Weights, gradients, optimizers, their average, the scaler, the position in the data and every random generator.
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
        if isinstance(train_step.loader, PrefetchingLoader):  # what it has read ahead belongs to another position
            device = next(model.parameters()).device
            train_step.loader.close()
            train_step.loader = build_batch_loader(train_step.batches, device)
        model.train(was_training)
        restore_rng(rng)


def find_rate_range(
    train_step: TrainStep, hardware: Hardware, *, steps: int = STEPS, seconds: float = SECONDS
) -> RateRange:
    """Try rates from 1e-7 to 1 in equal ratios, a step each, and put everything back as it was.

    Args:
        train_step: fresh or in the middle of training.
        hardware: where it trains.
        steps: rates between the two ends; fewer where a step takes so long that time would not be enough.
        seconds: how long it may take.
    """
    losses: list[float] = []
    with (
        preserved(train_step),
        hardware.kernels(),
        console.progress("trying learning rates", steps, unit="steps") as meter,
    ):
        train_step.model.train()
        _step(train_step, LOWEST)  # compiles, where that is asked
        start = time.monotonic()
        _step(train_step, LOWEST)
        affordable = int(seconds / max(1e-9, time.monotonic() - start))
        steps = max(min(LEAST_STEPS, steps), min(steps, affordable))
        ratio = (HIGHEST / LOWEST) ** (1 / (steps - 1))
        rates = [LOWEST * ratio**i for i in range(steps)]
        for rate in rates:
            losses.append(_step(train_step, rate))
            meter.advance(1)
            if not math.isfinite(losses[-1]) or _has_diverged(losses):
                break
    losses = [loss for loss in losses if math.isfinite(loss)]
    smoothed = smooth(losses, SMOOTHING)
    limit = rates[min(range(len(smoothed)), key=smoothed.__getitem__)]
    return RateRange(rates[: len(losses)], losses, smoothed, limit, limit / 10)


def _step(train_step: TrainStep, rate: float) -> float:
    return train_step.run_and_wait(1, rate).loss


def _has_diverged(losses: list[float]) -> bool:
    smoothed = smooth(losses, SMOOTHING)
    return smoothed[-1] > DIVERGED * min(smoothed)


def check_rate_range(
    train_step: TrainStep, hardware: Hardware, learning_rate: float, picture: Path | None
) -> CheckResult:
    """The configured rate against the one from which the loss no longer falls.

    Args:
        train_step: what is to be trained; it is left as it was.
        hardware: where it trains.
        learning_rate: the configured one.
        picture: where to draw the curve.
    """
    found = find_rate_range(train_step, hardware)
    if picture is not None:
        draw_rate_range(found, learning_rate, picture)
    seen = {"rate": learning_rate, "limit": found.limit, "suggested": f"{found.suggested:.1g}"}
    findings = (Finding("GG-LRT-001", "warning", seen, confidence=0.7),) if learning_rate > found.limit else ()
    measured = {"limit": found.limit, "suggested": found.suggested, "rate": learning_rate, "picture": str(picture)}
    return CheckResult("learning-rate range", "plotted" if picture else "found", measured, findings)


def draw_rate_range(found: RateRange, learning_rate: float, picture: Path) -> None:
    """Draw loss over rate, with the limit, the suggestion and the configured rate marked."""
    from matplotlib.figure import Figure  # imported only when a picture is drawn

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, color="#0072B2", alpha=0.3)
    axes.plot(found.rates, found.smoothed, color="#0072B2", label="loss (smoothed)")
    for rate, colour, label in (
        (found.suggested, "#009E73", "suggested"),
        (learning_rate, "#D55E00", "configured"),
        (found.limit, "#666666", "lowest loss"),
    ):
        axes.axvline(rate, color=colour, linestyle="--", label=f"{label}: {rate:.1g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=110)
