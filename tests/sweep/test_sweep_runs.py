"""Sweeps of real training runs, from the command line and from Python."""

import json
import os
import re
import signal
import time

import pytest

pytest.importorskip("optuna")

from forked import ForkedCommand
from glassgpt import api
from glassgpt.api.sweep_checks import SweepOptions
from glassgpt.api.sweeps import gpu_names
from glassgpt.config import load_config, settings
from glassgpt.errors import UsageError
from glassgpt.sweep.setup import SweepFolder
from glassgpt.sweep.space import parse_space
from glassgpt.training.run_folder import RunFolder

SMALL = {"train.max_steps": 6, "train.eval_every_steps": 2, "train.eval_tokens": 512, "train.batch_tokens": 128}


def test_gpus_are_those_that_this_process_may_use(monkeypatch):
    import torch

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_names("cpu") == []
    monkeypatch.setattr("glassgpt.api.sweeps.pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert gpu_names("auto") == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-abc")
    assert gpu_names("auto") == ["4", "GPU-abc"]


def test_warmup_that_is_searched_ends_before_training_does(tmp_path, monkeypatch):
    seen = []

    def refuse(config, out, space, options):
        seen.append(
            (config.schedule.warmup_steps, next(each for each in space if each.name == "schedule.warmup_steps"))
        )
        raise UsageError("seen")

    monkeypatch.setattr("glassgpt.api.sweeps.new_setup", refuse)
    with pytest.raises(UsageError, match="seen"):
        api.sweep(load_config("nano", {"train.max_steps": 20}), tmp_path)  # the preset warms up for 30 steps
    ((warmup, searched),) = seen
    assert (warmup, searched.low, searched.high) == (2, 0, 4)


@pytest.mark.slow
def test_sweep_of_real_runs(grammar_data, tmp_path):
    config = load_config("nano", {"data": str(grammar_data), **SMALL})
    space = parse_space({"train.learning_rate": [1e8, 5e-3], "model.n_head": [2, 4]}, settings())
    folder = SweepFolder(tmp_path / "sweep")
    options = SweepOptions(sampler="grid", pruner="none")
    result = api.sweep(config, folder.path, space=space, options=options, seeds=2, jobs=2)
    assert result.counts == {"complete": 2, "diverged": 2}
    assert {each.values["train.learning_rate"] for each in result.trials if not each.is_complete} == {1e8}
    assert all(re.fullmatch(r"GG-\w+-\d+", each.outcome.code) for each in result.trials if not each.is_complete)
    assert [step for step, _ in result.best.curve] == [2, 4, 6]

    # The best settings are a file that trains to the same loss.
    best = load_config(folder.best)
    assert best.train.learning_rate == 5e-3
    assert best.diagnosis == config.diagnosis
    again = api.train(best, tmp_path / "again")
    assert again.best_loss == result.best.loss

    # Other seeds give other losses, and only the best trial keeps its weights.
    assert sorted(result.luck.losses) == [config.seed + 1, config.seed + 2]
    assert len({*result.luck.losses.values(), result.best.loss}) == 3
    kept = [each.number for each in result.trials if RunFolder(folder.trial(each.number)).checkpoints.exists()]
    assert kept == [result.best.number]
    assert json.loads(folder.result.read_text())["best"]["number"] == result.best.number
    assert folder.page.is_file()

    # The same again trains nothing.
    before = (
        sorted(folder.path.rglob("metrics.jsonl")),
        [each.stat().st_mtime for each in folder.path.glob("*/*/metrics.jsonl")],
    )
    repeated = api.sweep(config, folder.path, space=space, options=options, seeds=2, jobs=2)
    assert before == (
        sorted(folder.path.rglob("metrics.jsonl")),
        [each.stat().st_mtime for each in folder.path.glob("*/*/metrics.jsonl")],
    )
    assert repeated.trials == result.trials
    assert repeated.luck == result.luck


@pytest.mark.slow
def test_stopped_sweep_continues_where_it_was(grammar_data, tmp_path):
    out = tmp_path / "sweep"
    long = {**SMALL, "train.max_steps": 400, "train.eval_every_steps": 100}
    flags = [word for name, value in long.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = ["sweep", "nano", "--data", str(grammar_data), "--out", str(out), "--trials", "2", "--seeds", "0", *flags]
    command = ForkedCommand(*words)
    metrics = out / "trials" / "0000" / "metrics.jsonl"
    wait_for(command, lambda: metrics.is_file() and b"validation_loss" in metrics.read_bytes())
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=300)
    assert command.returncode == 130
    assert f"continue with: glassgpt sweep --resume --out {out}" in errors
    saved = [json.loads(line)["step"] for line in metrics.read_text().splitlines()][-1]
    assert 100 <= saved < 400

    again = ForkedCommand("sweep", "--resume", "--out", out, "--json", "--seeds", 0)
    output, errors = again.communicate(timeout=600)
    assert again.returncode == 0, errors
    found = json.loads(output)
    assert found["counts"].get("complete", 0) >= 1
    assert len(found["trials"]) == 2
    events = [json.loads(line)["event"] for line in (out / "trials" / "0000" / "events.jsonl").read_text().splitlines()]
    assert "interrupted" in events
    assert "resume" in events
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in steps if "loss" in line] == [*range(1, found["trials"][0]["step"] + 1)]


@pytest.mark.slow
def test_killed_trial_is_resumed(grammar_data, tmp_path):
    out = tmp_path / "sweep"
    long = {**SMALL, "train.max_steps": 300, "train.eval_every_steps": 100, "checkpoint.every_steps": 50}
    flags = [word for name, value in long.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = ["sweep", "nano", "--data", str(grammar_data), "--out", str(out), "--trials", "1", "--seeds", "0", *flags]
    command = ForkedCommand(*words, "--pruner", "none")
    run = out / "trials" / "0000"
    wait_for(command, lambda: (run / "checkpoints" / "latest").exists())
    start = json.loads((run / "events.jsonl").read_text().splitlines()[0])
    os.kill(start["pid"], signal.SIGKILL)
    _, errors = command.communicate(timeout=600)
    assert command.returncode == 0, errors
    assert json.loads((out / "sweep.json").read_text())["counts"] == {"complete": 1}
    assert "resume" in (run / "events.jsonl").read_text()


def wait_for(command, condition, seconds=300):
    for _ in range(10 * seconds):
        if condition():
            return
        assert command.poll() is None, command.communicate()
        time.sleep(0.1)
    raise AssertionError("it took too long")
