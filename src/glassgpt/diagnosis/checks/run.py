"""A dead or finished run, from its files alone: how it ended, what is left of it, and what its curve says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open

from glassgpt.diagnosis.checks.settings import (
    LONG_ENOUGH,
    check_epochs,
    check_learning_rate,
    check_warmup,
    check_weight_decay,
)
from glassgpt.diagnosis.findings import CheckResult, Finding, Severity
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.diagnosis.series import (
    RUNG_NATS,
    NGramBaseline,
    Stall,
    clipping,
    find_overfitting,
    find_plateau,
    find_slowdown,
    find_spikes,
    find_stall,
    robust,
)
from glassgpt.model.config import ModelConfig
from glassgpt.training.checkpoint import (
    AVERAGE,
    STAGING_PREFIX,
    WEIGHTS,
    checkpoint_name,
    checkpoint_step,
    damage,
    list_checkpoints,
)
from glassgpt.training.config import TrainerConfig
from glassgpt.training.run_folder import RunFolder

CLIPPED_SHARE, CLIPPED_TIMES = 0.5, 10.0
"""Clipping is questioned where more than half of the steps are, and the median norm is ten times the clip: AdamW does
not feel the length of gradients that are all scaled alike, and good runs were seen at three times."""
LAST_STEPS = 50
MANY_SPIKES = 3
NAMED_CAUSES = ("GG-NAN-011", "GG-NAN-012", "GG-NAN-013", "GG-NAN-014", "GG-NAN-015", "GG-NAN-016")
"""Of a replay, which says more than that a figure was not finite."""
STALLS: dict[str, tuple[str, Severity]] = {
    "uniform": ("GG-LAD-001", "fatal"),
    "unigram": ("GG-LAD-002", "warning"),
    "bigram": ("GG-LAD-003", "warning"),
}


def diagnose_run(
    record: RunLog,
    model: ModelConfig,
    settings: TrainerConfig,
    ladder: NGramBaseline | None,
    *,
    train_tokens: int = 0,
    is_fresh: bool = True,
) -> Iterator[CheckResult]:
    """Everything that a run's files tell.

    Args:
        record: what it wrote.
        model: its shape.
        settings: its configuration.
        ladder: of its data, or None where they are gone: then guessing alone is known.
        train_tokens: of its data, or 0.
        is_fresh: whether it began with untrained weights.
    """
    beforehand: list[CheckResult] = []
    if not record.is_imported:  # then the training settings are defaults that nothing was trained with
        beforehand = [
            check_learning_rate(model, settings, is_fresh=is_fresh),
            check_warmup(model, settings, is_fresh=is_fresh),
            check_weight_decay(model, settings),
            *([check_epochs(model, settings, train_tokens)] if train_tokens else []),
        ]
    yield from beforehand
    yield check_log_files(record)
    whole, damaged = classify_checkpoints(record.run)
    curve = list(diagnose_metrics(record, model, settings, ladder, whole, train_tokens=train_tokens))
    told = [*beforehand, curve[0]]  # the first says how it ended
    yield check_live_findings(record, [finding for check in told for finding in check.findings])
    yield check_checkpoints(record, settings, whole, damaged)
    yield check_weights(record.run, whole)
    yield from curve


def diagnose_metrics(
    record: RunLog,
    model: ModelConfig,
    settings: TrainerConfig,
    ladder: NGramBaseline | None,
    saved: list[int],
    *,
    train_tokens: int = 0,
) -> Iterator[CheckResult]:
    """What can be told in a second, without reading the checkpoints.

    Args:
        record: what the run wrote.
        model: its shape.
        settings: its configuration.
        ladder: of its data, or None.
        saved: steps of the checkpoints that can be gone on from.
        train_tokens: of its data, or 0.
    """
    yield check_end(record, model, settings, saved)
    if not record.steps:
        return
    guessing = math.log(model.vocab_size) if model.vocab_size else math.nan
    yield check_ngram_baselines(record, settings, ladder or NGramBaseline(guessing, math.nan, math.nan))
    yield check_spikes(record)
    yield check_plateau(record, settings, train_tokens)
    yield check_overfitting(record)
    yield check_clipping(record, settings)
    yield check_speed(record)


def check_log_files(record: RunLog) -> CheckResult:
    """Whether every line can be read."""
    findings = tuple(
        Finding("GG-END-002", "note", {"file": name, "count": count}) for name, count in record.unreadable.items()
    )
    told = {"steps": len(record.steps), "validations": len(record.validations), "events": len(record.events)}
    return CheckResult("files", "lines", told, findings)


def check_live_findings(record: RunLog, told: list[Finding]) -> CheckResult:
    """What the run itself noticed and wrote down, each once, without what is told already."""
    findings: list[Finding] = []
    for _, finding in record.noticed():
        if finding not in (*told, *findings):
            findings.append(finding)
    return CheckResult("training findings", "findings", {"count": len(record.findings())}, tuple(findings))


def classify_checkpoints(run: RunFolder) -> tuple[list[int], dict[int, str]]:
    """Steps of the checkpoints that are whole, and what is wrong with each of the others."""
    problems = {checkpoint_step(path): damage(path) for path in list_checkpoints(run)}
    whole = [step for step, problem in problems.items() if problem is None]
    return whole, {step: problem for step, problem in problems.items() if problem is not None}


def check_checkpoints(
    record: RunLog, settings: TrainerConfig, whole: list[int], damaged: dict[int, str]
) -> CheckResult:
    """Which checkpoints can be used; one that is being written by a run that goes on is no fault."""
    newest = checkpoint_name(max(whole)) if whole else "–"
    findings = [
        Finding("GG-CKP-001", "warning", {"checkpoint": checkpoint_name(step), "problem": problem, "whole": newest})
        for step, problem in damaged.items()
    ]
    end = record.end(settings.train.max_steps)
    if not whole and (damaged or end != "running"):
        findings.append(Finding("GG-CKP-002", "fatal", {"damaged": len(damaged)}))
    if end != "running":
        left = [path.name for path in sorted(record.run.checkpoints.glob(f"{STAGING_PREFIX}*"))]
        findings += [Finding("GG-CKP-003", "note", {"name": name}) for name in left]
    seen = {"whole": len(whole), "newest": newest, "damaged": len(damaged)}
    return CheckResult("checkpoints", "intact", seen, tuple(findings))


def check_weights(run: RunFolder, whole: list[int]) -> CheckResult:
    """Whether every weight of every whole checkpoint is a finite number."""
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
    """Name of the first parameter that is not finite and how many values in all are not; None where all are."""
    counts: dict[str, int] = {}
    for path in (run.checkpoints / checkpoint_name(step) / name for name in (WEIGHTS, AVERAGE)):
        if path.is_file():
            counts |= {f"{name} ({path.stem})": count for name, count in _not_finite(path)}
    bad = [name for name, count in counts.items() if count]
    return (bad[0], sum(counts.values())) if bad else None


def _not_finite(path: Path) -> Iterator[tuple[str, int]]:
    """For each tensor of a file how many of its values are not finite; one tensor is in memory at a time."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping, it only has keys
            yield name, int((~file.get_tensor(name).isfinite()).sum())


