"""Checks of a run from its files alone: how it ended, its checkpoints, and its metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from glassgpt.diagnosis.checks.outliers import check_outlier_channels
from glassgpt.diagnosis.checks.settings import (
    check_adamw,
    check_dropout,
    check_epochs,
    check_learning_rate,
    check_warmup,
    check_weight_decay,
)
from glassgpt.diagnosis.detectors.base import RunContext
from glassgpt.diagnosis.detectors.loss_spike import find_spikes
from glassgpt.diagnosis.detectors.suite import DETECTOR_CODES, DetectorSet, run_detectors
from glassgpt.diagnosis.findings import CheckResult, Finding
from glassgpt.diagnosis.ngram_baseline import NGramBaseline
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.diagnosis.series import robust
from glassgpt.model.config import ModelConfig
from glassgpt.training.checkpoint import (
    AVERAGE,
    STAGING_PREFIX,
    WEIGHTS,
    checkpoint_name,
    checkpoint_step,
    find_damage,
    list_checkpoints,
    list_snapshots,
)
from glassgpt.training.config import TrainerConfig
from glassgpt.training.run_folder import RunFolder

LAST_STEPS = 50
"""Steps whose median is given as the final training loss."""
NAMED_CAUSES = ("GG-NAN-011", "GG-NAN-012", "GG-NAN-013", "GG-NAN-014", "GG-NAN-015", "GG-NAN-016")
"""Codes of a replay that name a cause, which says more than that a loss was not finite."""


def diagnose_run(
    log: RunLog,
    model: ModelConfig,
    config: TrainerConfig,
    baseline: NGramBaseline | None,
    *,
    train_tokens: int = 0,
    is_fresh: bool = True,
    is_augmented: bool = False,
) -> Iterator[CheckResult]:
    """Yield every check of a run's files.

    Args:
        log: the run's log files.
        model: the shape of its model.
        config: its training configuration.
        baseline: of its data, or None where the data are gone: then only ln V is known.
        train_tokens: size of its training text, or 0 where that is not known.
        is_fresh: whether it began with untrained weights.
        is_augmented: whether training changed its data at random each time.
    """
    preconditions: list[CheckResult] = []
    if not log.is_imported:  # an imported run was not trained with its training settings, which are defaults
        preconditions = [
            check_learning_rate(model, config, is_fresh=is_fresh),
            check_warmup(model, config, is_fresh=is_fresh),
            check_weight_decay(model, config),
            check_adamw(config),
            check_dropout(model),
            *([check_epochs(model, config, train_tokens, is_augmented=is_augmented)] if train_tokens else []),
        ]
    yield from preconditions
    yield check_log_files(log)
    whole, damaged = classify_checkpoints(log.run)
    metrics = list(diagnose_metrics(log, model, config, baseline, whole, train_tokens=train_tokens))
    yield check_live_findings(log, [finding for check in (*preconditions, *metrics) for finding in check.findings])
    yield check_checkpoints(log, config, whole, damaged)
    yield check_weights(log.run, whole)
    yield check_outlier_channels(log.run, whole)
    yield from metrics


def diagnose_metrics(
    log: RunLog,
    model: ModelConfig,
    config: TrainerConfig,
    baseline: NGramBaseline | None,
    saved: list[int],
    *,
    train_tokens: int = 0,
) -> Iterator[CheckResult]:
    """Yield the checks that need no checkpoint: how the run ended, and what its detectors find.

    Args:
        log: the run's log files.
        model: the shape of its model.
        config: its training configuration.
        baseline: of its data, or None where the data are gone.
        saved: steps of the checkpoints that the run can be resumed from.
        train_tokens: size of its training text, or 0 where that is not known.
    """
    end = check_end(log, model, config, saved)
    yield end
    if not log.steps:
        return
    ln_v = math.log(model.vocab_size) if model.vocab_size else math.nan
    known = baseline or NGramBaseline(ln_v, math.nan, math.nan)
    series = analyze_series(log, config, known, train_tokens)
    if not config.preference.data:  # n-gram models know no preferences
        yield check_ngram_baselines(log, known, series)
    yield check_spikes(series)
    yield check_divergence(series, end)
    yield check_plateau(series)
    yield check_overfitting(log, series)
    yield check_clipping(config, series)
    yield check_speed(log, series)
    if config.train.precision == "fp16":
        yield CheckResult(
            "gradient scaler", "skipped", {"count": _skipped(log), "steps": len(log.steps)}, series.of("GG-SCL-001")
        )
    if log.layer_samples:
        yield check_layers(log, series)


@dataclass(frozen=True)
class SeriesAnalysis:
    """Result of running the detectors on a run's series.

    Attributes:
        detectors: after the last step.
        findings: in the order in which they were found.
    """

    detectors: DetectorSet
    findings: tuple[Finding, ...]

    def of(self, *prefixes: str) -> tuple[Finding, ...]:
        """Return the findings whose code starts with one of these prefixes."""
        return tuple(finding for finding in self.findings if finding.code.startswith(prefixes))


def analyze_series(
    log: RunLog, config: TrainerConfig, baseline: NGramBaseline, train_tokens: int = 0
) -> SeriesAnalysis:
    """Feed a run's series to the detectors that the live monitor uses.

    Args:
        log: the run's log files.
        config: its training configuration.
        baseline: of its data.
        train_tokens: size of its training text, or 0 where that is not known.
    """
    context = RunContext(
        config=config,
        on_cpu=str(log.start_event.get("hardware", "cpu")).startswith("cpu"),
        epoch_steps=train_tokens / config.train.batch_tokens if train_tokens else math.inf,
        baseline=lambda: baseline,
    )
    detectors = DetectorSet(context, live=False)
    found = run_detectors(detectors, log.step_metrics(), log.validation_series(), log.layer_samples)
    return SeriesAnalysis(detectors, tuple(finding for _, finding in found))


def check_log_files(log: RunLog) -> CheckResult:
    """Check that every line can be read."""
    findings = tuple(
        Finding("GG-END-002", "note", {"file": name, "count": count}) for name, count in log.unreadable.items()
    )
    counts = {"steps": len(log.steps), "validations": len(log.validations), "events": len(log.events)}
    return CheckResult("files", "lines", counts, findings)


def check_live_findings(log: RunLog, reported: list[Finding]) -> CheckResult:
    """Return the findings that the live run logged, each once, except those that other checks report.

    Of a code that detectors report, the finding from the files replaces the live one: it covers the whole run, and
    it applies current thresholds to runs of older versions.
    """
    decided_again = {finding.code for finding in reported if finding.code in DETECTOR_CODES}
    findings: list[Finding] = []
    for _, finding in log.latest_findings():
        if finding.code not in decided_again and finding not in (*reported, *findings):
            findings.append(finding)
    return CheckResult("training findings", "findings", {"count": len(log.findings())}, tuple(findings))


def classify_checkpoints(run: RunFolder) -> tuple[list[int], dict[int, str]]:
    """Return the steps of the intact checkpoints, and the problem of each damaged one by its step."""
    problems = {checkpoint_step(path): find_damage(path) for path in list_checkpoints(run)}
    whole = [step for step, problem in problems.items() if problem is None]
    return whole, {step: problem for step, problem in problems.items() if problem is not None}


def check_checkpoints(log: RunLog, config: TrainerConfig, whole: list[int], damaged: dict[int, str]) -> CheckResult:
    """Report which checkpoints are usable; one that a running process is still writing is not a fault."""
    newest = checkpoint_name(max(whole)) if whole else "–"
    findings = [
        Finding("GG-CKP-001", "warning", {"checkpoint": checkpoint_name(step), "problem": problem, "whole": newest})
        for step, problem in damaged.items()
    ]
    findings += [
        Finding("GG-CKP-001", "warning", {"checkpoint": f"snapshots/{path.name}", "problem": problem, "whole": newest})
        for path in list_snapshots(log.run)
        if (problem := find_damage(path)) is not None
    ]
    is_running = log.status(config.train.max_steps) == "running"
    if not whole and (damaged or not is_running):
        findings.append(Finding("GG-CKP-002", "fatal", {"damaged": len(damaged)}))
    if not is_running:
        left = [path.name for path in sorted(log.run.checkpoints.glob(f"{STAGING_PREFIX}*"))]
        findings += [Finding("GG-CKP-003", "note", {"name": name}) for name in left]
    seen = {"whole": len(whole), "newest": newest, "damaged": len(damaged)}
    return CheckResult("checkpoints", "intact", seen, tuple(findings))


def check_weights(run: RunFolder, whole: list[int]) -> CheckResult:
    """Check that every weight of every intact checkpoint is finite."""
    broken = {step: first for step in whole if (first := _first_not_finite(run, step))}
    good = [step for step in whole if step not in broken]
    other = checkpoint_name(max(good)) if good else "–"
    findings = tuple(
        Finding(
            "GG-NAN-003",
            "fatal",
            {"checkpoint": checkpoint_name(step), "parameter": parameter, "count": count, "other": other},
        )
        for step, (parameter, count) in broken.items()
    )
    return CheckResult("weights", "finite", {"good": len(good), "all": len(whole)}, findings)


def _first_not_finite(run: RunFolder, step: int) -> tuple[str, int] | None:
    """Return the first non-finite parameter and the total number of non-finite values, or None if all are finite."""
    counts: dict[str, int] = {}
    for path in (run.checkpoints / checkpoint_name(step) / name for name in (WEIGHTS, AVERAGE)):
        if path.is_file():
            counts |= {f"{name} ({path.stem})": count for name, count in _not_finite(path)}
    bad = [name for name, count in counts.items() if count]
    return (bad[0], sum(counts.values())) if bad else None


def _not_finite(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the number of values that are not finite for each tensor of a file; one tensor is in memory at a time."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping, it only has keys()
            yield name, int((~file.get_tensor(name).isfinite()).sum())


def check_end(log: RunLog, model: ModelConfig, config: TrainerConfig, whole: list[int]) -> CheckResult:
    """Report how the run ended, and why if that is known."""
    steps, last = config.train.max_steps, log.last_step
    status = log.status(steps)
    findings: tuple[Finding, ...] = ()
    if status == "diverged":
        findings = (_explained(log) or _diverged(log, check_learning_rate(model, config, is_fresh=False)),)
    if status == "failed":
        findings = (_failed(log),)
    if status == "killed":
        seen = {"step": last, "steps": steps, "lost": max(0, last - max(whole, default=0)), "run": str(log.run.path)}
        findings = (Finding("GG-END-001", "warning", seen, confidence=0.8),)
    return CheckResult("end", status, {"step": last, "steps": steps}, findings)


def _explained(log: RunLog) -> Finding | None:
    """Return the live run's own finding about its end: the cause found by a replay, or an unrecovered divergence."""
    findings = [finding for _, finding in log.latest_findings()]
    causes = [one for one in findings if one.code in NAMED_CAUSES and one.evidence.get("step") == log.diverged_at]
    divergences = [one for one in findings if one.code.startswith("GG-DIV") and one.severity == "fatal"]
    return next(iter((*causes, *divergences)), None)


