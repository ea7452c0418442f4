"""Checks of a finished or crashed run from its files."""

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
from glassgpt.diagnosis.catalogue import actions_taken, describe
from glassgpt.diagnosis.checks import run as run_checks
from glassgpt.diagnosis.findings import Finding
from glassgpt.diagnosis.layer_sample import LayerSample
from glassgpt.diagnosis.ngram_baseline import NGramBaseline
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.errors import CheckpointError, TrainingDivergedError
from glassgpt.model.build import build_model
from glassgpt.training.checkpoint import write_manifest
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
    assert RunLog.read(run).status(300) == "finished"


def test_diverged_run_is_reported(run):
    rewrite_metrics(run, lambda lines: [line for line in lines if line["step"] <= 250])
    with run.events.open("a") as file:
        line = {"step": 250, "event": "diverged", "at": 251, "loss": "nan", "grad_norm": "inf"}
        file.write(json.dumps(line) + "\n")
    assert doctor_codes(run) == ["GG-NAN-002"]


@pytest.mark.slow
def test_divergence_of_a_real_run_is_explained(grammar_data, tmp_path):
    """A real training run at an absurd learning rate."""
    config = load_config("nano", {"data": str(grammar_data), "train.learning_rate": 1e30, "train.max_steps": 40})
    with pytest.raises(TrainingDivergedError):
        api.train(config, tmp_path / "run")
    found = doctor_codes(RunFolder(tmp_path / "run"))
    assert {"GG-NAN-014", "GG-CFG-003"} <= set(found)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    noticed = [Finding.from_json(event).code for event in events if event["event"] == "finding"]
    assert noticed[0] == "GG-CFG-003"  # before its first step
    assert set(noticed[1:]) == {"GG-NAN-014"}  # three rollbacks did not help


