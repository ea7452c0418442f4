"""Replay: a fault is injected into a real training run; the replay must find it and rule out the others."""

import json
import math
import random
import shutil

import numpy as np
import pytest
import torch

from fault_helpers import at_step, poison_window, trainer_for, weights
from glassgpt import api
from glassgpt.config import load_config
from glassgpt.diagnosis.catalogue import describe_measurement
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.recovery import RecoveryPolicy
from glassgpt.diagnosis.replay import replay_saved_run
from glassgpt.errors import TrainingDivergedError
from glassgpt.model.attention import attend
from glassgpt.training.checkpoint import newest_verified_checkpoint
from glassgpt.training.config import OptimizerConfig
from glassgpt.training.loop import Trainer
from glassgpt.training.run_folder import RunFolder


def replay_of(trainer):
    """Return the replay of the step that the run stopped at."""
    with pytest.raises(TrainingDivergedError):
        trainer.run()
    return trainer.policy.replays[-1]


def policy(**changes):
    """Return a function that builds the policy of a trainer; it replays, but does not recover."""
    return lambda trainer: RecoveryPolicy(trainer, DiagnosisConfig(**{"recover": False, **changes}))


def test_bad_row_is_found_with_its_text(grammar_dataset, tmp_path):
    trainer, told = trainer_for(grammar_dataset, tmp_path, policy(), micro_batch_size=4)
    start = poison_window(trainer, 5, 6)
    result = replay_of(trainer)
    assert result.cause == "data"
    (row,) = result.rows
    assert (row.micro_step, row.row, row.start, row.end) == (1, 2, start, start + 33)
    text = grammar_dataset.tokenizer.decode(grammar_dataset.split("train").read(start, 33).tolist())
    assert row.text == text
    assert result.module.name == "token_embedding"
    assert result.module.direction == "forward"
    assert [reason.cause for reason in result.ruled_out] == ["weights", "kernel", "precision"]
    assert told.of("replay")[0]["at"] == 5


def test_weight_that_is_not_finite_is_found(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, policy())

    def damage():
        with torch.no_grad():
            trainer.model.blocks[1].mlp.up.weight[3, 4] = math.inf

    at_step(trainer, 4, damage)
    result = replay_of(trainer)
    assert result.cause == "weights"
    assert result.parameters == ("blocks.1.mlp.up.weight",)


def test_changed_weight_is_found_by_training_again(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, policy(certify_steps=1), every_steps=2)

    def damage():
        with torch.no_grad():
            trainer.model.blocks[0].mlp.down.weight.fill_(3e38)

    at_step(trainer, 8, damage)
    result = replay_of(trainer)
    assert result.cause == "weights"
    assert result.parameters == ("blocks.0.mlp.down.weight",)
    assert "data" in result.causes_ruled_out()


@pytest.mark.parametrize("rate", [300.0, 1e6])
def test_too_high_learning_rate_is_distinguished_from_damage(grammar_dataset, tmp_path, rate):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, policy(), learning_rate=rate, warmup=0, max_steps=40)
    trainer.policy.keep_initial_state()
    result = replay_of(trainer)
    assert result.cause == "learning rate"
    assert "training-again-gives-the-same" in [reason.key for reason in result.ruled_out]


def test_broken_kernel_is_found(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, policy())

    def broken(*inputs):
        return attend(*inputs) * math.nan

    def swap():
        for block in trainer.model.blocks:
            block.attention.attend = broken

    at_step(trainer, 4, swap)
    result = replay_of(trainer)
    assert result.cause == "kernel"
    assert result.module.name == "blocks.0.attention"


def test_float16_overflow_is_attributed_to_precision(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, policy(), precision="fp16")
    trainer.policy.keep_initial_state()

    def enlarge(module, inputs, output):
        return output * 1e6  # beyond what float16 can hold

    trainer.model.blocks[1].mlp.up.register_forward_hook(enlarge)
    result = replay_of(trainer)
    assert result.cause == "precision"
    assert result.module.name == "blocks.1.mlp.up"


def test_module_that_always_fails_is_found(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, policy())
    trainer.policy.keep_initial_state()
    trainer.model.blocks[1].norm2.register_forward_hook(lambda module, inputs, output: output / 0)
    result = replay_of(trainer)
    assert result.cause == "model"
    assert result.module.name == "blocks.1.norm2"
    assert result.module.input_range > 0


def test_non_finite_gradient_is_found_in_the_backward_pass(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, policy())

    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.nan

    trainer.model.blocks[1].norm1.register_forward_hook(lambda module, inputs, output: Poison.apply(output))
    result = replay_of(trainer)
    assert result.cause == "model"
    assert (result.module.name, result.module.direction) == ("blocks.1.norm1", "backward")


def test_fault_that_does_not_recur_is_not_reproduced(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, policy())

    def once():
        handle = trainer.model.norm.register_forward_hook(
            lambda module, inputs, output: (handle.remove(), output * math.nan)[1]
        )

    at_step(trainer, 4, once)
    assert replay_of(trainer).cause == "not reproduced"