def _failed(log: RunLog) -> Finding:
    """Return the finding for a run that ended with an error, which it logged."""
    event = log.event("failed") or {}
    seen = {"step": log.last_step, "problem": str(event.get("message", "")).strip().partition("\n")[0]}
    if event.get("disk_full"):
        return Finding("GG-DSK-002", "fatal", seen)
    if "micro_rows" in event:
        return Finding("GG-MEM-012", "fatal", {"step": log.last_step + 1, "micro_rows": int(event["micro_rows"])})
    return Finding("GG-END-003", "fatal", {**seen, "error": str(event.get("error", "?"))})


def _diverged(log: RunLog, rate_check: CheckResult) -> Finding:
    """Return the finding for a run that ended because of a non-finite loss or gradient.

    A learning rate far above the usual makes it the likely cause, and so do spikes before the end.
    """
    event = log.event("diverged") or {}
    rates = [rate for rate in log.column("learning_rate") if math.isfinite(rate)]
    rate = rates[-1] if rates else math.nan
    confidence = 0.5 if rate_check.passed else 0.9
    if find_spikes(log.step_numbers, log.column("loss")):
        confidence = max(confidence, 0.8)
    seen = {
        "step": log.diverged_at,
        "loss": str(event.get("loss", "nan")),
        "grad_norm": str(event.get("grad_norm", "nan")),
        "rate": rate,
        "half": rate / 2,
    }
    return Finding("GG-NAN-002", "fatal", seen, confidence=confidence)


