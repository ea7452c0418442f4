"""File system errors: the first one is shown in one line, and side files never end a sound training."""

import errno
import json
import os
import shutil

import pytest

from fault_helpers import trainer_for
from glassgpt import api
from glassgpt.api import training as api_training
from glassgpt.config import load_config
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.errors import CheckpointError
from glassgpt.training import checkpoint as ck
from glassgpt.training import checkpoint_layout, training_run
from glassgpt.training.checkpoint import verify
from glassgpt.training.observers import JsonlLogger, Observer
from glassgpt.training.run_folder import RunFolder


def refuse(*given, **options):
    raise OSError(errno.ENOSPC, "No space left on device", "/full/disk")


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def trained(nano_run, tmp_path):
    return RunFolder(shutil.copytree(nano_run, tmp_path / "run"))


def settings(data, **others):
    return {"data": str(data), "train.max_steps": 4, "train.eval_tokens": 128, **others}


class Fails(Observer):
    """Fails at a step, and when it is closed."""

    def on_step(self, metrics):
        raise CheckpointError("the first error")

    def close(self):
        refuse()


def test_failure_while_closing_does_not_hide_the_error_that_ended_the_run(grammar_dataset, tmp_path):
    trainer, told = trainer_for(grammar_dataset, tmp_path)
    closed = []
    told.close = lambda: closed.append(True)
    trainer.observers.insert(0, Fails())
    with pytest.raises(CheckpointError, match="the first error"):
        trainer.run()
    assert closed  # those after the one that failed, too


def test_failure_while_closing_a_finished_run_is_reported(grammar_dataset, tmp_path):
    trainer, told = trainer_for(grammar_dataset, tmp_path, max_steps=2)
    told.close = refuse
    with pytest.raises(CheckpointError, match="No space left on device"):
        trainer.run()


def test_checkpoints_that_cannot_be_deleted_do_not_end_training(grammar_data, run, monkeypatch, capsys):
    monkeypatch.setattr(training_run, "prune", refuse)
    api.train(load_config("nano", settings(grammar_data)), run.path)
    assert "cannot delete an old checkpoint: /full/disk: No space left" in capsys.readouterr().err
    assert ck.find_checkpoint(run, "latest").name == "step-000004"


def test_loss_curve_and_report_that_cannot_be_written_do_not_fail_a_finished_training(
    grammar_data, run, monkeypatch, capsys
):
    monkeypatch.setattr(api_training, "draw_loss_curve", refuse)
    monkeypatch.setattr(api_training, "write_report", refuse)
    assert api.train(load_config("nano", settings(grammar_data)), run.path).step == 4
    shown = capsys.readouterr().err
    assert "cannot draw" in shown
    assert "cannot write" in shown


@pytest.mark.parametrize("place", ["pointer", "config"])
def test_files_that_cannot_be_written_are_one_line(grammar_data, run, monkeypatch, run_main, place):
    module = {"pointer": checkpoint_layout, "config": api.runs}[place]
    monkeypatch.setattr(module, "write_atomically", refuse)
    code, _, error = run_main("train", "nano", "--data", grammar_data, "--out", run.path, "--train.max-steps", 2)
    assert code == 1
    assert "No space left on device" in error
    assert "Traceback" not in error


def test_any_refusal_of_the_file_system_is_one_line(trained, monkeypatch, run_main):
    monkeypatch.setattr("glassgpt.api.loading.load_model", refuse)
    code, _, error = run_main("generate", trained.path, "--prompt", "x")
    assert (code, error.strip()) == (1, "error: /full/disk: No space left on device")


def test_checkpoint_that_cannot_be_read_is_skipped(trained, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(verify, "_sha256", fail)
    assert ck.find_damage(ck.list_checkpoints(trained)[-1]).endswith("cannot be read: Input/output error")


def test_metrics_of_steps_that_are_done_again_are_dropped(run):
    run.path.mkdir()
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in range(1, 9)]
    run.metrics.write_text("\n".join([*lines, '{"step": 9, "lo']))  # killed in the middle of a line
    JsonlLogger(run, 6).close()
    assert run.metrics.read_text().splitlines() == lines[:6]
    (event,) = [json.loads(line) for line in run.events.read_text().splitlines()]
    assert (event["event"], event["lines"]) == ("unreadable lines dropped", 1)


@pytest.mark.parametrize("bad", [b"{torn\n", b"[1]\n", b"\xff\n", b"{}\n", b'{"step": "x"}\n', b"[" * 100_000 + b"\n"])
def test_bad_line_of_metrics_is_dropped_and_recorded(trained, bad):
    good = trained.metrics.read_bytes()
    lines = good.splitlines(keepends=True)
    trained.metrics.write_bytes(b"".join([*lines[:3], bad, *lines[3:]]))
    JsonlLogger(trained, 10**6).close()
    assert trained.metrics.read_bytes() == good
    events = [json.loads(line) for line in trained.events.read_text().splitlines()]
    dropped = [line["lines"] for line in events if line["event"] == "unreadable lines dropped"]
    assert dropped == ([1] if not bad.startswith(b"{}") and b'"step"' not in bad else [])


@pytest.mark.parametrize(
    "change",
    [{"done": ["unheard-of"]}, {"done": [["x"]]}, {"ruled_out": ["GG-XYZ-999"]}, {"severity": "dire"}, {"seen": 3}],
)
def test_findings_with_unknown_names_are_left_out(trained, change):
    line = {"step": 1, "event": "finding", "code": "GG-NAN-002", "severity": "fatal", "seen": {"step": 1}, "done": []}
    line |= {"confidence": 1.0, "ruled_out": [], **change}
    with trained.events.open("a") as file:
        file.write(json.dumps(line) + "\n")
    log = RunLog.read(trained)
    assert log.unreadable == {"events.jsonl": 1}


def test_leftovers_of_killed_processes_are_removed_at_the_next_start(trained):
    leftovers = [trained.checkpoints / ".latest.a1b2c3d4", trained.checkpoints / ".best.________"]
    leftovers += [trained.checkpoints / ".staging-1/model.safetensors", trained.path / ".config.toml.zzzzzzzz"]
    kept = trained.path / ".notes.mine"
    for path in (*leftovers, kept):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    ck.clean_staging(trained)
    assert not any(path.exists() for path in leftovers)
    assert kept.exists()


def test_run_folder_and_its_parent_are_synced(grammar_data, run, monkeypatch):
    synced = set()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.add(os.readlink(f"/proc/self/fd/{file}")) or real(file))
    api.train(load_config("nano", settings(grammar_data)), run.path)
    assert {str(run.path), str(run.path.parent), str(run.checkpoints)} <= synced


def test_page_that_does_not_fit_on_the_disk_is_no_mistake_of_usage(trained, tmp_path, monkeypatch, run_main):
    monkeypatch.setattr("glassgpt.inspection.static_page.write_atomically", refuse)
    page = tmp_path / "page.html"
    code, _, error = run_main("inspect", trained.path, "--prompt", "x", "--save", page)
    assert code == 1
    assert f"{page} cannot be written (No space left on device); choose another file with --save" in error
    assert not page.exists()