def check_end(record: RunLog, model: ModelConfig, settings: TrainerConfig, whole: list[int]) -> CheckResult:
    """How the run ended, and why where that can be known."""
    steps, last = settings.train.max_steps, record.last_step
    end = record.end(steps)
    findings: tuple[Finding, ...] = ()
    if end == "diverged":
        findings = (_explained(record) or _diverged(record, check_learning_rate(model, settings, is_fresh=False)),)
    if end == "failed":
        findings = (_failed(record),)
    if end == "killed":
        seen = {"step": last, "steps": steps, "lost": max(0, last - max(whole, default=0)), "run": str(record.run.path)}
        findings = (Finding("GG-END-001", "warning", seen, confidence=0.8),)
    return CheckResult("end", end, {"step": last, "steps": steps}, findings)


def _explained(record: RunLog) -> Finding | None:
    """What a replay said of the step that was not finite, where it named the cause."""
    causes = [finding for _, finding in record.noticed() if finding.code in NAMED_CAUSES]
    return next((finding for finding in causes if finding.seen.get("step") == record.diverged_at), None)


def _failed(record: RunLog) -> Finding:
    """The finding of a run that an error ended, which it wrote down."""
    event = record.event("failed") or {}
    seen = {"step": record.last_step, "problem": str(event.get("message", "")).strip().partition("\n")[0]}
    if event.get("disk_full"):
        return Finding("GG-DSK-002", "fatal", seen)
    if "micro_rows" in event:
        return Finding("GG-MEM-012", "fatal", {"step": record.last_step + 1, "micro_rows": int(event["micro_rows"])})
    return Finding("GG-END-003", "fatal", {**seen, "error": str(event.get("error", "?"))})


