"""Two real processes on the CPU (Gloo), compared with one: equal losses, and runs that survive lost processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from forked import run_ranks
from glassgpt.config import load_config
from glassgpt.training.config import TrainConfig
from glassgpt.training.distributed import (
    DistributedContext,
    distributed_from_environment,
    full_tensors,
    local_shards,
    shard_like,
)
from glassgpt.training.run_folder import RunFolder, read_jsonl

STEPS = 12
SETTINGS = [
    "--train.device", "cpu",
    "--train.batch-tokens", 512, "--train.eval-every-steps", 6, "--train.eval-tokens", 2000,
    "--checkpoint.every-steps", 4, "--schedule.warmup-steps", 2, "--train.learning-rate", 0.02,
    "--model.arch", "modern", "--model.bias", "false",
    "--optimizer.name", "muon", "--optimizer.embedding-rate-ratio", 10, "--optimizer.head-rate-ratio", 0.2,
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread_per_process(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def train(grammar_data, glassgpt_command):
    def run(out, *more, steps=STEPS):
        length = ("--train.max-steps", steps)
        done = glassgpt_command("train", "nano", "--data", grammar_data, "--out", out, *SETTINGS, *length, *more)
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def alone(train, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    train(out)
    return out


def losses(out, key="loss"):
    return [line[key] for line in read_jsonl(RunFolder(out).metrics) if key in line]


def weights(out, step=STEPS):
    return load_file(RunFolder(out).checkpoints / f"step-{step:06d}" / "model.safetensors")


def assert_like(out, alone):
    """Compare up to rounding: sums over a batch are formed in another order."""
    assert len(losses(out)) == STEPS
    for key in ("loss", "validation_loss"):
        np.testing.assert_allclose(losses(out, key), losses(alone, key), rtol=2e-4)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(out)[name], tensor, rtol=0.02, atol=2e-3, msg=name)


def test_two_ranks_train_like_one(grammar_data, alone, tmp_path):
    """With accumulation, shared Muon updates and shared validation."""
    length = ("--train.max-steps", STEPS, "--train.micro-batch-size", 2)
    for done in run_ranks(2, "train", "nano", "--data", grammar_data, "--out", tmp_path / "run", *SETTINGS, *length):
        assert done.returncode == 0, done.stderr
    assert_like(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_train_like_one(train, alone, tmp_path, sharding):
    """With accumulation, shared Muon updates and shared validation; DDP and FSDP2."""
    done = train(tmp_path / "run", "--gpus", 2, "--train.micro-batch-size", 2, "--train.sharding", sharding)
    assert "2 processes" in done.stderr
    assert done.stderr.count("tokens of text") == 1  # only one of them prints
    assert "Warning" not in done.stderr  # such as PyTorch's, once per process
    assert_like(tmp_path / "run", alone)
    snapshots = RunFolder(tmp_path / "run").snapshots
    assert sorted(path.name for path in snapshots.iterdir()) == [f"step-{step:06d}" for step in (0, 1, 2, 4, 8)]
    snapshot = load_file(snapshots / "step-000008" / "model.safetensors")
    assert all(torch.equal(snapshot[name], tensor) for name, tensor in weights(tmp_path / "run", 8).items())


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2])
def test_resume_with_another_number_of_processes(grammar_data, alone, tmp_path, first):
    out = tmp_path / "run"
    length = ("--train.sharding", "full", "--train.max-steps", 8)
    begun = run_ranks(first, "train", "nano", "--data", grammar_data, "--out", out, *SETTINGS, *length)
    resumed = run_ranks(3 - first, "train", "--resume", "--out", out, "--train.max-steps", STEPS)
    for done in (*begun, *resumed):
        assert done.returncode == 0, done.stderr
    # The schedule was for 8 steps at first, so these steps differ; but the loss must not jump.
    assert len(losses(out)) == STEPS
    assert max(np.diff(losses(out))) < 0.3
    assert weights(out).keys() == weights(alone).keys()


def start(data, out, *more):
    command = [sys.executable, "-m", "glassgpt", "train", "nano", "--data", data, "--out", out, *SETTINGS, *more]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_steps(out, process, steps):
    metrics = RunFolder(out).metrics
    while process.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < steps):
        time.sleep(0.01)


def children_of(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks with ps")
def test_lost_process_ends_the_run_with_one_line_and_it_can_be_resumed(grammar_data, tmp_path, glassgpt_command):
    out = tmp_path / "run"
    process = start(grammar_data, out, "--gpus", 2, "--train.max-steps", 5000)
    wait_for_steps(out, process, 12)
    os.kill(children_of(process.pid)[-1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    last = errors.strip().splitlines()[-1]
    assert re.search(r"process \d of 2 ended with signal 9 .* resume .* --resume --out .* --gpus 2", last), errors[
        -2000:
    ]
    assert "Traceback" not in errors
    resumed = glassgpt_command(
        "train", "--resume", "--out", out, "--train.max-steps", 30, "--train.eval-every-steps", 0
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from step-" in resumed.stderr


@pytest.mark.slow
def test_all_processes_stop_at_the_same_step(grammar_data, tmp_path):
    out = tmp_path / "run"
    process = start(grammar_data, out, "--gpus", 2, "--train.max-steps", 5000)
    wait_for_steps(out, process, 8)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    stops = [line for line in read_jsonl(RunFolder(out).events) if line["event"] == "interrupted"]
    assert len(stops) == 1
    assert (RunFolder(out).checkpoints / f"step-{stops[0]['step']:06d}" / "manifest.json").is_file()


@pytest.mark.slow
def test_restart_by_torchrun_resumes(train, grammar_data, tmp_path, glassgpt_command, monkeypatch):
    """torchrun runs the same command again, without --resume."""
    train(tmp_path / "run", steps=8)
    arguments = ("train", "nano", "--data", grammar_data, "--out", tmp_path / "run", *SETTINGS, "--train.max-steps", 12)
    assert glassgpt_command(*arguments).returncode == 2
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    done = glassgpt_command(*arguments)
    assert done.returncode == 0, done.stderr
    assert "resuming from step-000008" in done.stderr


@pytest.mark.slow
def test_bench_train_writes_what_it_prints(tmp_path, glassgpt_command):
    done = glassgpt_command(
        "bench", "train", "nano", "--model.vocab-size", 300, "--steps", 2, "--json", tmp_path / "b.json"
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "b.json").read_text())
    assert f"speed: {figures['tokens_per_second']:,.0f} tokens per second" in done.stdout
    assert "attention by flash" in done.stdout


def test_batch_that_processes_cannot_share_is_refused_before_anything_starts(grammar_data, tmp_path, glassgpt_command):
    done = glassgpt_command(
        "train",
        "nano",
        "--data",
        grammar_data,
        "--out",
        tmp_path / "r",
        "--gpus",
        3,
        "--train.batch-tokens",
        512,
        "--train.device",
        "cpu",
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "3 processes cannot share them evenly. The nearest value that works is 576" in done.stderr
    assert not (tmp_path / "r").exists()
    assert "--gpus is 0" in glassgpt_command("train", "nano", "--gpus", 0).stderr


def test_batch_problems_consider_the_number_of_processes():
    assert TrainConfig(batch_tokens=1024, micro_batch_size=4).batch_problems(64, world_size=2) == []
    (problem,) = TrainConfig(batch_tokens=1024, micro_batch_size=16).batch_problems(64, world_size=2)
    assert "it must divide the 8 sequences of a batch on each of 2 processes; the nearest that does is 8" in problem
    assert load_config("nano").problems(ranks=2) == []


def test_distributed_context_comes_from_the_environment(monkeypatch):
    assert distributed_from_environment() == DistributedContext(0, 1, 0)
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert distributed_from_environment() == DistributedContext(3, 4, 1)
    assert not distributed_from_environment().is_main


def test_single_process_neither_shards_nor_communicates():
    tensor = torch.arange(6.0).view(2, 3)
    assert DistributedContext().all_reduce_sum(tensor) is tensor
    assert DistributedContext().start_all_gather(tensor).wait() is tensor
    assert DistributedContext().all_gather_objects("x") == ["x"]
    assert shard_like(tensor, tensor) is tensor
    assert full_tensors([tensor], [tensor])[0] is tensor
    assert torch.equal(local_shards(tensor[None], [tensor]), tensor[None])
