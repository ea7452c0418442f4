"""Snapshots of the weights: which steps, what they hold, that training does not notice, and what faults do to them."""

import dataclasses
import errno
import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

import glassgpt
from glassgpt import api
from glassgpt.config import load_config, resolve_config
from glassgpt.diagnosis.checks.run import check_checkpoints
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.errors import CheckpointError, ConfigError, Interrupted
from glassgpt.inspection.checkpoint_traces import checkpoint_steps, trace_checkpoints
from glassgpt.model.config import ModelConfig
from glassgpt.training import checkpoint as ck
from glassgpt.training import weight_snapshots
from glassgpt.training.config import TrainConfig, TrainerConfig
from glassgpt.training.loop import Trainer
from glassgpt.training.observers import Observer
from glassgpt.training.outcomes import Policy, Rollback
from glassgpt.training.run_folder import RunFolder, read_jsonl
from glassgpt.training.weight_snapshots import WeightSnapshots, snapshot_steps, total_snapshot_bytes

SHAPE = {"model.n_layer": 1, "model.n_head": 1, "model.n_embd": 16, "model.context_length": 16}


@pytest.fixture
def config(grammar_data):
    """Return a function that makes a configuration of a run of nine steps, with changes."""

    def make(**changes):
        small = {
            "data": str(grammar_data), **SHAPE, "train.max_steps": 9, "train.batch_tokens": 64, "train.eval_tokens": 64,
            "train.eval_every_steps": 0, "checkpoint.every_steps": 3, "diagnosis.watch": "off",
        }  # fmt: skip
        return load_config(None, {**small, **{name.replace("__", "."): value for name, value in changes.items()}})

    return make


def names(run):
    return [path.name for path in ck.list_snapshots(run)]


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


class StopsAt(Observer):
    def __init__(self, step):
        self._step = step

    def on_step(self, metrics):
        if metrics.step == self._step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("max_steps", "expected"),
    [(1, [0, 1]), (2, [0, 1, 2]), (3, [0, 1, 2]), (9, [0, 1, 2, 4, 8]), (16, [0, 1, 2, 4, 8, 16])],
)
def test_steps_are_zero_and_the_powers_of_two(max_steps, expected):
    assert snapshot_steps(TrainConfig(max_steps=max_steps)) == expected


def test_limit_is_on_all_snapshots_together():
    model = ModelConfig(vocab_size=257, context_length=32, n_layer=1, n_head=1, n_embd=16)
    train = TrainConfig(max_steps=1000)
    total = total_snapshot_bytes(model, train)
    assert 11 * 4 * 257 * 16 < total < weight_snapshots.LARGEST_TOTAL_BYTES
    gpt2 = ModelConfig(vocab_size=50257, context_length=1024, n_layer=12, n_head=12, n_embd=768)
    assert total_snapshot_bytes(gpt2, train) == 0
    assert total_snapshot_bytes(gpt2, dataclasses.replace(train, snapshots="on")) > 11 * 490_000_000
    assert total_snapshot_bytes(model, dataclasses.replace(train, snapshots="off")) == 0


def test_snapshots_change_nothing_and_equal_the_checkpoints_of_their_steps(config, tmp_path):
    every_step = config(checkpoint__every_steps=1, checkpoint__keep_last=99)
    api.train(every_step, tmp_path / "with")
    api.train(
        dataclasses.replace(every_step, train=dataclasses.replace(every_step.train, snapshots="off")),
        tmp_path / "without",
    )
    run, without = RunFolder(tmp_path / "with"), RunFolder(tmp_path / "without")
    assert names(run) == [f"step-{step:06d}" for step in (0, 1, 2, 4, 8)]
    assert not without.snapshots.exists()
    for path in ck.list_checkpoints(run):
        assert (path / "optimizer.pt").read_bytes() == (without.checkpoints / path.name / "optimizer.pt").read_bytes()
        assert_equal(weights(path), weights(without.checkpoints / path.name))
    for path in ck.list_snapshots(run)[1:]:
        assert_equal(weights(path), weights(run.checkpoints / path.name))
        assert ck.find_damage(path) is None
        assert not ck.has_optimizer(path)


