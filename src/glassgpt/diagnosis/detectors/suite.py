"""All detectors of a run, fed by the live run or from its files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from glassgpt.diagnosis.detectors.base import Detector, RunContext
from glassgpt.diagnosis.detectors.clipping import ClippingDetector
from glassgpt.diagnosis.detectors.divergence import DivergenceDetector
from glassgpt.diagnosis.detectors.layers import (
    AttentionEntropyDetector,
    AttentionScoreDetector,
    ClippedActivationsDetector,
    DeadUnitsDetector,
    EpsilonDetector,
    GradientFlowDetector,
    LogitDriftDetector,
    ResidualGrowthDetector,
    StaleMomentsDetector,
    UpdateSizeDetector,
)
from glassgpt.diagnosis.detectors.loss_scale import LossScaleDetector
from glassgpt.diagnosis.detectors.loss_spike import LossSpikeDetector
from glassgpt.diagnosis.detectors.overfitting import OverfittingDetector
from glassgpt.diagnosis.detectors.process import (
    MemoryFragmentationDetector,
    MemoryGrowthDetector,
    RecompilationDetector,
)
from glassgpt.diagnosis.detectors.speed import DataWaitDetector, SlowdownDetector
from glassgpt.diagnosis.detectors.stagnation import StagnationDetector
from glassgpt.diagnosis.detectors.validation_gap import UnrelatedValidationDetector
from glassgpt.diagnosis.findings import Finding
from glassgpt.diagnosis.layer_sample import LayerSample
from glassgpt.diagnosis.series import Validation
from glassgpt.training.observers import StepMetrics

DETECTOR_CLASSES: tuple[type[Detector], ...] = (
    LossScaleDetector,
    LossSpikeDetector,
    DivergenceDetector,
    ClippingDetector,
    StagnationDetector,
    UnrelatedValidationDetector,
    OverfittingDetector,
    DataWaitDetector,
    SlowdownDetector,
    GradientFlowDetector,
    UpdateSizeDetector,
    EpsilonDetector,
    StaleMomentsDetector,
    AttentionEntropyDetector,
    AttentionScoreDetector,
    DeadUnitsDetector,
    ClippedActivationsDetector,
    ResidualGrowthDetector,
    LogitDriftDetector,
    MemoryGrowthDetector,
    MemoryFragmentationDetector,
    RecompilationDetector,
)
DETECTOR_CODES = frozenset(code for detector in DETECTOR_CLASSES for code in detector.codes)
"""Every code that a detector can report; all other codes come from checks and replays."""


class DetectorSet:
    """Runs all detectors and reports each code once.

    Args:
        context: the run.
        live: whether this is the training process itself, which also knows its memory, CPU time and compilations. In a
            run's files these appear only as findings of the live run.
        withheld: codes that the caller reports itself.

    Attributes:
        loss_spikes: the detector of spikes.
        divergence: the detector of divergence.
        clipping: the detector of clipping.
    """

    def __init__(self, context: RunContext, *, live: bool, withheld: Iterable[str] = ()) -> None:
        self.loss_spikes = LossSpikeDetector()
        self.divergence = DivergenceDetector()
        self.clipping = ClippingDetector(context)
        self._reported: set[str] = set()
        self._withheld = frozenset(withheld)
        # They compare the loss with that of n-gram models, which know no preferences.
        of_text = (
            []
            if context.config.preference.data
            else [StagnationDetector(context), UnrelatedValidationDetector(context)]
        )
        self._detectors: list[Detector] = [
            LossScaleDetector(),
            self.loss_spikes,
            self.divergence,
            self.clipping,
            *of_text,
            OverfittingDetector(),
            DataWaitDetector(),
            GradientFlowDetector(),
            UpdateSizeDetector(context),
            EpsilonDetector(),
            StaleMomentsDetector(context),
            AttentionEntropyDetector(context),
            AttentionScoreDetector(context),
            DeadUnitsDetector(context),
            ClippedActivationsDetector(context),
            ResidualGrowthDetector(context),
            LogitDriftDetector(context),
        ]
        if live:
            self._detectors += [MemoryGrowthDetector(), MemoryFragmentationDetector(), RecompilationDetector()]
        if live or not context.on_cpu:
            self._detectors.append(SlowdownDetector(time.process_time if context.on_cpu else None))

    def on_step(self, metrics: StepMetrics) -> list[Finding]:
        """Process a step and return new findings.

        A loss that is not finite is left out: it would blind every window, and it is a separate finding.
        """
        if not math.isfinite(metrics.loss):
            return []
        fed = (detector for detector in self._detectors if detector.sees_skipped_steps or not metrics.skipped)
        return list(self._new(detector.on_step(metrics) for detector in fed))

    def on_validation(self, validation: Validation) -> list[Finding]:
        """Process a validation and return new findings."""
        return list(self._new(detector.on_validation(validation) for detector in self._detectors))

    def on_layers(self, sample: LayerSample) -> list[Finding]:
        """Process a layer sample and return new findings."""
        return list(self._new(detector.on_layers(sample) for detector in self._detectors))

    def _new(self, found: Iterable[Finding | None]) -> Iterator[Finding]:
        for finding in found:
            if finding is not None and finding.code not in self._reported | self._withheld:
                self._reported.add(finding.code)
                yield finding

    def forget_after(self, step: int) -> None:
        """Drop data of later steps, because training was rolled back to `step`."""
        for detector in self._detectors:
            detector.forget_after(step)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as JSON."""
        states = {_key(detector): state for detector in self._detectors if (state := detector.state_dict())}
        return {"reported": sorted(self._reported), "detectors": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; a detector that it does not contain starts fresh."""
        self._reported = set(state["reported"])
        for detector in self._detectors:
            if _key(detector) in state["detectors"]:
                detector.load_state_dict(state["detectors"][_key(detector)])


def _key(detector: Detector) -> str:
    """Return the key of a detector in saved state: its first code, which never changes."""
    return detector.codes[0]


def run_detectors(
    detectors: DetectorSet,
    steps: Iterable[StepMetrics],
    validations: Iterable[Validation],
    samples: Iterable[LayerSample],
) -> list[tuple[int, Finding]]:
    """Run detectors on a complete run, in the order of a live run.

    Returns:
        Each finding with the step at which it was found.
    """
    calls: list[tuple[int, int, Callable[[], list[Finding]]]] = [
        *((sample.step, 0, lambda sample=sample: detectors.on_layers(sample)) for sample in samples),
        *((metrics.step, 1, lambda metrics=metrics: detectors.on_step(metrics)) for metrics in steps),
        *((one.step, 2, lambda one=one: detectors.on_validation(one)) for one in validations),
    ]
    calls.sort(key=lambda call: call[:2])
    return [(step, finding) for step, _, call in calls for finding in call()]
