"""The selection of checks before and at the start of training."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diagnosis_helpers import SHAPES, attend_to_everything, codes, preset_configs, small_batch_config

from glassgpt import api
from glassgpt.data.grammar import grammar_text
from glassgpt.data.shard_format import HEADER, ShardHeader
from glassgpt.data.shards import TokenDataset
from glassgpt.diagnosis import doctor
from glassgpt.diagnosis.catalogue import describe_measurement
from glassgpt.diagnosis.doctor import TrainingPlan, run_startup_checks
from glassgpt.model.build import build_model


def test_checks_stop_after_token_ids_outside_the_vocabulary(prepared, capsys):
    """The model cannot embed them: the doctor must report that instead of failing."""
    dataset = prepared(grammar_text(400, seed=1), grammar_text(100, seed=2))
    shard = dataset.folder / "train-00000.bin"
    header = ShardHeader.read(shard)
    tokens = np.frombuffer(shard.read_bytes(), "<u2", offset=HEADER.size).copy()
    tokens[100] = 300
    checksum = hashlib.sha256(tokens.tobytes()).digest()
    shard.write_bytes(dataclasses.replace(header, checksum=checksum).pack() + tokens.tobytes())
    found = list(api.doctor("nano", data=dataset.folder))
    assert codes(*found) == ["GG-DAT-001"]
    assert "model" not in [check.name for check in found]
    plan = TrainingPlan(SHAPES["gpt2"], small_batch_config(), TokenDataset.open(dataset.folder), Path("runs"))
    assert codes(*run_startup_checks(plan, build_model(plan.model))) == ["GG-DAT-001"]


def test_startup_checks_find_a_leak_and_change_nothing(grammar_dataset):
    plan = TrainingPlan(SHAPES["gpt2"], small_batch_config(learning_rate=5e-3), grammar_dataset, Path("runs"))
    torch.manual_seed(0)
    model = build_model(plan.model)
    rng = torch.get_rng_state()
    assert codes(*run_startup_checks(plan, model)) == []
    assert torch.equal(rng, torch.get_rng_state())
    assert codes(*run_startup_checks(plan, build_model(plan.model, attend_to_everything))) == ["GG-CAU-001"]
    resumed = dataclasses.replace(plan, weights=Path("somewhere"))
    assert "causality" not in [check.name for check in run_startup_checks(resumed, None)]


@pytest.mark.parametrize("preset", ["nano", "tiny", "small", "demo"])
def test_presets_pass_the_startup_checks(preset, grammar_dataset):
    model, settings = preset_configs(preset)
    model = dataclasses.replace(model, vocab_size=grammar_dataset.vocab_size)
    torch.manual_seed(settings.seed)
    plan = TrainingPlan(model, settings, grammar_dataset, Path("runs"))
    assert codes(*run_startup_checks(plan, build_model(model))) == []


def test_large_model_is_checked_with_its_first_blocks(monkeypatch):
    monkeypatch.setattr(doctor, "LARGE_PARAMETERS", 1000)
    shape = dataclasses.replace(SHAPES["gpt2"], n_layer=5)
    checks = list(
        doctor.diagnose_training(TrainingPlan(shape, small_batch_config(learning_rate=5e-3), None, Path("runs")))
    )
    assert codes(*checks) == []
    (told,) = [describe_measurement(check) for check in checks if check.name == "model"]
    assert "2 of 5 blocks" in told


def test_resumed_run_is_checked_again(grammar_data, run, capsys):
    api.train(
        api.resumed_config(run.path, {"train.max_steps": "302", "train.learning_rate": "0.5"}), run.path, resume=True
    )
    assert "GG-CFG-003" in capsys.readouterr().err


@pytest.mark.slow
def test_fine_tuning_on_another_domain_is_not_fatal(prepared, nano_run, tmp_path, run_main):
    korean = "\n".join(f"{i}번째 아이는 글을 배우고 {i * i}번째 문을 연다." for i in range(2000))
    data = prepared(korean[6000:], korean[:6000]).folder
    options = ("--data", data, "--train.learning-rate", "1e-4", "--json")
    code, out, _ = run_main("doctor", "nano", "--init-from", nano_run, *options)
    found = {f["code"]: f["severity"] for check in json.loads(out)["checks"] for f in check["findings"]}
    assert (code, found.get("GG-INI-003")) == (0, "note")


def test_fine_tuning_compares_loaded_weights_with_a_uniform_guess(grammar_data, nano_run):
    """The initial loss of loaded weights is compared with ln V, not with ln V + σ²/2."""
    overrides = {"init_from": str(nano_run), "train.learning_rate": "1e-4"}
    checks = list(api.doctor("nano", data=grammar_data, overrides=overrides))
    assert codes(*checks) == []
    assert any("loaded weights" in describe_measurement(check) for check in checks)