def test_first_snapshot_holds_the_initial_weights(config, tmp_path):
    settings = config(train__max_steps=1)
    api.train(settings, tmp_path / "run")
    torch.manual_seed(settings.seed)
    from glassgpt.model.build import build_model

    first = glassgpt.load(tmp_path / "run", checkpoint="step-000000", device="cpu")
    initial = build_model(first.model.config)
    assert_equal(first.model.state_dict(), initial.state_dict())
    assert first.step == 0
    assert first.checkpoint == "step-000000, a snapshot; the newest is step-000001"


def test_averaged_weights_are_what_is_kept(config, tmp_path):
    api.train(config(train__ema_decay=0.9, checkpoint__every_steps=1, checkpoint__keep_last=99), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    average = load_file(run.checkpoints / "step-000004" / "average.safetensors")
    assert_equal(weights(run.snapshots / "step-000004"), average)


def test_old_checkpoints_are_pruned_and_snapshots_are_not(config, tmp_path):
    api.train(config(checkpoint__every_steps=1, checkpoint__keep_last=1, checkpoint__keep_best=False), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert [path.name for path in ck.list_checkpoints(run)] == ["step-000009"]
    assert len(names(run)) == 5


def test_resumed_run_has_the_same_snapshots(config, tmp_path):
    api.train(config(), tmp_path / "whole")
    with pytest.raises(Interrupted):
        api.train(config(), tmp_path / "run", observers=(StopsAt(5),))
    run, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    assert names(run)[-1] == "step-000004"
    for path in ck.list_checkpoints(run):  # as if it had been killed before it saved
        if ck.checkpoint_step(path) > 3:
            shutil.rmtree(path)
    (run.snapshots / ".staging-1").mkdir()
    api.train(config(), run.path, resume=True)
    assert names(run) == names(whole)
    for path in ck.list_snapshots(whole):
        assert {file.name: file.read_bytes() for file in path.iterdir()} == {
            file.name: file.read_bytes() for file in (run.snapshots / path.name).iterdir()
        }
    assert not (run.snapshots / ".staging-1").exists()


def test_snapshots_after_a_rollback_are_those_of_the_new_course(grammar_dataset, tmp_path):
    class RollsBackOnce(Policy):
        def __init__(self):
            self.target = None

        def on_checkpoint(self, path):
            self.target = self.target or path

        def decide(self, outcome):
            if outcome is not None and getattr(outcome, "step", 0) == 5 and self.target is not None:
                target, self.target = self.target, None
                self.seen = names(RunFolder(tmp_path))
                return Rollback(target, 0.5, 0, "test", 0)
            return super().decide(outcome)

    from glassgpt.model.build import build_model
    from glassgpt.training.config import CheckpointConfig

    settings = TrainerConfig(
        TrainConfig(max_steps=9, batch_tokens=64, eval_every_steps=0, eval_tokens=64),
        checkpoint=CheckpointConfig(every_steps=3, keep_last=9),
    )
    torch.manual_seed(1)
    model = build_model(ModelConfig(vocab_size=257, context_length=16, n_layer=1, n_head=1, n_embd=16))
    policy = RollsBackOnce()
    trainer = Trainer(model, grammar_dataset, settings, RunFolder(tmp_path), policy=policy)
    before = {}

    class SeesRollback(Observer):
        def on_rollback(self, step):
            before["step"], before["left"] = step, names(RunFolder(tmp_path))

    WeightSnapshots(trainer).attach()
    trainer.observers.append(SeesRollback())
    trainer.run()
    assert "step-000004" in policy.seen
    assert before == {"step": 3, "left": ["step-000000", "step-000001", "step-000002"]}
    assert names(RunFolder(tmp_path)) == [f"step-{step:06d}" for step in (0, 1, 2, 4, 8)]


def test_full_disk_is_a_warning(config, tmp_path, monkeypatch, capsys):
    def refuses(weights, file):
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr("glassgpt.training.checkpoint.store.save_aligned", refuses)
    settings = config(train__max_steps=1)
    with pytest.raises(CheckpointError, match="could not save .*checkpoints"):  # of the checkpoint, as before
        api.train(settings, tmp_path / "run")
    shown = " ".join(capsys.readouterr().err.split())
    assert "step-000000: No space left on device; training continues without it" in shown
    events = [line for line in read_jsonl(RunFolder(tmp_path / "run").events) if line["event"] == "snapshot not saved"]
    assert len(events) == 2
    assert names(RunFolder(tmp_path / "run")) == []


def test_training_ends_well_though_snapshots_fail(config, tmp_path, monkeypatch):
    def refuses(run, weights, state):
        raise CheckpointError("could not save it: No space left on device")

    monkeypatch.setattr(weight_snapshots, "save_snapshot", refuses)
    assert api.train(config(), tmp_path / "run").step == 9


def test_large_snapshots_that_were_asked_for_must_fit_on_the_disk(config, tmp_path, monkeypatch):
    settings = config(train__snapshots="on")
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 0, 300_000))
    with pytest.raises(ConfigError, match="each, and snapshots"):
        resolve_config(settings, tmp_path / "run")


