"""Checks of a configuration, of the machine and of the disk. None of them runs the model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from glassgpt.diagnosis.findings import CheckResult, Finding
from glassgpt.model.accounting import checkpoint_bytes, count_parameters
from glassgpt.model.config import ModelConfig
from glassgpt.training.config import OptimizerConfig, TrainConfig, TrainerConfig
from glassgpt.training.cpu_bfloat16 import cpu_has_16_bit_matmul
from glassgpt.training.hardware import Hardware

ADAMW_RATE_TIMES_WIDTH = 0.32
"""AdamW's typical peak learning rate times the width: 3e-4 at 1,024 (Brown et al. 2020), 5e-3 at 64 (measured)."""
MUON_RATE = 0.02
FAR_ABOVE, FAR_BELOW = 10.0, 1 / 30
"""Multiples of the typical learning rate beyond which a rate is reported; all presets are between 0.2 and 2."""
MIN_WARMUP_STEPS = 10
LONG_ENOUGH = 100
"""Runs with fewer steps are trials: some checks skip them."""
MANY_EPOCHS = 40
"""Epochs after which further ones teach next to nothing (Muennighoff et al. 2023)."""
MIN_DECAY_TIMESCALE = 50
"""Steps over which a decayed weight must average its updates. With the preset `nano` on the grammar, a timescale of
2,000 steps ended at 0.42 nats, 200 at 0.45, 100 at 0.52, 50 at 0.65 and 20 at 1.14."""
MAX_EPSILON = 1e-5
"""AdamW's epsilon above which it is no longer small against the root of mean squared gradients; 1e-8 is usual."""
MAX_DROPOUT = 0.5
MIN_BETA2 = 0.8
GIGA = 1e9


def check_config_problems(problems: Sequence[str]) -> CheckResult:
    """Report every problem that the configuration's own validation finds."""
    findings = tuple(Finding("GG-CFG-001", "fatal", {"problem": problem}) for problem in problems)
    return CheckResult("configuration", "problems" if problems else "fine", {"count": len(problems)}, findings)


def typical_learning_rate(model: ModelConfig, settings: TrainerConfig) -> float:
    """Return the typical peak learning rate for a model of this width with this optimizer."""
    return (
        MUON_RATE if settings.optimizer.name == "muon" else ADAMW_RATE_TIMES_WIDTH / (model.base_width or model.n_embd)
    )


def check_learning_rate(model: ModelConfig, settings: TrainerConfig, *, is_fresh: bool) -> CheckResult:
    """Compare the learning rate with the typical one. Loaded weights can be tuned at any low rate."""
    rate, usual = settings.train.learning_rate, typical_learning_rate(model, settings)
    values = {"rate": rate, "usual": f"{usual:.1g}", "steps": settings.train.max_steps}
    findings: list[Finding] = []
    if rate > FAR_ABOVE * usual:
        findings.append(Finding("GG-CFG-003", "warning", values, confidence=0.8))
    if is_fresh and rate < FAR_BELOW * usual:
        findings.append(Finding("GG-CFG-004", "warning", values, confidence=0.8))
    return CheckResult("learning rate", "compared with typical", {"rate": rate, "ratio": rate / usual}, tuple(findings))


