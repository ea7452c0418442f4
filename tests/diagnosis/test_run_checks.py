"""Checks of a finished or dead run from its files."""

import dataclasses
import errno
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from diagnosis_helpers import (
    SHAPES,
    codes,
    doctor_codes,
    event_of,
    make_old,
    newest_checkpoint,
    rewrite_metrics,
    run_log_with,
    small_batch_config,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from glassgpt import api
from glassgpt.config import load_config
from glassgpt.data.tokenizers import load_tokenizer
from glassgpt.diagnosis.checks import run as run_checks
from glassgpt.diagnosis.findings import Finding
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.diagnosis.series import NGramBaseline
from glassgpt.errors import CheckpointError, TrainingDivergedError
from glassgpt.model.build import build_model
from glassgpt.training.checkpoint import _seal
from glassgpt.training.run_folder import RunFolder


def test_healthy_run_has_no_findings(run):
    assert doctor_codes(run) == []


def test_killed_run_is_distinguished_from_a_running_one(run):
    rewrite_metrics(run, lambda lines: [line for line in lines if line["step"] <= 250])
    assert doctor_codes(run) == []  # written a moment ago: it runs
    make_old(run)
    assert doctor_codes(run) == ["GG-END-001"]
    with run.events.open("a") as file:
        file.write(json.dumps({"step": 250, "event": "interrupted", "signal": 2}) + "\n")
    assert doctor_codes(run) == []


def test_end_of_a_resumed_run_ignores_earlier_ends(run):
    with run.events.open("a") as file:
        for event in ("interrupted", "resume"):
            file.write(json.dumps({"step": 250, "event": event}) + "\n")
    make_old(run)
    assert RunLog.read(run).end(300) == "finished"


def test_diverged_run_is_reported(run):
    rewrite_metrics(run, lambda lines: [line for line in lines if line["step"] <= 250])
    with run.events.open("a") as file:
        line = {"step": 250, "event": "diverged", "at": 251, "loss": "nan", "grad_norm": "inf"}
        file.write(json.dumps(line) + "\n")
    assert doctor_codes(run) == ["GG-NAN-002"]


def test_divergence_of_a_real_run_is_explained(grammar_data, tmp_path):
    """An absurd rate in a real training; what it leaves behind is enough."""
    config = load_config("nano", {"data": str(grammar_data), "train.learning_rate": 1e30, "train.max_steps": 40})
    with pytest.raises(TrainingDivergedError):
        api.train(config, tmp_path / "run")
    found = doctor_codes(RunFolder(tmp_path / "run"))
    assert {"GG-NAN-014", "GG-CFG-003"} <= set(found)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    noticed = [Finding.from_json(event).code for event in events if event["event"] == "finding"]
    assert noticed[0] == "GG-CFG-003"  # before its first step
    assert set(noticed[1:]) == {"GG-NAN-014"}  # three rewinds did not help


def test_full_disk_during_training_is_reported(grammar_data, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("glassgpt.training.checkpoint.save_file", refuse)
    config = load_config("nano", {"data": str(grammar_data), "train.max_steps": 12, "checkpoint.every_steps": 8})
    with pytest.raises(CheckpointError):
        api.train(config, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert {"GG-DSK-002", "GG-CKP-002"} <= set(doctor_codes(run))
    assert "GG-END-001" not in doctor_codes(run)
    assert (tmp_path / "run" / "report.html").is_file()


def test_error_that_ended_a_run_is_named(grammar_data, tmp_path, monkeypatch):
    def fail(*arguments):
        raise IndexError("index out of range in self")

    monkeypatch.setattr("glassgpt.training.step.TrainStep._accumulate", fail)
    config = load_config("nano", {"data": str(grammar_data), "train.max_steps": 12})
    with pytest.raises(IndexError):
        api.train(config, tmp_path / "run")
    (end,) = [check for check in api.doctor(tmp_path / "run") if check.name == "end"]
    assert codes(end) == ["GG-END-003"]
    assert end.findings[0].seen == {"step": 0, "error": "IndexError", "problem": "index out of range in self"}


def test_damaged_checkpoint_is_reported(run):
    weights = newest_checkpoint(run) / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    assert "GG-CKP-001" in doctor_codes(run)


def test_run_without_an_intact_checkpoint_is_reported(run):
    for manifest in run.checkpoints.glob("*/manifest.json"):
        manifest.unlink()
    assert "GG-CKP-002" in doctor_codes(run)


def test_unfinished_checkpoint_is_reported(run):
    (run.checkpoints / ".staging-123").mkdir()
    assert doctor_codes(run) == ["GG-CKP-003"]


def test_non_finite_weights_are_reported(run):
    file = newest_checkpoint(run) / "model.safetensors"
    weights = load_file(file)
    weights["norm.weight"][3] = math.inf
    save_file(weights, file)
    (newest_checkpoint(run) / "manifest.json").unlink()
    _seal(newest_checkpoint(run))
    assert "GG-NAN-003" in doctor_codes(run)


def test_lines_that_are_not_json_are_counted(run):
    with run.metrics.open("a") as file:
        file.write('{"step": 3\nnonsense\n[1]\n')
    found = [check for check in api.doctor(run.path) if check.name == "files"]
    assert codes(*found) == ["GG-END-002"]
    assert found[0].findings[0].seen["count"] == 3


def test_live_findings_are_reported_once(run):
    finding = Finding("GG-INI-001", "warning", {"loss": 9, "expected": 5, "sigma": 2, "vocab_size": 257, "guessing": 5})
    with run.events.open("a") as file:
        for step in (0, 200):
            file.write(json.dumps(event_of(finding, step)) + "\n")
        file.write(json.dumps({"step": 1, "event": "finding", "code": "torn"}) + "\n")
        file.write(json.dumps(event_of(Finding("GG-XXX-999", "note"), 1)) + "\n")
    assert doctor_codes(run) == ["GG-END-002", "GG-INI-001"]
    assert RunLog.read(run).unreadable == {"events.jsonl": 2}


def test_spikes_are_reported(run):
    def spoil(lines):
        return [
            {**line, "loss": line["loss"] + 2} if line.get("step") in (200, 201) and "loss" in line else line
            for line in lines
        ]

    rewrite_metrics(run, spoil)
    assert doctor_codes(run) == ["GG-SPK-001"]


def test_overfitting_is_reported(run):
    def spoil(lines):
        steps = [line for line in lines if "loss" in line]
        rising = [{"step": 50 * i, "validation_loss": 0.4 + 0.1 * i, "validation_tokens": 16384} for i in range(1, 7)]
        return steps + rising

    rewrite_metrics(run, spoil)
    assert doctor_codes(run) == ["GG-OVF-001"]


FLAT = 2.9 + np.random.default_rng(2).normal(0, 0.05, 800)


@pytest.mark.parametrize(("level", "code"), [(5.55, "GG-LAD-001"), (2.9, "GG-LAD-002"), (2.1, "GG-LAD-003")])
def test_loss_stuck_at_a_baseline_is_reported(run, level, code):
    ladder = NGramBaseline(5.55, 2.9, 2.1)
    record = run_log_with(run, FLAT - 2.9 + level)
    assert codes(run_checks.check_ngram_baselines(record, small_batch_config(max_steps=800), ladder)) == [code]


def test_loss_stuck_between_baselines_reports_the_lower_one(run):
    ladder = NGramBaseline(5.55, 2.9, 2.1)
    check = run_checks.check_ngram_baselines(run_log_with(run, FLAT - 0.4), small_batch_config(max_steps=800), ladder)
    assert codes(check) == ["GG-LAD-003"]
    assert check.findings[0].severity == "warning"


def test_finished_run_above_the_unigram_baseline_is_reported(run):
    """It still falls, but it is over."""
    losses = np.linspace(6, 4.5, 800)
    ladder = NGramBaseline(5.55, 2.9, 2.1)
    check = run_checks.check_ngram_baselines
    assert codes(check(run_log_with(run, losses), small_batch_config(max_steps=800), ladder)) == ["GG-LAD-002"]
    assert codes(check(run_log_with(run, losses), small_batch_config(max_steps=2000), ladder)) == []


def test_good_validation_loss_prevents_a_stall_finding(run):
    record = dataclasses.replace(run_log_with(run, FLAT), validations=[{"step": 700, "validation_loss": 1.5}])
    assert (
        codes(
            run_checks.check_ngram_baselines(record, small_batch_config(max_steps=800), NGramBaseline(5.55, 2.9, 2.1))
        )
        == []
    )


def test_plateau_clipping_and_slowdown_are_reported(run):
    settings = small_batch_config(max_steps=800)
    assert codes(run_checks.check_plateau(run_log_with(run, FLAT), settings)) == ["GG-PLT-001"]
    assert codes(run_checks.check_clipping(run_log_with(run, FLAT, norm=12.0), settings)) == ["GG-CLP-001"]
    assert codes(run_checks.check_clipping(run_log_with(run, FLAT, norm=3.0), settings)) == []
    slow = np.concatenate([np.full(500, 0.1), np.full(300, 0.2)])
    assert codes(run_checks.check_speed(run_log_with(run, FLAT, seconds=slow))) == ["GG-SPD-001"]
    assert codes(run_checks.check_speed(run_log_with(run, FLAT))) == []


@given(st.binary(max_size=300))
@settings(max_examples=50)
def test_any_bytes_in_metrics_can_be_read(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("torn")
    run = RunFolder(folder)
    run.metrics.write_bytes(content)
    record = RunLog.read(run)
    assert record.end(10) in ("running", "killed", "finished")


def test_non_finite_averaged_weights_are_reported(run):
    weights = load_file(newest_checkpoint(run) / "model.safetensors")
    weights["norm.weight"][0] = math.nan
    save_file(weights, newest_checkpoint(run) / "average.safetensors")
    (newest_checkpoint(run) / "manifest.json").unlink()
    _seal(newest_checkpoint(run))
    check = run_checks.check_weights(run, [300])
    assert codes(check) == ["GG-NAN-003"]
    assert check.findings[0].seen["parameter"] == "norm.weight (average)"


def test_vanished_process_counts_as_killed_at_once(run):
    """Where it ran on this machine; elsewhere a minute of silence tells."""
    record = RunLog.read(run)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for host, process, expected in (
        (platform.node(), gone.pid, "killed"),
        (platform.node(), os.getpid(), "running"),
        ("another", gone.pid, "running"),
        (platform.node(), "?", "running"),
    ):
        began = [{"step": 0, "event": "start", "host": host, "pid": process}]
        written = dataclasses.replace(record, events=began, written=time.time())
        assert written.end(10**6) == expected


def test_cause_named_by_a_replay_replaces_the_guess(run, tmp_path):
    copied = RunFolder(tmp_path / "copied")
    shutil.copytree(run.path, copied.path)
    known = Finding(
        "GG-NAN-011", "fatal", {"step": 9, "why": "every-row-fails", "text": "x", "start": 1, "module": "y"}
    )
    ended = {"step": 9, "event": "diverged", "at": 9, "loss": "nan", "grad_norm": "nan"}
    with open(copied.events, "a") as file:
        file.write(json.dumps(ended) + "\n")
    assert "GG-NAN-002" in doctor_codes(copied)
    with open(copied.events, "a") as file:
        file.write(json.dumps(event_of(known, 9)) + "\n")
    assert "GG-NAN-002" not in doctor_codes(copied)
    assert "GG-NAN-011" in doctor_codes(copied)


def test_only_the_last_finding_of_a_step_is_reported(run):
    memory = [
        Finding("GG-MEM-012", "warning", {"step": 5, "micro_rows": rows}, done=("less-memory",)) for rows in (8, 4)
    ]
    later = Finding("GG-MEM-012", "warning", {"step": 7, "micro_rows": 2}, done=("less-memory",))
    record = dataclasses.replace(RunLog.read(run), events=[event_of(one, 5) for one in (*memory, later)])
    assert [finding.seen["micro_rows"] for finding in run_checks.check_live_findings(record, []).findings] == [4, 2]


def test_imported_run_has_no_findings(tmp_path):
    model = build_model(SHAPES["gpt2"])
    run = api.save_as_run(model, load_tokenizer("bytes"), tmp_path / "imported")
    checks = list(api.doctor(run.path))
    assert codes(*checks) == []
    assert {check.name: check.outcome for check in checks}["end"] == "imported"


def test_run_killed_before_its_first_step_is_not_imported(run):
    run.metrics.write_text("")
    start = {"step": 0, "event": "start"}
    run.events.write_text(json.dumps(start) + "\n")
    make_old(run)
    assert RunLog.read(run).end(300) == "killed"
