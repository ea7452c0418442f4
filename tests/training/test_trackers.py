"""Trackers: what they are told, and that training continues whatever they do. The real libraries: tests/trackers."""

import math
import threading
import time

import torch

from glassgpt import api
from glassgpt.config import load_config
from glassgpt.training.observers import StepMetrics
from glassgpt.training.run_folder import RunFolder, read_jsonl
from glassgpt.training.trackers import build, observer
from glassgpt.training.trackers.base import Tracker
from glassgpt.training.trackers.observer import Trackers

METRICS = StepMetrics(3, 2.5, 0.1, math.nan, 96, 1.0, 32.0, None, loss_metrics={"accuracy": 0.5})


class Recorder(Tracker):
    """Remembers everything; fails where it is told to."""

    def __init__(self, fails=(), blocks=None):
        self.logged, self.written, self.is_closed, self.calls = [], [], False, 0
        self.fails, self.blocks = fails, blocks

    def log(self, step, values):
        self.calls += 1
        if self.blocks:
            self.blocks.wait()
        if "log" in self.fails:
            raise OSError("the disk\nis full")
        self.logged.append((step, dict(values)))

    def write(self, step, title, text):
        if "write" in self.fails:
            raise ValueError
        self.written.append((step, title, text))

    def close(self):
        if "close" in self.fails:
            raise RuntimeError("cannot close")
        self.is_closed = True


def feed(trackers, steps=5, sample=None):
    """Feed some trackers; return the events that they caused."""
    events = []
    fed = Trackers(
        {name: lambda tracker=t: tracker for name, t in trackers.items()}, lambda *e: events.append(e), sample
    )
    for _ in range(steps):
        fed.on_step(METRICS)
    fed.on_event(3, "finding", {"code": "GG-NAN-002"})
    fed.close()
    return events


def test_metrics_and_events_reach_every_tracker():
    one, other = Recorder(), Recorder()
    assert feed({"one": one, "other": other}) == []
    values = {"train/loss": 2.5, "train/learning_rate": 0.1, "train/tokens_per_second": 32.0, "train/accuracy": 0.5}
    for tracker in (one, other):
        assert tracker.logged == [(3, values)] * 5  # without the norm, which is not finite
        assert tracker.written == [(3, "events", 'finding: {"code": "GG-NAN-002"}')]
        assert tracker.is_closed


def test_failing_tracker_is_given_up_and_the_others_continue():
    bad, good = Recorder(fails=("log",)), Recorder()
    first, last = feed({"bad": bad, "good": good})
    problem = {"tracker": "bad", "error": "OSError: the disk"}
    assert first == ("tracker failed", problem | {"given_up": False, "first": True})
    assert last == ("tracker failed", problem | {"given_up": True, "first": False})
    assert (bad.calls, bad.is_closed, len(good.logged)) == (observer.MAX_FAILURES, True, 5)


def test_single_failure_is_forgiven():
    tracker = Recorder(fails=("write",))
    ((_, problem),) = feed({"bad": tracker})
    assert (problem["error"], problem["given_up"], tracker.is_closed) == ("ValueError", False, True)


def test_tracker_that_cannot_start_or_close_is_reported():
    def broken():
        raise PermissionError("no account")

    events = []
    fed = Trackers({"a": broken, "b": lambda: Recorder(fails=("close",))}, lambda *e: events.append(e), None)
    fed.on_step(METRICS)
    fed.close()
    found = {problem["tracker"]: (problem["error"], problem["given_up"]) for _, problem in events}
    assert found == {"a": ("PermissionError: no account", True), "b": ("RuntimeError: cannot close", True)}


