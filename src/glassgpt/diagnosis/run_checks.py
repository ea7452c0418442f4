"""A dead or finished run, from its files alone: how it ended, what is left of it, and what its curve says."""

from __future__ import annotations

import math
from collections.abc import Iterator

from safetensors import safe_open

from glassgpt.diagnosis.findings import Checked, Finding, Severity
from glassgpt.diagnosis.record import Record
from glassgpt.diagnosis.series import (
    Ladder,
    clipping,
    find_overfitting,
    find_plateau,
    find_slowdown,
    find_spikes,
    find_stall,
)
from glassgpt.model.config import ModelConfig
from glassgpt.training.checkpoint import (
    STAGING_PREFIX,
    WEIGHTS,
    checkpoint_step,
    damage,
    list_checkpoints,
)
from glassgpt.training.run import RunFolder
from glassgpt.training.step import Settings

CLIPPED_SHARE, CLIPPED_TIMES = 0.5, 3.0
"""Clipping is questioned where more than half of the steps are, and the median norm is several times the clip: near
it a clip changes little."""
MANY_SPIKES = 3
STALLS: dict[str, tuple[str, Severity]] = {
    "uniform": ("GG-LAD-001", "fatal"),
    "unigram": ("GG-LAD-002", "warning"),
    "bigram": ("GG-LAD-003", "note"),
}


def examine_run(record: Record, model: ModelConfig, settings: Settings, ladder: Ladder | None) -> Iterator[Checked]:
    """Everything that a run's files tell.

    Args:
        record: what it wrote.
        model: its shape.
        settings: its configuration.
        ladder: of its data, or None where they are gone: then guessing alone is known.
    """
    yield check_files(record)
    whole, damaged = sort_checkpoints(record.run)
    yield check_checkpoints(record, settings, whole, damaged)
    yield check_weights(record.run, whole)
    yield check_end(record, settings, whole)
    if not record.steps:
        return
    guessing = math.log(model.vocab_size) if model.vocab_size else math.nan
    yield check_ladder(record, settings, ladder or Ladder(guessing, math.nan, math.nan))
    yield check_spikes(record)
    yield check_plateau(record, settings)
    yield check_overfitting(record)
    yield check_clipping(record, settings)
    yield check_speed(record)


def check_files(record: Record) -> Checked:
    """Whether every line can be read."""
    findings = tuple(
        Finding("GG-END-002", "note", {"file": name, "count": count}) for name, count in record.unreadable.items()
    )
    told = f"{len(record.steps):,} steps, {len(record.validations)} validations, {len(record.events)} events"
    return Checked("files", told, findings)


def sort_checkpoints(run: RunFolder) -> tuple[list[int], dict[int, str]]:
    """Steps of the checkpoints that are whole, and what is wrong with each of the others."""
    problems = {checkpoint_step(path): damage(path) for path in list_checkpoints(run)}
    whole = [step for step, problem in problems.items() if problem is None]
    return whole, {step: problem for step, problem in problems.items() if problem is not None}


def check_checkpoints(record: Record, settings: Settings, whole: list[int], damaged: dict[int, str]) -> Checked:
    """Which checkpoints can be used; one that is being written by a run that goes on is no fault."""
    newest = f"step-{max(whole):06d}" if whole else "–"
    findings = [
        Finding("GG-CKP-001", "warning", {"checkpoint": f"step-{step:06d}", "problem": problem, "whole": newest})
        for step, problem in damaged.items()
    ]
    end = record.end(settings.train.max_steps)
    if not whole and (damaged or end != "running"):
        findings.append(Finding("GG-CKP-002", "fatal", {"damaged": len(damaged)}))
    if end != "running":
        left = [path.name for path in sorted(record.run.checkpoints.glob(f"{STAGING_PREFIX}*"))]
        findings += [Finding("GG-CKP-003", "note", {"name": name}) for name in left]
    line = f"{len(whole)} whole by checksum, the newest {newest}; {len(damaged)} damaged"
    return Checked("checkpoints", line, tuple(findings))


def check_weights(run: RunFolder, whole: list[int]) -> Checked:
    """Whether every weight of every whole checkpoint is a finite number."""
    broken = {step: first for step in whole if (first := _first_not_finite(run, step))}
    good = [step for step in whole if step not in broken]
    other = f"step-{max(good):06d}" if good else "–"
    findings = tuple(
        Finding(
            "GG-NAN-003",
            "fatal",
            {"checkpoint": f"step-{step:06d}", "parameter": parameter, "count": count, "other": other},
        )
        for step, (parameter, count) in broken.items()
    )
    return Checked("weights", f"finite in {len(good)} of {len(whole)} checkpoints", findings)


