"""Checks of settings, hardware and disk space."""

import dataclasses
import shutil

import pytest
import torch
from diagnosis_helpers import CPU, codes, preset_configs, with_train

from glassgpt.config import preset_names
from glassgpt.diagnosis.catalogue import actions_taken
from glassgpt.diagnosis.checks import settings as settings_checks
from glassgpt.training.config import OptimizerConfig, ScheduleConfig
from glassgpt.training.hardware import Hardware


@pytest.mark.parametrize("preset", preset_names())
def test_presets_pass_the_settings_checks(preset, tmp_path):
    model, settings = preset_configs(preset)
    fresh = not preset.startswith("finetune")
    assert codes(
        settings_checks.check_learning_rate(model, settings, is_fresh=fresh),
        settings_checks.check_warmup(model, settings, is_fresh=fresh),
        settings_checks.check_weight_decay(model, settings),
        settings_checks.check_adamw(settings),
        settings_checks.check_dropout(model),
        settings_checks.check_epochs(model, settings, settings.train.max_steps * settings.train.batch_tokens // 30),
    ) == []  # fmt: skip


@pytest.mark.parametrize("preset", ["nano", "demo", "gpt2", "textbooks-124m"])
@pytest.mark.parametrize(("factor", "code"), [(30, "GG-CFG-003"), (1e-3, "GG-CFG-004")])
def test_learning_rate_far_from_typical_is_reported(preset, factor, code):
    model, settings = preset_configs(preset)
    wrong = with_train(settings, learning_rate=settings.train.learning_rate * factor)
    assert codes(settings_checks.check_learning_rate(model, wrong, is_fresh=True)) == [code]


def test_low_learning_rate_is_fine_for_loaded_weights():
    model, settings = preset_configs("gpt2")
    assert (
        codes(settings_checks.check_learning_rate(model, with_train(settings, learning_rate=1e-6), is_fresh=False))
        == []
    )


def test_adamw_without_warmup_is_reported():
    model, settings = preset_configs("nano")
    cold = dataclasses.replace(settings, schedule=ScheduleConfig(warmup_steps=0))
    assert codes(settings_checks.check_warmup(model, cold, is_fresh=True)) == ["GG-CFG-005"]
    assert codes(settings_checks.check_warmup(model, with_train(cold, max_steps=30), is_fresh=True)) == []


def test_warmup_longer_than_training_reports_the_shortened_one():
    model, settings = preset_configs("nano")
    check = settings_checks.check_warmup(model, with_train(settings, max_steps=20), is_fresh=True)
    assert codes(check) == ["GG-CFG-002"]
    assert actions_taken(check.findings[0]) == ["Training uses a warmup of 2 steps instead."]


def test_many_epochs_are_reported_without_dropout_or_early_stopping():
    model, settings = preset_configs("nano")
    asked = settings.train.max_steps * settings.train.batch_tokens
    assert codes(settings_checks.check_epochs(model, settings, asked // 50)) == ["GG-CFG-006"]
    for name in ("dropout", "token_dropout"):
        guarded = dataclasses.replace(model, **{name: 0.2})
        assert codes(settings_checks.check_epochs(guarded, settings, asked // 50)) == []
    stopping = with_train(settings, early_stop_evaluations=3)
    assert codes(settings_checks.check_epochs(model, stopping, asked // 50)) == []


@pytest.mark.parametrize(("decay", "expected"), [(0.0, []), (0.1, []), (1.0, []), (10.0, ["GG-CFG-007"])])
def test_excessive_weight_decay_is_reported(decay, expected):
    model, settings = preset_configs("nano")
    decayed = dataclasses.replace(settings, optimizer=OptimizerConfig(weight_decay=decay))
    assert codes(settings_checks.check_weight_decay(model, decayed)) == expected
    # A learning rate that is too high is not blamed on the decay.
    assert codes(settings_checks.check_weight_decay(model, with_train(decayed, learning_rate=1.0))) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"beta2": 0.999, "epsilon": 1e-6}, []),
        ({"epsilon": 1.0}, ["GG-CFG-008"]),
        ({"beta2": 0.0}, ["GG-CFG-010"]),
        ({"beta2": 0.5}, ["GG-CFG-010"]),
        ({"beta1": 0.99, "beta2": 0.9}, ["GG-CFG-010"]),
    ],
)
def test_unusual_adamw_settings_are_reported(changes, expected):
    _, settings = preset_configs("nano")
    changed = dataclasses.replace(settings, optimizer=OptimizerConfig(**changes))
    assert codes(settings_checks.check_adamw(changed)) == expected


@pytest.mark.parametrize(("dropout", "expected"), [(0.0, []), (0.5, []), (0.9, ["GG-CFG-009"])])
@pytest.mark.parametrize("name", ["dropout", "token_dropout"])
def test_excessive_dropout_is_reported(name, dropout, expected):
    model, _ = preset_configs("nano")
    found = settings_checks.check_dropout(dataclasses.replace(model, **{name: dropout}))
    assert codes(found) == expected
    assert all(finding.evidence == {"setting": f"model.{name}", "dropout": dropout} for finding in found.findings)


def test_too_little_disk_space_is_reported(tmp_path, monkeypatch):
    model, settings = preset_configs("nano")
    assert codes(settings_checks.check_disk(model, settings, tmp_path / "not" / "yet")) == []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert codes(settings_checks.check_disk(model, settings, tmp_path)) == ["GG-DSK-001"]


def test_bf16_on_a_cpu_without_16_bit_units_is_reported(monkeypatch):
    model, settings = preset_configs("nano")
    check = settings_checks.check_hardware
    assert codes(check(model, settings.train, CPU)) == []
    monkeypatch.setattr(settings_checks, "cpu_has_16_bit_matmul", lambda: False)
    train = dataclasses.replace(settings.train, precision="bf16")
    assert codes(check(model, train, Hardware(torch.device("cpu"), "bf16", compile=False))) == ["GG-HW-001"]


def test_cpu_features_are_read_from_cpuinfo(tmp_path):
    (tmp_path / "old").write_text("flags : avx avx2 fma")
    (tmp_path / "new").write_text("flags : avx2 avx512_bf16 amx_bf16")
    assert not settings_checks.cpu_has_16_bit_matmul(tmp_path / "old")
    assert settings_checks.cpu_has_16_bit_matmul(tmp_path / "new")
    assert settings_checks.cpu_has_16_bit_matmul(tmp_path / "unknown")


def test_unfused_attention_on_a_gpu_is_reported(monkeypatch):
    model, settings = preset_configs("nano")
    monkeypatch.setattr(Hardware, "attention_kernel", lambda *_: "math")
    monkeypatch.setattr(Hardware, "describe", lambda _: "a GPU")
    gpu = Hardware(torch.device("cuda"), "fp32", compile=False)
    assert codes(settings_checks.check_hardware(model, settings.train, gpu)) == ["GG-HW-002"]
