"""Checks of a configuration as a whole, of the machine and of the disk. Nothing is computed with the model yet."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from glassgpt.diagnosis.findings import CheckResult, Finding
from glassgpt.model.accounting import checkpoint_bytes
from glassgpt.model.config import ModelConfig
from glassgpt.training.config import TrainConfig, TrainerConfig
from glassgpt.training.hardware import Hardware

ADAMW_RATE_TIMES_WIDTH = 0.32
"""AdamW's usual peak rate falls with the width: 3e-4 at 1,024 (Brown et al. 2020), 5e-3 at 64 (measured here)."""
MUON_RATE = 0.02
FAR_ABOVE, FAR_BELOW = 10.0, 1 / 30
"""Times the usual rate, beyond which a configuration is questioned; every preset lies between 0.2 and 2."""
LEAST_WARMUP = 10
LONG_ENOUGH = 100
"""Steps of a run that is more than a trial."""
MANY_EPOCHS = 40
"""Readings of a text after which more of them teach next to nothing (Muennighoff et al. 2023)."""
LEAST_MEMORY_STEPS = 50
"""Steps that a weight must remember what it learned. With the preset `nano` on the grammar 2,000 ended at 0.42 nats, 200
at 0.45, 100 at 0.52, 50 at 0.65 and 20 at 1.14."""
GIGA = 1e9


def check_config_problems(problems: Sequence[str]) -> CheckResult:
    """Everything that cannot work, as the configuration itself says it."""
    findings = tuple(Finding("GG-CFG-001", "fatal", {"problem": problem}) for problem in problems)
    return CheckResult("configuration", "problems" if problems else "fine", {"count": len(problems)}, findings)


def typical_learning_rate(model: ModelConfig, settings: TrainerConfig) -> float:
    """The peak rate that such a model usually takes with its optimizer."""
    return MUON_RATE if settings.optimizer.name == "muon" else ADAMW_RATE_TIMES_WIDTH / model.n_embd


def check_learning_rate(model: ModelConfig, settings: TrainerConfig, *, is_fresh: bool) -> CheckResult:
    """The learning rate beside the usual one. Loaded weights may be trained with as low a rate as one likes."""
    rate, usual = settings.train.learning_rate, typical_learning_rate(model, settings)
    seen = {"rate": rate, "usual": f"{usual:.1g}", "steps": settings.train.max_steps}
    findings: list[Finding] = []
    if rate > FAR_ABOVE * usual:
        findings.append(Finding("GG-CFG-003", "warning", seen, confidence=0.8))
    if is_fresh and rate < FAR_BELOW * usual:
        findings.append(Finding("GG-CFG-004", "warning", seen, confidence=0.8))
    return CheckResult("learning rate", "compared with typical", {"rate": rate, "ratio": rate / usual}, tuple(findings))


def check_warmup(model: ModelConfig, settings: TrainerConfig, *, is_fresh: bool) -> CheckResult:
    """Whether warmup ends before training does, and whether AdamW has one where it needs one."""
    schedule, train = settings.schedule, settings.train
    fitted = schedule.fitted(train.max_steps)
    findings: list[Finding] = []
    if fitted != schedule:
        seen = {"warmup": schedule.warmup_steps, "steps": train.max_steps, "taken": fitted.warmup_steps}
        findings.append(Finding("GG-CFG-002", "note", seen, actions=("shortened-warmup",)))
    elif _lacks_warmup(model, settings) and is_fresh:
        wanted = max(LEAST_WARMUP, train.max_steps // 20)
        seen = {"rate": train.learning_rate, "warmup": schedule.warmup_steps, "wanted": wanted}
        findings.append(Finding("GG-CFG-005", "warning", seen, confidence=0.6))
    return CheckResult("warmup", "steps", {"warmup": fitted.warmup_steps, "steps": train.max_steps}, tuple(findings))


def _lacks_warmup(model: ModelConfig, settings: TrainerConfig) -> bool:
    return (
        settings.optimizer.name == "adamw"
        and settings.schedule.warmup_steps < LEAST_WARMUP
        and settings.train.max_steps >= LONG_ENOUGH
        and settings.train.learning_rate > typical_learning_rate(model, settings) / 2
    )


def check_epochs(model: ModelConfig, settings: TrainerConfig, train_tokens: int) -> CheckResult:
    """How often the text is read; often is no mistake where dropout or early stopping guards against it."""
    asked = settings.train.max_steps * settings.train.batch_tokens
    epochs = asked / max(1, train_tokens)
    is_guarded = model.dropout >= 0.1 or settings.train.early_stop_evaluations > 0
    findings: tuple[Finding, ...] = ()
    if epochs > MANY_EPOCHS and not is_guarded:
        seen = {"epochs": round(epochs, 1), "tokens": train_tokens, "asked": asked}
        findings = (Finding("GG-CFG-006", "warning", seen, confidence=0.7),)
    return CheckResult("epochs", "count", {"epochs": epochs, "tokens": train_tokens}, findings)


def check_weight_decay(model: ModelConfig, settings: TrainerConfig) -> CheckResult:
    """For how many steps a decayed weight remembers: it is a running mean of its updates over 1 / (rate · decay).

    Wang and Aitchison 2024. A rate that is too high is not held against the decay.
    """
    decay = settings.optimizer.weight_decay
    if decay == 0:
        return CheckResult("weight decay", "none")
    rate = min(settings.train.learning_rate, typical_learning_rate(model, settings))
    steps = 1 / (rate * decay)
    findings: tuple[Finding, ...] = ()
    if steps < LEAST_MEMORY_STEPS:
        wanted = f"{1 / (rate * 20 * LEAST_MEMORY_STEPS):.1g}"
        findings = (Finding("GG-CFG-007", "warning", {"decay": decay, "steps": steps, "wanted": wanted}, 0.8),)
    return CheckResult("weight decay", "timescale", {"decay": decay, "steps": steps}, findings)


def check_hardware(model: ModelConfig, train: TrainConfig, hardware: Hardware) -> CheckResult:
    """Device, precision and the kernel that attention runs with."""
    kernel = hardware.attention_kernel(model)
    findings: list[Finding] = []
    if hardware.device.type == "cpu" and hardware.precision != "fp32" and not cpu_has_16_bit_matmul():
        findings.append(Finding("GG-HW-001", "note", {"precision": train.precision}))
    if hardware.device.type == "cuda" and kernel == "math":
        seen = {"precision": hardware.precision, "head_dim": model.head_dim}
        findings.append(Finding("GG-HW-002", "warning", seen))
    return CheckResult("hardware", "found", {"hardware": hardware.describe(), "kernel": kernel}, tuple(findings))


def cpu_has_16_bit_matmul(description: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies 16-bit matrices itself; unknown counts as yes."""
    if not description.is_file():
        return True
    return bool(re.search(r"\b(amx_bf16|avx512_bf16|bf16)\b", description.read_text(errors="replace")))


def check_disk(model: ModelConfig, settings: TrainerConfig, folder: Path) -> CheckResult:
    """Space for the checkpoints where the run is to be written; the folder need not exist."""
    kept = settings.checkpoint.max_kept
    needed = kept * checkpoint_bytes(model, averaged=settings.train.ema_decay > 0)
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    seen = {"needed": needed / GIGA, "free": free / GIGA, "kept": kept}
    findings = (Finding("GG-DSK-001", "fatal", seen),) if needed > free else ()
    return CheckResult("disk", "space", {"needed": needed / GIGA, "free": free / GIGA}, findings)