def _first_not_finite(run: RunFolder, step: int) -> tuple[str, int] | None:
    """Name of the first parameter that is not finite and how many values in all are not; None where all are."""
    counts: dict[str, int] = {}
    with safe_open(run.checkpoints / f"step-{step:06d}" / WEIGHTS, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping, it only has keys
            counts[name] = int((~file.get_tensor(name).isfinite()).sum())
    bad = [name for name, count in counts.items() if count]
    return (bad[0], sum(counts.values())) if bad else None


def check_end(record: Record, settings: Settings, whole: list[int]) -> Checked:
    """How the run ended, and why where that can be known."""
    steps, last = settings.train.max_steps, record.last_step
    end = record.end(steps)
    line = f"{end} after step {last:,} of {steps:,}"
    if end == "diverged":
        return Checked("end", line, (_diverged(record),))
    if end == "killed":
        lost = last - max(whole, default=0)
        seen = {"step": last, "steps": steps, "lost": max(0, lost)}
        return Checked("end", line, (Finding("GG-END-001", "warning", seen, confidence=0.8),))
    return Checked("end", line)


def _diverged(record: Record) -> Finding:
    """The finding of a run that ended by a number that is not finite; spikes before it speak for the rate."""
    event = record.event("diverged") or {}
    rates = [rate for rate in record.column("learning_rate") if math.isfinite(rate)]
    rate = rates[-1] if rates else math.nan
    warned = find_spikes(record.numbers, record.column("loss"))
    seen = {
        "step": int(event.get("at", record.last_step)),
        "loss": str(event.get("loss", "nan")),
        "grad_norm": str(event.get("grad_norm", "nan")),
        "rate": rate,
        "half": rate / 2,
    }
    return Finding("GG-NAN-002", "fatal", seen, confidence=0.8 if warned else 0.5)


def check_ladder(record: Record, settings: Settings, ladder: Ladder) -> Checked:
    """Whether the training loss stands on a rung of what knowing little costs."""
    rates = record.column("learning_rate")
    warmup = settings.schedule.fitted(settings.train.max_steps).warmup_steps
    stall = find_stall(record.numbers, record.column("loss"), rates, ladder, warmup_steps=warmup)
    rungs = ", ".join(
        f"{name} {value:.2f}"
        for name, value in (("guessing", ladder.uniform), ("by frequency", ladder.unigram), ("by pairs", ladder.bigram))
        if math.isfinite(value)
    )
    line = f"training loss {record.column('loss')[-1]:.3f} nats; {rungs}"
    if stall is None:
        return Checked("entropy ladder", line)
    code, severity = STALLS[stall.rung]
    seen = {
        "loss": stall.loss,
        "rung": getattr(ladder, stall.rung),
        "step": record.last_step,
        "steps": stall.steps,
        "rate": max(rates),
    }
    others = tuple(other for other, _ in STALLS.values() if other != code)
    return Checked("entropy ladder", line, (Finding(code, severity, seen, confidence=0.8, ruled_out=others),))


def check_spikes(record: Record) -> Checked:
    """Losses that stand out from the steps before them."""
    spikes = find_spikes(record.numbers, record.column("loss"))
    if not spikes:
        return Checked("spikes", "none")
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
    line = f"{len(spikes)}, the highest {highest.peak:.3f} at step {highest.peak_step:,}"
    return Checked("spikes", line, (Finding("GG-SPK-001", severity, seen, confidence=0.7),))


def check_plateau(record: Record, settings: Settings) -> Checked:
    """Whether the loss stopped falling while the rate was high."""
    train = settings.train
    found = find_plateau(
        record.numbers,
        record.column("loss"),
        record.column("learning_rate"),
        max_steps=train.max_steps,
        warmup_steps=settings.schedule.fitted(train.max_steps).warmup_steps,
    )
    if found is None:
        return Checked("plateau", "none that the schedule does not explain")
    slope = found.slope
    seen = {
        "slope": 1000 * slope.value,
        "low": 1000 * slope.low,
        "high": 1000 * slope.high,
        "steps": found.last - found.first + 1,
        "loss": found.loss,
    }
    line = f"{1000 * slope.value:+.3f} nats in 1,000 steps"
    return Checked("plateau", line, (Finding("GG-PLT-001", "note", seen, confidence=0.7),))


def check_overfitting(record: Record) -> Checked:
    """Whether validation got worse while training got better."""
    evaluations = record.evaluations()
    if not evaluations:
        return Checked("overfitting", "cannot be told, there was no validation")
    found = find_overfitting(evaluations, record.numbers, record.column("loss"))
    line = f"last validation {evaluations[-1].loss:.3f}, best {min(one.loss for one in evaluations):.3f} nats"
    if found is None:
        return Checked("overfitting", line)
    seen = {
        "best_step": found.best.step,
        "best": found.best.loss,
        "last": found.last.loss,
        "evaluations": found.evaluations,
    }
    return Checked("overfitting", line, (Finding("GG-OVF-001", "warning", seen, confidence=0.9),))


def check_clipping(record: Record, settings: Settings) -> Checked:
    """How many steps were clipped after warmup, and how much."""
    warmup, clip = settings.schedule.warmup_steps, settings.train.clip_norm
    found = clipping(record.numbers, record.column("grad_norm"), clip, warmup_steps=warmup)
    if found is None:
        return Checked("clipping", "off")
    line = f"{found.share:.0%} of the steps after warmup, median norm {found.median:.3g}, clip {clip:g}"
    if found.share <= CLIPPED_SHARE or found.median < CLIPPED_TIMES * clip:
        return Checked("clipping", line)
    seen = {
        "share": round(100 * found.share),
        "clip_norm": clip,
        "median": found.median,
        "wanted": f"{2 * found.median:.1g}",
    }
    return Checked("clipping", line, (Finding("GG-CLP-001", "warning", seen, confidence=0.6),))


def check_speed(record: Record) -> Checked:
    """Whether steps became slower and stayed so."""
    durations = record.durations()
    slow = find_slowdown(durations)
    typical = sorted(durations)[len(durations) // 2]
    line = f"{1000 * typical:.3g} ms a step"
    if slow is None:
        return Checked("speed", line)
    seen = {"ratio": f"{slow.ratio:.1f}", "before": 1000 * slow.before, "now": 1000 * slow.now}
    return Checked("speed", line, (Finding("GG-SPD-001", "warning", seen, confidence=0.8),))