@pytest.fixture
def copy(nano_run, tmp_path):
    return RunFolder(shutil.copytree(nano_run, tmp_path / "copy"))


def test_every_command_finds_snapshots_by_name(copy, run_main):
    steps = checkpoint_steps(copy)
    assert steps[:5] == [0, 1, 2, 4, 8]
    assert len(steps) == len(set(steps))
    code, out, _ = run_main(
        "generate",
        copy.path,
        "--checkpoint",
        "step-000004",
        "--prompt",
        "a",
        "--max-tokens",
        3,
        "--seed",
        1,
        "--device",
        "cpu",
    )
    assert code == 0
    assert out
    code, out, err = run_main(
        "inspect", copy.path, "--checkpoint", "step-000000", "--text", "--prompt", "the king", "--device", "cpu"
    )
    assert (code, "next" in out.lower()) == (0, True), err
    assert run_main("evaluate", copy.path, "--checkpoint", "step-000002", "--device", "cpu")[0] == 0
    losses = dict(
        trace_checkpoints(copy.path, "the old king").map(lambda found: float(found["logits"].logsumexp(-1).mean()))
    )
    assert list(losses) == steps


def test_run_with_snapshots_only_can_be_used_but_not_resumed(copy, run_main):
    shutil.rmtree(copy.checkpoints)
    loaded = glassgpt.load(copy.path, checkpoint="step-000008", device="cpu")
    assert loaded.checkpoint == "step-000008, a snapshot"
    newest = names(copy)[-1]
    with pytest.raises(CheckpointError, match=f"has no checkpoint yet; its newest snapshot .* --checkpoint {newest}"):
        glassgpt.load(copy.path)
    assert ck.newest_verified_checkpoint(copy) is None


def test_missing_and_damaged_snapshots_are_named(copy):
    shutil.rmtree(copy.snapshots / "step-000002")
    with pytest.raises(
        CheckpointError, match="has no checkpoint step-000002; it has: best, latest, step-000000, step-000001"
    ):
        ck.find_checkpoint(copy, "step-000002")
    file = copy.snapshots / "step-000004" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match="snapshots/step-000004 is damaged: model.safetensors does not match"):
        ck.find_checkpoint(copy, "step-000004")
    (copy.snapshots / "step-000001" / "state.json").unlink()
    with pytest.raises(CheckpointError, match="snapshots/step-000001 is damaged: state.json is missing"):
        ck.find_checkpoint(copy, "step-000001")
    log = RunLog.read(copy)
    found = check_checkpoints(log, TrainerConfig(), [5], {}).findings
    assert [finding.evidence["checkpoint"] for finding in found] == ["snapshots/step-000001", "snapshots/step-000004"]


def test_linked_folder_of_snapshots_is_refused(copy, tmp_path):
    copy.snapshots.rename(tmp_path / "elsewhere")
    copy.snapshots.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(glassgpt.GlassGPTError, match="snapshots is a symbolic link, not a folder"):
        glassgpt.load(copy.path, checkpoint="step-000004")


def test_snapshot_state_is_the_same_in_every_run(copy):
    state = json.loads((copy.snapshots / "step-000004" / "state.json").read_text())
    assert (state["step"], state["seconds"], state["rng"]) == (4, 0.0, [])