def test_full_disk_during_training_is_reported(grammar_data, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("glassgpt.training.checkpoint.store.save_aligned", refuse)
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
    assert end.findings[0].evidence == {"step": 0, "error": "IndexError", "problem": "index out of range in self"}


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
    write_manifest(newest_checkpoint(run))
    assert "GG-NAN-003" in doctor_codes(run)


def test_lines_that_are_not_json_are_counted(run):
    with run.metrics.open("a") as file:
        file.write('{"step": 3\nnonsense\n[1]\n')
    found = [check for check in api.doctor(run.path) if check.name == "files"]
    assert codes(*found) == ["GG-END-002"]
    assert found[0].findings[0].evidence["count"] == 3


def test_live_findings_are_reported_once(run):
    finding = Finding("GG-INI-001", "warning", {"loss": 9, "expected": 5, "sigma": 2, "vocab_size": 257, "guessing": 5})
    with run.events.open("a") as file:
        for step in (0, 200):
            file.write(json.dumps(event_of(finding, step)) + "\n")
        file.write(json.dumps({"step": 1, "event": "finding", "code": "torn"}) + "\n")
        file.write(json.dumps(event_of(Finding("GG-XXX-999", "note"), 1)) + "\n")
    assert doctor_codes(run) == ["GG-END-002", "GG-INI-001"]
    assert RunLog.read(run).unreadable == {"events.jsonl": 2}


def test_findings_of_an_older_version_are_reported_although_values_are_missing(run):
    older = [
        Finding("GG-CFG-009", "warning", {"dropout": 0.9}),
        Finding("GG-CFG-002", "note", {"warmup": 1000}, actions=("shortened-warmup",)),
    ]
    with run.events.open("a") as file:
        for finding in older:
            file.write(json.dumps(event_of(finding, 0)) + "\n")
    assert doctor_codes(run) == ["GG-CFG-009", "GG-CFG-002"]
    dropout, warmup = (finding for _, finding in RunLog.read(run).latest_findings())
    assert describe(dropout, "en").do.startswith("Set model.dropout to 0.1")
    assert "1,000 steps does not end before training does (‹steps› steps)" in describe(warmup, "en").title
    assert actions_taken(warmup) == ["Training uses a warmup of ‹taken› steps instead."]
    assert "‹steps›" in describe(warmup, "ko").title
    html = api.report(run.path, []).read_text(encoding="utf-8")
    assert "model.dropout of 0.9" in html
    assert "‹steps› steps" in html


def test_spikes_are_reported(run):
    def spoil(lines):
        return [
            {**line, "loss": line["loss"] + 2} if line.get("step") in (200, 201) and "loss" in line else line
            for line in lines
        ]

    rewrite_metrics(run, spoil)
    assert doctor_codes(run) == ["GG-SPK-002"]


def test_overfitting_is_reported(run):
    def spoil(lines):
        steps = [line for line in lines if "loss" in line]
        rising = [{"step": 50 * i, "validation_loss": 0.4 + 0.1 * i, "validation_tokens": 16384} for i in range(1, 7)]
        return steps + rising

    rewrite_metrics(run, spoil)
    assert doctor_codes(run) == ["GG-OVF-001"]


FLAT = 2.9 + np.random.default_rng(2).normal(0, 0.05, 800)


BASELINE = NGramBaseline(5.55, 2.9, 2.1)


def metric_findings(log: RunLog, **train) -> list[Finding]:
    config = small_batch_config(**{"max_steps": 800, **train})
    checks = list(run_checks.diagnose_metrics(log, SHAPES["gpt2"], config, BASELINE, [100]))
    codes(*checks)  # fills every text
    return [finding for check in checks for finding in check.findings]


@pytest.mark.parametrize(
    ("level", "code", "severity"),
    [(5.55, "GG-LAD-001", "fatal"), (2.9, "GG-LAD-002", "warning"), (2.1, "GG-LAD-003", "note")],
)
def test_loss_stuck_at_a_baseline_is_reported(run, level, code, severity):
    (finding,) = metric_findings(run_log_with(run, FLAT - 2.9 + level))
    assert (finding.code, finding.severity) == (code, severity)


def test_loss_stuck_between_baselines_reports_the_lower_one(run):
    (finding,) = metric_findings(run_log_with(run, FLAT - 0.4))
    assert finding.code == "GG-LAD-003"


def test_finished_run_above_the_unigram_baseline_is_reported(run):
    """Its loss still falls, but the run is over."""
    losses = np.linspace(6, 4.5, 800)
    assert [finding.code for finding in metric_findings(run_log_with(run, losses))] == ["GG-LAD-002"]
    assert metric_findings(run_log_with(run, losses), max_steps=2000) == []


def test_good_validation_loss_prevents_a_stall_finding(run):
    log = dataclasses.replace(run_log_with(run, FLAT), validations=[{"step": 100, "validation_loss": 1.5}])
    assert not any(finding.code.startswith("GG-LAD") for finding in metric_findings(log))


def test_plateau_is_reported_where_the_data_are_gone(run):
    config = small_batch_config(max_steps=800)
    checks = run_checks.diagnose_metrics(run_log_with(run, FLAT), SHAPES["gpt2"], config, None, [100])
    assert codes(*checks) == ["GG-PLT-001"]


def test_clipping_is_reported_once_with_one_severity(run, tmp_path):
    """The live run logged it as well."""
    log = run_log_with(run, np.linspace(5, 1, 800), norm=3.0)
    live = event_of(Finding("GG-CLP-001", "warning", {"share": 1, "clip_norm": 1, "median": 3, "wanted": 6}), 300)
    config = small_batch_config(max_steps=800)
    checks = list(run_checks.diagnose_run(dataclasses.replace(log, events=[live]), SHAPES["gpt2"], config, BASELINE))
    found = [finding for check in checks for finding in check.findings if finding.code == "GG-CLP-001"]
    assert [finding.severity for finding in found] == ["note"]


@pytest.mark.slow
def test_real_run_has_the_same_findings_live_and_from_its_files(grammar_data, tmp_path):
    """Every gradient is clipped."""
    changes = {"data": str(grammar_data), "train.max_steps": 300, "train.clip_norm": 1e-3, "diagnosis.watch": "full"}
    config = load_config("nano", {**changes, "diagnosis.recover": False, "checkpoint.every_steps": 100})
    api.train(config, tmp_path / "run")
    live = [finding for _, finding in RunLog.read(RunFolder(tmp_path / "run")).findings()]
    assert "GG-CLP-001" in [finding.code for finding in live]
    checks = list(api.doctor(tmp_path / "run"))
    reported = [finding for check in checks for finding in check.findings]
    assert sorted(reported, key=lambda one: one.code) == sorted(live, key=lambda one: one.code)
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("glassgpt doctor GG-CLP-001") == 2  # once in each language


def test_slowdown_is_reported_from_files_of_gpu_runs_only(run):
    """On a CPU only the live run can tell other programs from slower work."""
    seconds = np.concatenate([np.full(500, 0.1), np.full(300, 0.3)])
    log = run_log_with(run, np.linspace(5, 1, 800), seconds=seconds)
    assert metric_findings(log) == []
    on_gpu = dataclasses.replace(log, events=[{"step": 0, "event": "start", "hardware": "NVIDIA H100"}])
    assert [finding.code for finding in metric_findings(on_gpu)] == ["GG-SPD-001"]


def test_layer_samples_are_judged_like_those_of_the_live_run(run):
    samples = [LayerSample(step, {"blocks.0.norm1.weight": 1.0}, {"a": 0.2}) for step in (300, 400)]
    run.layers.write_text("".join(json.dumps(dataclasses.asdict(sample)) + "\n" for sample in samples))
    checks = list(api.doctor(run.path))
    assert "GG-UPD-001" in codes(*checks)


def test_layer_samples_of_abandoned_steps_are_left_out(run):
    steps = [100, 200, 300, 200, 300]
    run.layers.write_text("".join(json.dumps({"step": step, "log_z": n}) + "\n" for n, step in enumerate(steps)))
    assert [(sample.step, sample.log_z) for sample in RunLog.read(run).layer_samples] == [(100, 0), (200, 3), (300, 4)]


def test_run_folder_of_version_0_1_is_read(run):
    """Its metrics lack newer columns, and some of its warnings are notes today."""
    old = ("step", "loss", "learning_rate", "grad_norm", "seconds", "validation_loss")
    rewrite_metrics(run, lambda lines: [{name: line[name] for name in old if name in line} for line in lines])
    rewrite_metrics(
        run, lambda lines: [{**line, "loss": 4.0} if line["step"] == 200 and "loss" in line else line for line in lines]
    )
    with run.events.open("a") as file:
        file.write(json.dumps(event_of(Finding("GG-SPK-002", "warning", {"peak": 4, "usual": 1}), 201)) + "\n")
    checks = list(api.doctor(run.path))
    found = [finding for check in checks for finding in check.findings]
    assert [(finding.code, finding.severity) for finding in found] == [("GG-SPK-002", "note")]


@given(st.binary(max_size=300))
@settings(max_examples=50)
def test_any_bytes_in_metrics_can_be_read(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("torn")
    run = RunFolder(folder)
    run.metrics.write_bytes(content)
    record = RunLog.read(run)
    assert record.status(10) in ("running", "killed", "finished")


def test_non_finite_averaged_weights_are_reported(run):
    weights = load_file(newest_checkpoint(run) / "model.safetensors")
    weights["norm.weight"][0] = math.nan
    save_file(weights, newest_checkpoint(run) / "average.safetensors")
    (newest_checkpoint(run) / "manifest.json").unlink()
    write_manifest(newest_checkpoint(run))
    check = run_checks.check_weights(run, [300])
    assert codes(check) == ["GG-NAN-003"]
    assert check.findings[0].evidence["parameter"] == "norm.weight (average)"


def test_vanished_process_counts_as_killed_at_once(run):
    """On this machine only; elsewhere the run counts as dead after a minute without output."""
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
        written = dataclasses.replace(record, events=began, last_written=time.time())
        assert written.status(10**6) == expected


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
        Finding("GG-MEM-012", "warning", {"step": 5, "micro_rows": rows}, actions=("less-memory",)) for rows in (8, 4)
    ]
    later = Finding("GG-MEM-012", "warning", {"step": 7, "micro_rows": 2}, actions=("less-memory",))
    record = dataclasses.replace(RunLog.read(run), events=[event_of(one, 5) for one in (*memory, later)])
    assert [finding.evidence["micro_rows"] for finding in run_checks.check_live_findings(record, []).findings] == [4, 2]


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
    assert RunLog.read(run).status(300) == "killed"