def _diverged(record: RunLog, rate_check: CheckResult) -> Finding:
    """The finding of a run that ended by a number that is not finite.

    A rate far above the usual speaks for the rate, and so do spikes before the end.
    """
    event = record.event("diverged") or {}
    rates = [rate for rate in record.column("learning_rate") if math.isfinite(rate)]
    rate = rates[-1] if rates else math.nan
    sure = 0.5 if rate_check.passed else 0.9
    if find_spikes(record.numbers, record.column("loss")):
        sure = max(sure, 0.8)
    seen = {
        "step": record.diverged_at,
        "loss": str(event.get("loss", "nan")),
        "grad_norm": str(event.get("grad_norm", "nan")),
        "rate": rate,
        "half": rate / 2,
    }
    return Finding("GG-NAN-002", "fatal", seen, confidence=sure)


def check_ngram_baselines(record: RunLog, settings: TrainerConfig, ladder: NGramBaseline) -> CheckResult:
    """Whether the loss stands on a rung of what knowing little costs, or ended above the frequencies of tokens.

    The best validation must stand there too: dropout and averaged weights make the training loss look worse than the
    model is.
    """
    last = robust(record.column("loss")[-LAST_STEPS:]).median
    rungs = {"uniform": ladder.uniform, "unigram": ladder.unigram, "bigram": ladder.bigram}
    is_known = math.isfinite(ladder.unigram)
    measured = ("n-gram baselines", "all baselines" if is_known else "uniform baseline", {"loss": last, **rungs})
    stall = _stall(record, settings, ladder, last)
    best = min((one.loss for one in record.evaluations()), default=math.inf)
    if stall is None or ladder.rung(min(stall.loss, best)) != stall.rung:
        return CheckResult(*measured)
    code, severity = STALLS[stall.rung]
    rung = getattr(ladder, stall.rung)
    if stall.rung == "bigram" and stall.loss <= rung + RUNG_NATS:
        severity = "note"  # some texts hold no more than that
    seen = {
        "loss": stall.loss,
        "rung": rung,
        "step": record.last_step,
        "steps": stall.steps,
        "rate": max(record.column("learning_rate")),
    }
    others = tuple(other for other, _ in STALLS.values() if other != code)
    return CheckResult(*measured, (Finding(code, severity, seen, confidence=0.8, ruled_out=others),))


def _stall(record: RunLog, settings: TrainerConfig, ladder: NGramBaseline, last: float) -> Stall | None:
    """A loss that stays on a rung; or a run that is over and knows less than how frequent tokens are."""
    max_steps = settings.train.max_steps
    warmup = settings.schedule.fitted(max_steps).warmup_steps
    rates = record.column("learning_rate")
    found = find_stall(record.numbers, record.column("loss"), rates, ladder, warmup_steps=warmup)
    is_over = record.last_step >= max_steps >= LONG_ENOUGH
    rung = ladder.rung(last)
    return found or (Stall(rung, last, max_steps) if is_over and rung in ("uniform", "unigram") else None)


