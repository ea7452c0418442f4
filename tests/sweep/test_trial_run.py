"""The outcome of a trial is read from its exit code and its files; its validations from a file that grows and is replaced."""

import json
import os
import signal
import time

import pytest

from glassgpt.diagnosis.findings import EVENT
from glassgpt.sweep.trial_run import MetricsReader, TrialCommand, TrialRun, last_error, trial_outcome
from glassgpt.training.run_folder import RunFolder


def step_line(step, loss=2.0):
    return {
        "step": step,
        "loss": loss,
        "learning_rate": 1e-3,
        "grad_norm": 1.0,
        "tokens": 64 * step,
        "seconds": step / 10,
    }


def validation_line(step, loss):
    return {
        "step": step,
        "validation_loss": loss,
        "validation_bits_per_byte": 1.0,
        "validation_tokens": 10,
        "best": True,
    }


@pytest.fixture
def run(tmp_path):
    """Return a function that writes a run and the output of its process, and returns how it ended."""

    def write(code, output="", metrics=(), events=()):
        folder, log = RunFolder(tmp_path / "run"), tmp_path / "log.txt"
        folder.path.mkdir(exist_ok=True)
        folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in metrics))
        folder.events.write_text("".join(json.dumps(line) + "\n" for line in events))
        log.write_text(output)
        return trial_outcome(folder, code, log)

    return write


METRICS = [step_line(10), validation_line(10, 3.5), step_line(20), validation_line(20, 3.25)]
START = {"step": 0, "event": "start", "host": "x", "pid": 1}


def finding(code, severity):
    return {"step": 20, "event": EVENT, "code": code, "severity": severity, "evidence": {}, "confidence": 1.0}


def test_complete_trial_has_its_lowest_loss(run):
    outcome = run(0, metrics=METRICS, events=[START])
    assert (outcome.kind, outcome.loss, outcome.step, outcome.seconds) == ("complete", 3.25, 20, 2.0)


def test_diverged_trial_has_the_code_of_its_finding(run):
    nan = {"step": 20, "event": EVENT, "code": "GG-NAN-016", "severity": "fatal", "evidence": {"step": 21}}
    diverged = {"step": 20, "event": "diverged", "at": 21}
    outcome = run(1, "error: the loss is nan\n", METRICS, [START, nan, diverged])
    assert outcome.kind == "diverged"
    assert outcome.message == "the loss is nan"


@pytest.mark.parametrize(
    ("code", "output", "events", "kind", "message"),
    [
        (2, "error: model.n_head is 3; it must divide 64\n", [], "failed", "model.n_head is 3; it must divide 64"),
        (1, "error: cannot write x/metrics.jsonl: No space left on device\n", [START], "disk-full", "No space left"),
        (1, "no message", [START], "failed", "it ended with exit code 1"),
        (143, "stopped\n", [START, {"step": 5, "event": "interrupted"}], "stopped", ""),
        (-15, "", [], "stopped", ""),
        (-9, "", [START], "killed", "it was ended by signal 9"),
        (0, "", [START], "failed", "it was never validated"),
    ],
)
def test_other_ends(run, code, output, events, kind, message):
    outcome = run(code, output, [] if code == 0 else METRICS[:1], events)
    assert outcome.kind == kind
    assert message in outcome.message


def test_error_of_an_earlier_process_is_not_that_of_the_last(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("error: old\n1 step\nerror: new\nin two lines\n")
    assert last_error(log) == "new in two lines"
    log.write_text("Traceback (most recent call last):\nRuntimeError: broken\n")
    assert last_error(log) == "RuntimeError: broken"
    assert last_error(tmp_path / "none.txt") == ""


def test_validations_are_read_once_also_from_a_replaced_file(tmp_path):
    file = tmp_path / "metrics.jsonl"
    reader = MetricsReader(file)
    assert reader.new() == []
    lines = [json.dumps(line) + "\n" for line in METRICS]
    file.write_text("".join(lines[:2]) + lines[3][:20])
    assert reader.new() == [(10, 3.5)]
    file.write_text("".join(lines[:2]) + lines[3])
    assert reader.new() == [(20, 3.25)]
    assert reader.new() == []
    # A process that resumes the run replaces the file.
    (tmp_path / "new").write_text(
        lines[1] + "not JSON with validation_loss\n" + json.dumps(validation_line(30, 3.0)) + "\n"
    )
    os.replace(tmp_path / "new", file)
    assert reader.new() == [(30, 3.0)]


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a shell script in the place of Python; return a function that starts it as a trial."""

    def start(script):
        fake = tmp_path / "python"
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
        monkeypatch.setattr("glassgpt.sweep.trial_run.sys.executable", str(fake))
        return TrialRun(TrialCommand(["train", "x"], tmp_path / "run", tmp_path / "logs" / "log.txt", {"GPU": "3"}))

    return start


def ended(run):
    for _ in range(500):
        if (outcome := run.outcome()) is not None:
            return outcome
        time.sleep(0.01)
    raise AssertionError("it did not end")


def test_process_gets_its_arguments_and_its_device(program, tmp_path):
    assert ended(program('echo "error: $@ on $GPU"; exit 2')).message == "-m glassgpt train x on 3"
    assert (tmp_path / "logs" / "log.txt").read_text() == "error: -m glassgpt train x on 3\n"


def test_process_is_asked_to_stop_and_ends_by_itself(program):
    run = program("trap 'exit 143' TERM; while :; do sleep 0.01; done")
    time.sleep(0.2)
    assert run.outcome() is None
    run.stop()
    assert ended(run).kind == "stopped"


def test_process_that_does_not_stop_is_killed(program, monkeypatch):
    run = program("trap '' TERM; while :; do sleep 0.01; done")
    time.sleep(0.2)
    run.stop()
    monkeypatch.setattr("glassgpt.sweep.trial_run.PATIENCE_SECONDS", 0.1)
    assert ended(run).kind == "killed"


def test_ctrl_c_of_the_terminal_does_not_reach_the_trial(program):
    run = program("while :; do sleep 0.01; done")
    assert os.getpgid(run._process.pid) != os.getpgid(0)
    os.killpg(os.getpgid(run._process.pid), signal.SIGKILL)
    assert ended(run).kind == "killed"
