"""Detectors of two other projects, applied to the same losses and gradient norms.

Reimplemented from their formulas and defaults: Lightning (pytorch-lightning, commit 7f0c343) and OLMo-core
(commit fa6c501). Neither names a cause.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

LIGHTNING, OLMO_CORE = "Lightning 7f0c343", "OLMo-core fa6c501"


@dataclass
class Series:
    """Metrics of a run's steps, in the order in which it trained them, including skipped ones.

    Attributes:
        losses: training loss of each step, nats.
        norms: gradient norm of each step, before clipping.
        steps: the number of each; it repeats after a rollback.
        validations: step and loss of each validation.
    """

    losses: list[float] = field(default_factory=list[float])
    norms: list[float] = field(default_factory=list[float])
    steps: list[int] = field(default_factory=list[int])
    validations: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])


@dataclass(frozen=True)
class Alarm:
    """The first alarm of another project.

    Attributes:
        by: name of the detector.
        step: the step.
    """

    by: str
    step: int


def lightning(series: Series) -> Alarm | None:
    """Return the first alarm of Lightning: a non-finite loss, a spike, patience, an anomaly.

    `EarlyStopping(check_finite=True)` on the training loss of each step and, with its patience of 3, on the validation
    loss; `SpikeDetection` (window 10, warmup 1, relative tolerance 2); `detect_anomaly`, which raises on a NaN in the
    backward pass, taken as a gradient norm that is NaN.
    """
    found = [
        *_first("EarlyStopping.check_finite", series, [not math.isfinite(loss) for loss in series.losses]),
        *_first("SpikeDetection", series, lightning_spikes(series.losses)),
        *_first("detect_anomaly", series, [math.isnan(norm) for norm in series.norms]),
        *_patience(series.validations),
    ]
    return min(found, key=lambda alarm: alarm.step, default=None)


def lightning_spikes(losses: Sequence[float], *, window: int = 10, rtol: float = 2.0) -> list[bool]:
    """Return for each loss whether it is above the previous one and differs from the mean of the last ten by twice that mean.

    The first loss is not judged, and a spike does not enter the mean.
    """
    kept: deque[float] = deque(maxlen=window)
    last, found = 0.0, list[bool]()
    for n, loss in enumerate(losses):
        mean = sum(kept) / len(kept) if kept else math.nan
        worse = loss - last > 0
        spike = n >= 1 and (not math.isfinite(loss) or (worse and abs(loss - mean) >= abs(rtol * mean)))
        found.append(spike)
        if not spike:
            kept.append(loss)
            last = loss
    return found


def _patience(validations: Sequence[tuple[int, float]], patience: int = 3) -> list[Alarm]:
    """Return where the validation loss is not finite, or was not below its best three times in a row."""
    best, waited = math.inf, 0
    for step, loss in validations:
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if waited >= patience or not math.isfinite(loss):
            return [Alarm("EarlyStopping.patience", step)]
    return []


def olmo_core(series: Series) -> Alarm | None:
    """Return the first alarm of OLMo-core: its stability monitor, or its trainer's check for a non-finite loss."""
    found = [
        *_first("StabilityMonitor", series, olmo_spikes(series.losses)),
        *_first("StabilityMonitor", series, olmo_spikes(series.norms)),
        *_first("Trainer", series, [not math.isfinite(loss) for loss in series.losses]),
    ]
    return min(found, key=lambda alarm: alarm.step, default=None)


def olmo_spikes(values: Sequence[float], *, window: int = 128, sigmas: float = 6.0) -> list[bool]:
    """Return for each value whether it exceeds mean + 6 standard deviations of the 128 before it; all enter the window.

    A NaN is not a spike, and while it is in the window nothing else is one either.
    """
    found = list[bool]()
    for n, value in enumerate(values):
        before = values[max(0, n - window) : n]
        if len(before) < window:
            found.append(False)
            continue
        mean = sum(before) / window
        std = math.sqrt(sum((x - mean) ** 2 for x in before) / window) if math.isfinite(mean) else math.nan
        found.append(std >= 1e-10 and value > mean + sigmas * std)
    return found


def _first(by: str, series: Series, alarms: Sequence[bool]) -> list[Alarm]:
    return [Alarm(by, step) for step, alarm in zip(series.steps, alarms, strict=True) if alarm][:1]