def test_replay_changes_neither_weights_nor_generators(grammar_dataset, tmp_path):
    import dataclasses

    from fault_helpers import TINY

    model = dataclasses.replace(TINY, dropout=0.2)
    optimizer = OptimizerConfig(name="muon", momentum_warmup_steps=9)
    trained, drawn = [], []
    for replays in (0, 5):
        recovering = policy(recover=True, most_replays=replays, most_rows=0)
        trainer, told = trainer_for(
            grammar_dataset, tmp_path / str(replays), recovering, model=model, optimizer=optimizer, micro_batch_size=4
        )
        poison_window(trainer, 5, 6)
        random.seed(5), np.random.seed(5)
        trainer.run()
        assert len(told.of("step skipped")) == 1
        assert len(told.of("replay")) == min(replays, 1)
        trained.append(weights(trainer.model))
        drawn.append([random.random(), np.random.rand(), torch.rand(()).item()])
    assert torch.equal(*trained)
    assert drawn[0] == drawn[1]


def test_saved_run_is_replayed_from_its_files(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, every_steps=3)
    start = poison_window(trainer, 5, 6)
    with pytest.raises(TrainingDivergedError):
        trainer.run()
    again, _ = trainer_for(grammar_dataset, tmp_path)
    poison_window(again, 5, 6)
    result = replay_saved_run(again, newest_verified_checkpoint(RunFolder(tmp_path)).path)
    assert result.cause == "data"
    assert result.rows[0].start == start
    healthy, _ = trainer_for(grammar_dataset, tmp_path)
    assert replay_saved_run(healthy, newest_verified_checkpoint(RunFolder(tmp_path)).path, steps=5) is None


# --- the doctor, on a run that has ended


@pytest.fixture
def bad_row(monkeypatch):
    """Give every trainer of this process, including a replay's, a non-finite sequence in its fifth batch."""

    def build(*arguments, **more):
        trainer = Trainer(*arguments, **more)
        poison_window(trainer, 5, 6)
        return trainer

    monkeypatch.setattr("glassgpt.api.training.Trainer", build)
    monkeypatch.setattr("glassgpt.diagnosis.post_mortem.Trainer", build)


def crashed_run(grammar_data, out, **changes):
    """Train a run that stops at its fifth step, without replaying it."""
    overrides = {
        "data": str(grammar_data), "model.context_length": 32, "model.n_embd": 16, "train.batch_tokens": 256,
        "train.max_steps": 12, "schedule.warmup_steps": 2, "checkpoint.every_steps": 3, "diagnosis.recover": False,
        "diagnosis.most_replays": 0, **changes,
    }  # fmt: skip
    with pytest.raises(TrainingDivergedError):
        api.train(load_config("nano", overrides), out)


def replay_check(run, **more):
    return next((check for check in api.doctor(run, **more) if check.name == "replay"), None)


def test_doctor_replays_the_step_that_ended_a_run(grammar_data, tmp_path, bad_row):
    crashed_run(grammar_data, tmp_path / "run")
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    check = replay_check(tmp_path / "run")
    assert describe_measurement(check) == "step 5 replayed from step-000003: data"
    (finding,) = check.findings
    assert (finding.code, finding.severity) == ("GG-NAN-011", "fatal")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == files


def test_doctor_does_not_repeat_the_replay_of_the_run(grammar_data, tmp_path, bad_row):
    crashed_run(grammar_data, tmp_path / "run", **{"diagnosis.most_replays": 1})
    assert describe_measurement(replay_check(tmp_path / "run")) == "step 5 was replayed when it failed: data"


def test_doctor_reports_a_fault_that_does_not_recur(grammar_data, tmp_path, bad_row, monkeypatch):
    crashed_run(grammar_data, tmp_path / "run")
    monkeypatch.setattr("glassgpt.diagnosis.post_mortem.Trainer", Trainer)
    (finding,) = replay_check(tmp_path / "run").findings
    assert finding.code == "GG-NAN-017"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda run: shutil.rmtree(run.checkpoints), "there is no checkpoint to start from"),
        (lambda run: next(run.checkpoints.glob("step-*/manifest.json")).unlink(), "is damaged"),
        (lambda run: run.events.open("a").write(json.dumps(EVENT) + "\n"), "(rollback)"),
        (
            lambda run: run.config.write_text(
                run.config.read_text().replace("grammar", "gone").rpartition("# sha256")[0]  # an edited configuration
            ),
            "its dataset no longer exists",
        ),
    ],
)
def test_doctor_says_why_a_step_cannot_be_replayed(grammar_data, tmp_path, bad_row, spoil, why):
    crashed_run(grammar_data, tmp_path / "run")
    spoil(RunFolder(tmp_path / "run"))
    check = replay_check(tmp_path / "run")
    assert check.passed
    assert describe_measurement(check).startswith("step 5 cannot be replayed: ")
    assert why in describe_measurement(check)


def test_run_that_ended_well_is_not_replayed(nano_run):
    assert replay_check(nano_run) is None


EVENT = {"step": 3, "event": "rewind"}
