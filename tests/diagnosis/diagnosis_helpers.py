"""Small models, configurations and runs shared by the tests of diagnosis."""

import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from glassgpt import api
from glassgpt.config import load_config
from glassgpt.diagnosis.catalogue import (
    actions_taken,
    check_name,
    describe,
    describe_measurement,
    ruled_out_causes,
)
from glassgpt.diagnosis.findings import EVENT, CheckResult, Finding
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.locale import LANGUAGES
from glassgpt.model.config import ModelConfig
from glassgpt.training.config import CheckpointConfig, OptimizerConfig, ScheduleConfig, TrainConfig, TrainerConfig
from glassgpt.training.hardware import Hardware
from glassgpt.training.run_folder import RunFolder

CPU = Hardware(torch.device("cpu"), "fp32", compile=False)
SHAPES = {
    "gpt2": ModelConfig(vocab_size=257, context_length=32, n_layer=2, n_head=2, n_embd=32, init_std=0.08),
    "modern": ModelConfig("modern", vocab_size=257, context_length=32, n_layer=2, n_head=2, n_embd=32, bias=False),
    "llama": ModelConfig(
        "llama",
        vocab_size=257,
        context_length=32,
        n_layer=2,
        n_head=4,
        n_kv_head=2,
        n_embd=32,
        init_std=0.08,
        bias=False,
    ),
}


def codes(*checks: CheckResult) -> list[str]:
    """Codes of the findings. Also fills in every text in both languages, which fails if a value is missing."""
    findings = [finding for check in checks for finding in check.findings]
    for finding in findings:
        for language in LANGUAGES:
            assert "{" not in describe(finding, language).means
            actions_taken(finding, language), ruled_out_causes(finding, language)
    for check in checks:
        assert all(check_name(check, language) and describe_measurement(check, language) for language in LANGUAGES)
    return [finding.code for finding in findings]


def event_of(finding: Finding, step: int) -> dict[str, object]:
    """The line of `events.jsonl` that records a finding at a step."""
    return {"step": step, "event": EVENT, **finding.to_json()}


def preset_configs(preset: str) -> tuple[ModelConfig, TrainerConfig]:
    config = load_config(preset)
    model = dataclasses.replace(config.model, vocab_size=config.model.vocab_size or 4096)
    return model, TrainerConfig(config.train, config.optimizer, config.schedule, config.checkpoint, config.seed)


def with_train(settings: TrainerConfig, **changes) -> TrainerConfig:
    return dataclasses.replace(settings, train=dataclasses.replace(settings.train, **changes))


def attend_to_everything(q, k, v, mask, dropout, window=0):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def small_batch_config(**train) -> TrainerConfig:
    return TrainerConfig(
        TrainConfig(batch_tokens=8 * 32, **train), OptimizerConfig(), ScheduleConfig(), CheckpointConfig()
    )


def doctor_codes(run: RunFolder) -> list[str]:
    """Codes that the doctor reports for a run, except those about speed: test machines are shared."""
    return [code for code in codes(*api.doctor(run.path)) if code != "GG-SPD-001"]


def rewrite_metrics(run: RunFolder, change) -> None:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in change(lines)))


def make_old(run: RunFolder) -> None:
    for file in (run.metrics, run.events):
        os.utime(file, (1e9, 1e9))


def newest_checkpoint(run: RunFolder) -> Path:
    return run.checkpoints / (run.checkpoints / "latest").read_text().strip()


def run_log_with(run: RunFolder, losses, *, rate=1.0, norm=0.5, seconds=0.1) -> RunLog:
    seconds_each = np.broadcast_to(seconds, len(losses))
    steps = [
        {"step": i, "loss": float(loss), "learning_rate": rate, "grad_norm": norm, "seconds": float(done)}
        for i, (loss, done) in enumerate(zip(losses, np.cumsum(seconds_each), strict=True), start=1)
    ]
    return RunLog(run, steps, [], [], {}, time.time())
