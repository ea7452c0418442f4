"""The optimizer's settings against the configuration (GG-OPT-001), and its state (GG-OPT-002)."""

from __future__ import annotations

import math
import statistics
from typing import Any

from glassgpt.diagnosis.audit.record import CONFIDENCE, StepCheck, StepRecord
from glassgpt.diagnosis.findings import Finding
from glassgpt.training.config import OptimizerConfig
from glassgpt.training.muon import Muon


def configured_settings(config: OptimizerConfig, group: dict[str, Any]) -> dict[str, Any]:
    """Return what the configuration sets for a group: momenta and weight decay, by the optimizers' names."""
    if "betas" in group:
        own: dict[str, Any] = {"betas": (config.beta1, config.beta2), "eps": config.epsilon}
    else:
        own = {"momentum": config.momentum, "momentum_warmup_steps": config.momentum_warmup_steps}
    return own


class OptimizerSettingsCheck(StepCheck):
    """Compares the settings of each group with the configuration."""

    codes = ("GG-OPT-001",)

    def before_update(self, record: StepRecord) -> Finding | None:
        """Return GG-OPT-001 for the first setting that differs."""
        config = record.trainer.config.optimizer
        names = {id(parameter): name for name, parameter in record.named_parameters().items()}
        decays = {id(p): group["weight_decay"] for _, group in record.configured_groups() for p in group["params"]}
        for optimizer in record.trainer.train_step.optimizers:
            for group in optimizer.param_groups:
                known = [parameter for parameter in group["params"] if id(parameter) in decays]
                if not known:
                    continue
                expected = {**configured_settings(config, group), "weight_decay": decays[id(known[0])]}
                for setting, value in expected.items():
                    if group[setting] != value:
                        return _differs(setting, group[setting], value, names[id(known[0])])
        return None


def _differs(setting: str, actual: Any, expected: Any, parameter: str) -> Finding:
    if setting == "betas":
        setting = "beta1" if actual[0] != expected[0] else "beta2"
        number = int(setting == "beta2")
        actual, expected = actual[number], expected[number]
    evidence = {"setting": setting, "actual": float(actual), "expected": float(expected), "parameter": parameter}
    return Finding("GG-OPT-001", "warning", evidence, CONFIDENCE)


class OptimizerStateCheck(StepCheck):
    """Looks for optimizer state that was lost: fewer updates than steps, or running means that are zero."""

    codes = ("GG-OPT-002",)
    SHARE = 0.5
    """Updates per step, below which state was lost. The float16 scaler skips a few steps at the start."""
    MIN_STEPS, MIN_STEPS_WITH_SCALER = 5, 50
    """In the first steps of Modern most gradients are zero, because its blocks start as the identity."""

    def before_update(self, record: StepRecord) -> Finding | None:
        """Return GG-OPT-002 where the optimizers remember less than half of the steps."""
        done = record.step - 1
        if done < (self.MIN_STEPS_WITH_SCALER if record.trainer.train_step.scaler.is_enabled() else self.MIN_STEPS):
            return None
        trained = {name: held for name, held in record.moments.items() if name in record.gradients}
        if not trained:
            return None
        known = statistics.median(held.steps for held in trained.values())
        empty = [name for name, held in trained.items() if not _remembers(held.state)]
        if known >= self.SHARE * done and len(empty) <= len(trained) / 2:
            return None
        evidence = {"steps": math.floor(known), "done": done, "parameter": empty[0] if empty else next(iter(trained))}
        return Finding("GG-OPT-002", "warning", evidence, CONFIDENCE)


def _remembers(state: dict[str, Any]) -> bool:
    """Return whether no running mean is all zero."""
    return bool(state) and all(bool(values.any()) for values in state.values())


def is_muon(optimizer: object) -> bool:
    """Return whether an optimizer is Muon, whose update needs whole matrices."""
    return isinstance(optimizer, Muon)