def check_ngram_baselines(log: RunLog, baseline: NGramBaseline, series: SeriesAnalysis) -> CheckResult:
    """Compare the training loss with what n-gram models reach."""
    loss = robust(log.column("loss")[-LAST_STEPS:]).median
    values = {"uniform": baseline.uniform, "unigram": baseline.unigram, "bigram": baseline.bigram}
    outcome = "all baselines" if math.isfinite(baseline.unigram) else "uniform baseline"
    return CheckResult("n-gram baselines", outcome, {"loss": loss, **values}, series.of("GG-LAD"))


def check_spikes(series: SeriesAnalysis) -> CheckResult:
    """Report losses that stand out from the steps before them."""
    spikes = series.detectors.loss_spikes
    if spikes.highest is None:
        return CheckResult("spikes", "none")
    measured = {"count": spikes.count, "peak": spikes.highest.peak, "step": spikes.highest.peak_step}
    return CheckResult("spikes", "some", measured, series.of("GG-SPK"))


def check_divergence(series: SeriesAnalysis, end: CheckResult) -> CheckResult:
    """Compare the newest losses with the best ones; `check_end` reports a run that ended by a divergence."""
    medians = series.detectors.divergence.evidence
    reported = {finding.code for finding in end.findings}
    findings = tuple(finding for finding in series.of("GG-DIV") if finding.code not in reported)
    return (
        CheckResult("divergence", "medians", medians, findings) if medians else CheckResult("divergence", "too short")
    )


