"""A real process that is killed with `kill -9` at random moments and resumed ends with the same bits."""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from forked import ForkedCommand
from glassgpt.training.checkpoint import list_checkpoints, newest_verified_checkpoint
from glassgpt.training.run_folder import RunFolder, read_jsonl

SETTINGS = [
    "--train.max-steps", "40", "--train.batch-tokens", "512", "--train.eval-every-steps", "10",
    "--train.eval-tokens", "2048", "--checkpoint.every-steps", "3", "--model.dropout", "0.1", "--model.token-dropout", "0.1",
    "--schedule.warmup-steps", "5",
]  # fmt: skip


def start(data: Path, out: Path, *more: str) -> ForkedCommand:
    return ForkedCommand("train", "nano", "--data", data, "--out", out, *SETTINGS, *more)


def wait_for_steps(out: Path, process: ForkedCommand, steps: int) -> None:
    """Wait until the run has done this many more steps, or has ended."""
    metrics = RunFolder(out).metrics
    goal = (len(read_jsonl(metrics)) if metrics.exists() else 0) + steps
    while process.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < goal):
        time.sleep(0.002)


@pytest.fixture(scope="module")
def whole(grammar_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    process = start(grammar_data, out)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return out


def final_weights(out: Path):
    return load_file(RunFolder(out).checkpoints / "step-000040" / "model.safetensors")


@pytest.mark.slow
def test_killed_and_resumed_run_is_bit_equal(grammar_data, whole, tmp_path):
    out = tmp_path / "run"
    chance = random.Random(7)
    kills = 0
    process = start(grammar_data, out, "--checkpoint.background", "on")  # `whole` is written directly
    while True:
        wait_for_steps(out, process, chance.randint(1, 14))
        time.sleep(chance.random() * 0.02)  # anywhere in a step, a validation or a checkpoint
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if kills >= 3 or process.returncode == 0:
            break
        process = start(grammar_data, out, "--resume")
    assert kills >= 2
    last = start(grammar_data, out, "--resume")
    _, errors = last.communicate(timeout=120)
    assert last.returncode == 0, errors
    expected, got = final_weights(whole), final_weights(out)
    assert expected.keys() == got.keys()
    assert all(expected[name].equal(got[name]) for name in expected)
    losses = [[line["loss"] for line in read_jsonl(RunFolder(path).metrics) if "loss" in line] for path in (whole, out)]
    assert losses[0] == losses[1]


def test_resume_of_a_complete_run_says_how_to_train_longer(grammar_data, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    again = start(grammar_data, tmp_path / "run", "--resume")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert "all 40 steps are done; train longer with: --train.max-steps NUMBER" in errors


def stopped_by(number, grammar_data, out):
    """Start a run, send a signal after four steps, and check how it ends."""
    process = start(grammar_data, out)
    wait_for_steps(out, process, 4)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert f"glassgpt train --resume --out {out}" in errors
    saved = newest_verified_checkpoint(RunFolder(out))
    assert saved is not None
    assert int(saved.path.name[5:]) >= 4


def test_signal_saves_at_the_next_step_and_says_how_to_resume(grammar_data, tmp_path):
    stopped_by(signal.SIGTERM, grammar_data, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_that_a_signal_stopped_is_resumed_to_the_same_bits(grammar_data, whole, tmp_path, number):
    out = tmp_path / "run"
    stopped_by(number, grammar_data, out)
    again = start(grammar_data, out, "--resume")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    expected, got = final_weights(whole), final_weights(out)
    assert all(expected[name].equal(got[name]) for name in expected)


@pytest.mark.slow
def test_damaged_newest_checkpoint_is_reported_and_skipped(grammar_data, whole, tmp_path):
    out = tmp_path / "run"
    process = start(grammar_data, out)
    wait_for_steps(out, process, 10)
    process.kill()
    process.communicate()
    newest = list_checkpoints(RunFolder(out))[-1]
    weights = newest / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    again = start(grammar_data, out, "--resume")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert f"{newest.name}: model.safetensors does not match its checksum" in errors
    assert any(line["event"] == "checkpoint refused" for line in read_jsonl(RunFolder(out).events))
    expected, got = final_weights(whole), final_weights(out)
    assert all(expected[name].equal(got[name]) for name in expected)
