"""Work that takes long says so before it begins, and shows how far it is while it runs."""

import dataclasses
import io
import time

import pytest
import torch

from glassgpt import api, console
from glassgpt.config import load_config
from glassgpt.device import require_gpus
from glassgpt.errors import ConfigError, UsageError
from glassgpt.model.build import build_model
from glassgpt.training import show, time_estimate
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import resolve_hardware
from glassgpt.training.time_estimate import TimeEstimate, estimate_time


@pytest.fixture
def small(grammar_data):
    return load_config("nano", {"data": str(grammar_data), "train.device": "cpu", "train.max_steps": 2})


@pytest.fixture
def every_line(monkeypatch):
    """Print every progress line, as if each took long."""
    monkeypatch.setattr(console, "PLAIN_LINE_SECONDS", 0.0)
    monkeypatch.setattr(show, "LONG_STEP_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(59, "59 s"), (185, "3 min 05 s"), (7800, "2 h 10 min"), (172_800, "2 days"), (3_542_400, "41 days")],
)
def test_durations_have_readable_units(seconds, text):
    assert console.format_duration(seconds) == text


def test_line_is_printed_although_nothing_advances(capsys, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_LINE_SECONDS", 0.02)
    with console.progress("training", 3, unit="steps") as meter:
        meter.note("step 1: micro-batch 1 of 96")
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 0 of 3 steps, 0 s elapsed step 1: micro-batch 1 of 96"
    assert 2 <= len(lines) <= 6  # the pauses grow


def test_time_left_follows_from_a_part_of_the_first_step(capsys, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_LINE_SECONDS", 0.0)
    monkeypatch.setattr(console.time, "monotonic", iter([0.0, *[100.0] * 99]).__next__)
    meter = console._LineMeter("training", 10, "steps")
    meter.within(0.5, "step 1: micro-batch 3 of 4")
    assert capsys.readouterr().err == (
        "training: 0 of 10 steps, 31 min 40 s left, 0.005 steps/s step 1: micro-batch 3 of 4\n"
    )


def test_estimate_scales_the_first_micro_step_that_takes_long_enough(monkeypatch):
    measured = []

    def seconds(loss, hardware, tokens, context):
        measured.append(tokens)
        return 0.01 * tokens

    monkeypatch.setattr(time_estimate, "_micro_step_seconds", seconds)
    config = load_config("nano", {"model.vocab_size": 257, "train.device": "cpu"})
    model = build_model(config.model)
    estimate = estimate_time(model, config.train, resolve_hardware(config.train), DistributedContext(), 100)
    assert measured == [64, 64, 128]
    assert estimate.seconds == pytest.approx(100 * 0.01 * config.train.batch_tokens)
    gpu = dataclasses.replace(resolve_hardware(config.train), device=torch.device("cuda"))
    assert estimate_time(model, config.train, gpu, DistributedContext(), 100) is None


def test_estimate_changes_neither_weights_nor_generators():
    config = load_config("nano", {"model.vocab_size": 257, "model.dropout": 0.1, "train.device": "cpu"})
    model = build_model(config.model).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    estimate = estimate_time(model, config.train, resolve_hardware(config.train), DistributedContext(), 100)
    assert estimate.seconds > 0
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


def test_estimate_is_said_as_days_and_speed():
    assert str(TimeEstimate(80_000, 50.0, "CPU")) == "80,000 steps take about 46 days at 0.02 steps/s on this CPU"


@pytest.fixture
def takes_days(monkeypatch):
    monkeypatch.setattr(api.training, "estimate_time", lambda *given: TimeEstimate(2, 100_000.0, "CPU"))


TRAIN = ("train", "nano", "--train.max-steps", 1, "--data")


def test_run_that_takes_days_is_refused_and_creates_nothing(run_main, grammar_data, tmp_path, takes_days):
    code, _, err = run_main(*TRAIN, grammar_data, "--out", tmp_path / "new" / "run")
    assert code == 2
    assert (
        "2 steps take about 2 days at 27 h 46 min per step on this CPU, more than 24 hours; nothing was created" in err
    )
    assert "--yes" in err
    assert list(tmp_path.iterdir()) == []


def test_run_that_takes_days_starts_with_yes_or_on_a_terminal_that_agrees(
    run_main, grammar_data, tmp_path, takes_days, monkeypatch
):
    code, _, err = run_main(*TRAIN, grammar_data, "--out", tmp_path / "run", "--yes")
    assert code == 0, err
    assert "2 steps take about 2 days" in err
    asked = []
    monkeypatch.setattr(console, "can_ask", lambda: True)
    monkeypatch.setattr(console, "ask", lambda question: asked.append(question) or len(asked) > 1)
    assert run_main(*TRAIN, grammar_data, "--out", tmp_path / "other")[0] == 2
    assert not (tmp_path / "other").exists()
    assert run_main(*TRAIN, grammar_data, "--out", tmp_path / "other")[0] == 0
    assert asked == ["2 steps take about 2 days at 27 h 46 min per step on this CPU. Train anyway?"] * 2


@pytest.mark.parametrize(
    ("answer", "agrees"), [("y\n", True), ("Yes\n", True), ("\n", False), ("", False), ("n\n", False)]
)
def test_only_yes_is_yes(capsys, monkeypatch, answer, agrees):
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert console.ask("Train anyway?") is agrees
    assert capsys.readouterr().err == "Train anyway? [y/N] "
    assert not console.can_ask()  # neither standard input nor standard error is a terminal here


def test_resumed_run_is_not_asked_again(small, tmp_path):
    def refuse(estimate):
        raise UsageError("too long")

    with pytest.raises(UsageError, match="too long"):
        api.train(small, tmp_path / "run", approve=refuse)
    api.train(small, tmp_path / "run")
    api.train(small, tmp_path / "run", resume=True, approve=refuse)


def test_long_step_shows_its_micro_batches(run_main, grammar_data, tmp_path, every_line):
    code, _, err = run_main(
        *TRAIN, grammar_data, "--out", tmp_path / "run", "--train.batch-tokens", 256, "--train.micro-batch-size", 1
    )
    assert code == 0, err
    assert "training: 0 of 1 steps" in err
    assert "step 1: micro-batch 3 of 4" in err


@pytest.mark.slow
def test_benches_show_progress_and_time_left(run_main, every_line):
    code, out, err = run_main(
        "bench", "train", "nano", "--steps", 2, "--train.batch-tokens", 128, "--train.micro-batch-size", 1
    )
    assert code == 0, err
    assert "measuring: 0 of 11 steps" in err
    assert "step 1: micro-batch 2 of 2" in err
    assert "measuring: 11 of 11 steps, 0 s left" in err
    assert "tokens per second" in out
    code, _, err = run_main("bench", "generate", "nano", "--batch", "2", "--new-tokens", 4, "--rounds", 1)
    assert code == 0, err
    assert "generating: 24 of 24 tokens, 0 s left" in err


def test_more_gpus_than_there_are_is_an_error_that_names_how_many(run_main, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = run_main("bench", "train", "nano", "--gpus", 2)
    assert code == 2
    assert "--gpus is 2, but this machine has no GPU" in err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for count, text in ((1, "has 1 GPU; use at most 1"), (2, "has 2 GPUs; use at most 2")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        with pytest.raises(ConfigError, match=text):
            require_gpus("auto", 3)