def check_plateau(series: SeriesAnalysis) -> CheckResult:
    """Report a loss that stopped falling while the learning rate was high."""
    findings = series.of("GG-PLT")
    return (
        CheckResult("plateau", "slope", findings[0].evidence, findings) if findings else CheckResult("plateau", "none")
    )


def check_overfitting(log: RunLog, series: SeriesAnalysis) -> CheckResult:
    """Report validation that got worse while training got better."""
    validations = log.validation_series()
    if not validations:
        return CheckResult("overfitting", "no validation")
    measured = {"last": validations[-1].loss, "best": min(one.loss for one in validations)}
    return CheckResult("overfitting", "validations", measured, series.of("GG-OVF", "GG-VAL"))


def check_clipping(config: TrainerConfig, series: SeriesAnalysis) -> CheckResult:
    """Report how many of the last steps were clipped, and how far."""
    clipping = series.detectors.clipping
    if not config.train.clip_norm or not clipping.steps:
        return CheckResult("clipping", "off")
    measured = {
        "share": clipping.share,
        "steps": clipping.steps,
        "median": clipping.median,
        "clip": config.train.clip_norm,
    }
    return CheckResult("clipping", "share", measured, series.of("GG-CLP"))


def check_speed(log: RunLog, series: SeriesAnalysis) -> CheckResult:
    """Report the typical duration of a step, and steps that wait or became slower."""
    durations = log.durations()
    typical = sorted(durations)[len(durations) // 2]
    return CheckResult("speed", "typical", {"milliseconds": 1000 * typical}, series.of("GG-SPD"))


def check_layers(log: RunLog, series: SeriesAnalysis) -> CheckResult:
    """Report what the layer samples show."""
    findings = series.of("GG-GRD", "GG-UPD", "GG-OPT", "GG-ATT", "GG-LAY")
    return CheckResult("layers", "samples", {"count": len(log.layer_samples)}, findings)


def _skipped(log: RunLog) -> int:
    return sum(line.get("skipped") is True for line in log.steps)