def check_warmup(model: ModelConfig, settings: TrainerConfig, *, is_fresh: bool) -> CheckResult:
    """Check that warmup ends before training does, and that AdamW has a warmup if it needs one."""
    schedule, train = settings.schedule, settings.train
    fitted = schedule.fitted(train.max_steps)
    findings: list[Finding] = []
    if fitted != schedule:
        values = {"warmup": schedule.warmup_steps, "steps": train.max_steps, "taken": fitted.warmup_steps}
        findings.append(Finding("GG-CFG-002", "note", values, actions=("shortened-warmup",)))
    elif _lacks_warmup(model, settings) and is_fresh:
        wanted = max(MIN_WARMUP_STEPS, train.max_steps // 20)
        values = {"rate": train.learning_rate, "warmup": schedule.warmup_steps, "wanted": wanted}
        findings.append(Finding("GG-CFG-005", "warning", values, confidence=0.6))
    return CheckResult("warmup", "steps", {"warmup": fitted.warmup_steps, "steps": train.max_steps}, tuple(findings))


def _lacks_warmup(model: ModelConfig, settings: TrainerConfig) -> bool:
    return (
        settings.optimizer.name == "adamw"
        and settings.schedule.warmup_steps < MIN_WARMUP_STEPS
        and settings.train.max_steps >= LONG_ENOUGH
        and settings.train.learning_rate > typical_learning_rate(model, settings) / 2
    )


def check_epochs(
    model: ModelConfig, settings: TrainerConfig, train_tokens: int, *, is_augmented: bool = False
) -> CheckResult:
    """Report many epochs, unless dropout, early stopping or data that are changed each time limit overfitting."""
    asked = settings.train.max_steps * settings.train.batch_tokens
    epochs = asked / max(1, train_tokens)
    has_dropout = max(model.dropout, model.token_dropout) >= 0.1
    is_guarded = has_dropout or is_augmented or settings.train.early_stop_evaluations > 0
    findings: tuple[Finding, ...] = ()
    if epochs > MANY_EPOCHS and not is_guarded:
        values = {"epochs": round(epochs, 1), "tokens": train_tokens, "asked": asked}
        findings = (Finding("GG-CFG-006", "warning", values, confidence=0.7),)
    return CheckResult("epochs", "count", {"epochs": epochs, "tokens": train_tokens}, findings)


def check_weight_decay(model: ModelConfig, settings: TrainerConfig) -> CheckResult:
    """Check the number of steps over which a decayed weight averages its updates: 1 / (learning rate · weight decay).

    See Wang and Aitchison 2024. A learning rate that is too high is not blamed on the decay.
    """
    decay = settings.optimizer.weight_decay
    if decay == 0:
        return CheckResult("weight decay", "none")
    rate = min(settings.train.learning_rate, typical_learning_rate(model, settings))
    steps = 1 / (rate * decay)
    findings: tuple[Finding, ...] = ()
    if steps < MIN_DECAY_TIMESCALE:
        wanted = f"{1 / (rate * 20 * MIN_DECAY_TIMESCALE):.1g}"
        findings = (Finding("GG-CFG-007", "warning", {"decay": decay, "steps": steps, "wanted": wanted}, 0.8),)
    return CheckResult("weight decay", "timescale", {"decay": decay, "steps": steps}, findings)


def check_adamw(settings: TrainerConfig) -> CheckResult:
    """Check that AdamW's epsilon is small, and that its decay rates are in the usual relation."""
    optimizer = settings.optimizer
    beta1, beta2 = optimizer.beta1, optimizer.beta2
    findings: list[Finding] = []
    if optimizer.epsilon > MAX_EPSILON:
        findings.append(Finding("GG-CFG-008", "warning", {"epsilon": optimizer.epsilon}, confidence=0.9))
    if beta2 < MIN_BETA2 or beta1**2 >= beta2**0.5:
        findings.append(Finding("GG-CFG-010", "warning", {"beta1": beta1, "beta2": beta2}, confidence=0.9))
    values = {"epsilon": optimizer.epsilon, "beta1": beta1, "beta2": beta2}
    return CheckResult("AdamW", "settings", values, tuple(findings))


def with_usual_adamw(optimizer: OptimizerConfig) -> OptimizerConfig:
    """Return the optimizer with the usual epsilon and decay rates."""
    usual = OptimizerConfig()
    return replace(optimizer, epsilon=usual.epsilon, beta1=usual.beta1, beta2=usual.beta2)


def check_dropout(model: ModelConfig) -> CheckResult:
    """Check that dropout leaves most of what a layer passes on, and token dropout most of the text."""
    values = {"dropout": model.dropout, "token_dropout": model.token_dropout}
    findings = (
        Finding("GG-CFG-009", "warning", {"setting": f"model.{name}", "dropout": share}, confidence=0.9)
        for name, share in values.items()
        if share > MAX_DROPOUT
    )
    return CheckResult("dropout", "share", values, tuple(findings))


def check_hardware(model: ModelConfig, train: TrainConfig, hardware: Hardware) -> CheckResult:
    """Report the device, the precision and the attention kernel."""
    kernel = hardware.attention_kernel(model)
    findings: list[Finding] = []
    if hardware.device.type == "cpu" and hardware.precision != "fp32" and not cpu_has_16_bit_matmul():
        findings.append(Finding("GG-HW-001", "note", {"precision": train.precision}))
    if hardware.device.type == "cuda" and kernel == "math":
        values = {"precision": hardware.precision, "head_dim": model.head_width}
        findings.append(Finding("GG-HW-002", "warning", values))
    return CheckResult("hardware", "found", {"hardware": hardware.describe(), "kernel": kernel}, tuple(findings))


def check_disk(model: ModelConfig, settings: TrainerConfig, folder: Path) -> CheckResult:
    """Check that the disk has space for the checkpoints of a run in `folder`, which need not exist yet."""
    kept = settings.checkpoint.max_kept
    needed = kept * checkpoint_bytes(count_parameters(model), averaged=settings.train.ema_decay > 0)
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    values = {"needed": needed / GIGA, "free": free / GIGA, "kept": kept}
    findings = (Finding("GG-DSK-001", "fatal", values),) if needed > free else ()
    return CheckResult("disk", "space", {"needed": needed / GIGA, "free": free / GIGA}, findings)
