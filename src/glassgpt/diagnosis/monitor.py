"""The live monitor of a run: passes its metrics to the detectors and reports their findings.

Findings go to the trainer's observers, which print or log them. A healthy run has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from glassgpt.data.files import regular_only
from glassgpt.diagnosis.audit.auditor import StepAuditor
from glassgpt.diagnosis.checks.data import dataset_baseline
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.detectors.base import RunContext
from glassgpt.diagnosis.detectors.suite import DetectorSet
from glassgpt.diagnosis.findings import EVENT, Finding, Severity, Value
from glassgpt.diagnosis.layer_probe import LayerProbe
from glassgpt.diagnosis.layer_sample import LayerSample
from glassgpt.diagnosis.replay import Cause, ReplayResult
from glassgpt.diagnosis.series import Validation
from glassgpt.errors import CheckpointError
from glassgpt.training.loop import Trainer
from glassgpt.training.loss import ValidationLoss
from glassgpt.training.observers import Observer, StepMetrics

SAMPLES_PER_AUDIT = 2
"""Layer samples to one audit, which costs about as much as a step: with the usual interval half a percent."""
CAUSE_CODES: dict[Cause, str] = {
    "data": "GG-NAN-011",
    "precision": "GG-NAN-012",
    "weights": "GG-NAN-013",
    "learning rate": "GG-NAN-014",
    "kernel": "GG-NAN-015",
    "model": "GG-NAN-016",
    "not reproduced": "GG-NAN-017",
    "unknown": "GG-NAN-018",
}
"""The code of each cause that a replay can come to."""


class TrainingMonitor(Observer):
    """Runs all detectors during training.

    Args:
        trainer: the run.
        config: what is monitored.
        layers_file: where layer samples are written with `watch = "full"`; None writes none.

    Attributes:
        findings: all findings of this process, in order.
        last_sample: the newest layer sample, or None.
    """

    def __init__(self, trainer: Trainer, config: DiagnosisConfig, layers_file: Path | None = None) -> None:
        self.findings: list[Finding] = []
        self.last_sample: LayerSample | None = None
        self._auditor: StepAuditor | None = None
        self._audited: set[str] = set()
        self._trainer, self._config, self._layers_file = trainer, config, layers_file
        # With recovery, the policy replays the step first and then calls `on_divergence`, which knows the cause.
        withheld = ("GG-DIV-001",) if config.recover else ()
        self._detectors = DetectorSet(_context(trainer), live=True, withheld=withheld)

    def attach(self) -> None:
        """Register with the trainer."""
        self._trainer.observers.append(self)
        if self._config.sample_every_steps:
            probe = LayerProbe(self._trainer, self._config.sample_every_steps, self.on_layers)
            self._trainer.train_step.probes.append(probe)
            every = SAMPLES_PER_AUDIT * self._config.sample_every_steps
            self._auditor = StepAuditor(self._trainer, every, self.on_audit)
            self._auditor.attach()

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as JSON."""
        return {**self._detectors.state_dict(), "audited": sorted(self._audited)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned, in this version or in 0.1; do nothing if it is empty."""
        if state:
            self._audited = set(state.get("audited", ()))
            self._detectors.load_state_dict(state if "detectors" in state else _from_version_0_1(state))

    def on_step(self, metrics: StepMetrics) -> None:
        """Process a step's metrics."""
        self._report(self._detectors.on_step(metrics))

    def on_validation(self, step: int, validation: ValidationLoss, is_best: bool) -> None:
        """Process a validation."""
        self._report(self._detectors.on_validation(Validation(step, validation.loss, validation.tokens)))

    def on_layers(self, sample: LayerSample) -> None:
        """Process a layer sample, and log it if all samples are to be logged."""
        self.last_sample = sample
        if self._layers_file is not None and self._config.watch == "full" and self._trainer.dist.is_main:
            try:
                with open(self._layers_file, "a", encoding="utf-8", opener=regular_only) as file:
                    file.write(json.dumps(asdict(sample)) + "\n")
            except OSError as error:
                raise CheckpointError(f"cannot write {self._layers_file}: {error.strerror}") from error
        self._report(self._detectors.on_layers(sample))

    def on_audit(self, finding: Finding) -> None:
        """Report a finding of a step's audit, each code once."""
        if finding.code not in self._audited:
            self._audited.add(finding.code)
            self._report([finding])

    def on_event(self, step: int, event: str, details: Mapping[str, Any]) -> None:
        """Report that memory ran out, and whether a smaller plan was enough."""
        if event != "out of memory":
            return
        before = details["before"]
        evidence = {"step": details["at"], "micro_rows": before.get("micro_batch_size", before.get("micro_rows"))}
        actions = ("less-memory",) if details["recovered"] else ()
        self._report([Finding("GG-MEM-012", "warning" if actions else "fatal", evidence, actions=actions)])

    def on_replay(self, step: int, result: ReplayResult, actions: Sequence[str]) -> None:
        """Report the result of replaying a skipped step.

        Args:
            step: the step that was not finite.
            result: of the replay.
            actions: catalogue names of what was done about it; none where training stops.
        """
        self._report([finding_from_replay(step, result, actions)])

    def on_divergence(self, step: int, result: ReplayResult | None, actions: Sequence[str]) -> None:
        """Report that the loss diverged.

        Args:
            step: the step at which that was decided.
            result: of training again from the last healthy weights, or None where that was not possible.
            actions: catalogue names of what was done about it; none where training stops.
        """
        severity: Severity = "warning" if actions else "fatal"
        evidence = dict(self._detectors.divergence.evidence)
        if result is None or result.cause != "weights":
            confidence = result.confidence if result else self._detectors.divergence.CONFIDENCE
            ruled_out = ("GG-DIV-002",) if result else ()
            self._report([Finding("GG-DIV-001", severity, evidence, confidence, ruled_out, tuple(actions))])
            return
        evidence |= {"parameter": result.parameters[0], "count": len(result.parameters)}
        finding = Finding("GG-DIV-002", severity, evidence, result.confidence, ("GG-DIV-001",), tuple(actions))
        self._report([finding])

    def diverging(self) -> bool:
        """Return whether the loss has been far above its best for too long to recover by itself."""
        return self._detectors.divergence.is_diverging

    def is_calm(self) -> bool:
        """Return whether the loss is normal, now and for the last steps."""
        return self._detectors.divergence.is_near_best and self._detectors.loss_spikes.is_calm

    def forget_after(self, step: int) -> None:
        """Drop data of later steps, because training was rolled back to `step`."""
        self._detectors.forget_after(step)
        if self._auditor is not None:
            self._auditor.forget()

    def _report(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            self.findings.append(finding)
            self._trainer.emit(EVENT, finding.to_json())


def finding_from_replay(step: int, result: ReplayResult, actions: Sequence[str] = ()) -> Finding:
    """Return the finding for a replayed step: a warning instead of fatal if an action was taken."""
    evidence: dict[str, Value] = {"step": step, "why": result.why.key, **result.why.seen}
    evidence |= {"module": result.module.name if result.module else "(not seen)"}
    if result.rows:
        evidence |= {"text": result.rows[0].text.replace("\n", "⏎"), "start": result.rows[0].start}
    others = tuple(dict.fromkeys(CAUSE_CODES[cause] for cause in result.causes_ruled_out()))
    severity: Severity = "warning" if actions else "fatal"
    return Finding(CAUSE_CODES[result.cause], severity, evidence, result.confidence, others, tuple(actions))


def _context(trainer: Trainer) -> RunContext:
    dataset = trainer.dataset
    return RunContext(
        config=trainer.config,
        on_cpu=trainer.hardware.device.type == "cpu",
        epoch_steps=len(dataset.split("train")) / trainer.config.train.batch_tokens,
        baseline=cache(lambda: dataset_baseline(dataset)),
    )


def _from_version_0_1(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state that version 0.1 saved, in today's form; windows that it did not save start empty."""
    loss = state["loss"]
    spikes = {
        "filter": {"normal": loss["accepted"], "outliers": loss["refused"]},
        "starts": [],
        "count": 0,
        "lasting": 0,
        "current": None,
        "highest": None,
        "steps_since_outlier": state["since_spike"],
    }
    divergence = {"recent": state["recent"], "best_median": state["best_median"], "steps_away": state["away"]}
    return {"reported": state["said"], "detectors": {"GG-SPK-001": spikes, "GG-DIV-001": divergence}}