def test_hanging_tracker_stalls_neither_the_steps_nor_the_end(monkeypatch):
    monkeypatch.setattr(observer, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(observer, "QUEUE_RECORDS", 3)
    released, other = threading.Event(), Recorder()
    start = time.monotonic()
    events = feed({"hangs": Recorder(blocks=released)}, steps=50)
    assert time.monotonic() - start < 5
    assert [problem["error"] for _, problem in events] == [
        "it is too slow: records are left out", "it did not finish within 0.2 s",
    ]  # fmt: skip
    released.set()
    assert feed({"fine": other}, steps=1) == []


def test_run_is_recorded_and_ends_with_the_same_bits(grammar_data, tmp_path, monkeypatch):
    recorder, told = Recorder(), {}

    def recording(run):
        told.update(run.settings, name=run.name)
        return recorder

    monkeypatch.setitem(build.CLASSES, "tensorboard", recording)
    settings = {"data": str(grammar_data), "train.max_steps": 4, "train.eval_every_steps": 2, "model.dropout": 0.1}
    api.train(load_config("nano", settings), tmp_path / "plain")
    api.train(load_config("nano", {**settings, "train.trackers": "tensorboard"}), tmp_path / "tracked")
    assert [step for step, values in recorder.logged if "train/loss" in values] == [1, 2, 3, 4]
    assert [step for step, values in recorder.logged if "validation/bits_per_byte" in values] == [2, 4]
    samples = [(step, text) for step, title, text in recorder.written if title == "sample"]
    assert [step for step, _ in samples] == [2, 4]
    assert all(len(text) > 20 for _, text in samples)
    assert told["name"] == "tracked"
    assert told["train.max_steps"] == 4
    weights = [
        next((tmp_path / run / "checkpoints").glob("step-000004")) / "model.safetensors" for run in ("plain", "tracked")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert 'trackers = "tensorboard"' in (tmp_path / "tracked" / "config.toml").read_text()


def test_failure_is_shown_once_and_recorded_in_the_events(grammar_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(build.CLASSES, "tensorboard", lambda run: Recorder(fails=("log", "write")))
    settings = {"data": str(grammar_data), "train.max_steps": 30, "train.trackers": "tensorboard"}
    api.train(load_config("nano", settings), tmp_path / "run")
    assert read_jsonl(RunFolder(tmp_path / "run").metrics)[-1]["step"] == 30
    lines = [line for line in read_jsonl(RunFolder(tmp_path / "run").events) if line["event"] == "tracker failed"]
    assert [line["given_up"] for line in lines] == [False, True]
    shown = capsys.readouterr()
    text = " ".join((shown.out + shown.err).split())
    assert text.count("the tracker tensorboard failed:") == 2
    assert "training continues" in text
    assert "it records nothing more" in text


def test_sample_that_fails_is_not_tried_again():
    attempts = []

    def sample():
        attempts.append(1)
        raise torch.OutOfMemoryError("no memory")

    events = []
    fed = Trackers({"one": Recorder}, lambda *e: events.append(e), sample)
    for step in (1, 2):
        fed.on_validation(step, type("V", (), {"metrics": lambda self: {"validation_loss": 1.0}})(), True)
    fed.close()
    assert (len(attempts), events) == (1, [("sample failed", {"error": "OutOfMemoryError: no memory"})])


def test_tensorboard_files_hold_all_of_it(grammar_data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    api.train(
        load_config("nano", {"data": str(grammar_data), "train.max_steps": 3, "train.trackers": "tensorboard"}),
        tmp_path / "run",
    )
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert len(events.Scalars("validation/bits_per_byte")) == 1
    texts = {tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert "checkpoint: step-000003" in texts["events/text_summary"]
    assert "train.max_steps = 3" in texts["settings/text_summary"]
    assert "|" in texts["sample/text_summary"]


def test_unknown_tracker_is_refused():
    problems = load_config("nano", {"train.trackers": "wandb, tensorbord,mlflow"}).train.problems()
    assert problems == [
        "train.trackers names tensorbord, which is no tracker; the trackers are tensorboard, wandb, mlflow, trackio, separated by commas"
    ]
    assert not load_config("nano", {"train.trackers": ""}).train.problems()