def check_spikes(record: RunLog) -> CheckResult:
    """Losses that stand out from the steps before them."""
    spikes = find_spikes(record.numbers, record.column("loss"))
    if not spikes:
        return CheckResult("spikes", "none")
    highest = max(spikes, key=lambda spike: spike.peak if math.isfinite(spike.peak) else math.inf)
    rates = dict(zip(record.numbers, record.column("learning_rate"), strict=True))
    lasting = sum(spike.lasting for spike in spikes)
    seen = {
        "count": len(spikes),
        "peak": highest.peak,
        "step": highest.peak_step,
        "usual": highest.usual,
        "recovered": len(spikes) - lasting,
        "lasting": lasting,
        "rate": rates[highest.peak_step],
    }
    severity: Severity = "warning" if lasting or len(spikes) >= MANY_SPIKES else "note"
    return CheckResult("spikes", "some", seen, (Finding("GG-SPK-001", severity, seen, confidence=0.7),))


def check_plateau(record: RunLog, settings: TrainerConfig, train_tokens: int = 0) -> CheckResult:
    """Whether the loss stopped falling while the rate was high."""
    train = settings.train
    found = find_plateau(
        record.numbers,
        record.column("loss"),
        record.column("learning_rate"),
        max_steps=train.max_steps,
        warmup_steps=settings.schedule.fitted(train.max_steps).warmup_steps,
        epoch_steps=train_tokens / train.batch_tokens if train_tokens else math.inf,
    )
    if found is None:
        return CheckResult("plateau", "none")
    slope = found.slope
    seen = {
        "slope": 1000 * slope.value,
        "low": 1000 * slope.low,
        "high": 1000 * slope.high,
        "steps": found.last - found.first + 1,
        "loss": found.loss,
    }
    return CheckResult("plateau", "slope", seen, (Finding("GG-PLT-001", "note", seen, confidence=0.7),))


def check_overfitting(record: RunLog) -> CheckResult:
    """Whether validation got worse while training got better."""
    evaluations = record.evaluations()
    if not evaluations:
        return CheckResult("overfitting", "no validation")
    found = find_overfitting(evaluations, record.numbers, record.column("loss"))
    measured = {"last": evaluations[-1].loss, "best": min(one.loss for one in evaluations)}
    if found is None:
        return CheckResult("overfitting", "validations", measured)
    seen = {
        "best_step": found.best.step,
        "best": found.best.loss,
        "last": found.last.loss,
        "evaluations": found.evaluations,
    }
    return CheckResult(
        "overfitting", "validations", measured, (Finding("GG-OVF-001", "warning", seen, confidence=0.9),)
    )


def check_clipping(record: RunLog, settings: TrainerConfig) -> CheckResult:
    """How many steps were clipped after warmup, and how much."""
    warmup, clip = settings.schedule.warmup_steps, settings.train.clip_norm
    found = clipping(record.numbers, record.column("grad_norm"), clip, warmup_steps=warmup)
    if found is None:
        return CheckResult("clipping", "off")
    measured = {"share": found.share, "median": found.median, "clip": clip}
    if found.share <= CLIPPED_SHARE or found.median < CLIPPED_TIMES * clip:
        return CheckResult("clipping", "share", measured)
    seen = {
        "share": round(100 * found.share),
        "clip_norm": clip,
        "median": found.median,
        "wanted": f"{2 * found.median:.1g}",
    }
    return CheckResult("clipping", "share", measured, (Finding("GG-CLP-001", "warning", seen, confidence=0.6),))


def check_speed(record: RunLog) -> CheckResult:
    """Whether steps became slower and stayed so."""
    durations = record.durations()
    slow = find_slowdown(durations)
    typical = sorted(durations)[len(durations) // 2]
    measured = {"milliseconds": 1000 * typical}
    if slow is None:
        return CheckResult("speed", "typical", measured)
    seen = {"ratio": f"{slow.ratio:.1f}", "before": 1000 * slow.before, "now": 1000 * slow.now}
    return CheckResult("speed", "typical", measured, (Finding("GG-SPD-001", "note", seen, confidence=0.8),))
