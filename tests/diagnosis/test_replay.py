"""A fault is put into a real training; the replay must name it, and rule the others out."""

import json
import math
import shutil

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


def verdict_of(trainer):
    """What the run stopped for, without recovery."""
    with pytest.raises(TrainingDivergedError):
        trainer.run()
    return trainer.guard.verdicts[-1]


def watcher():
    return RecoveryPolicy(DiagnosisConfig(recover=False))


def test_a_bad_row_is_named_with_its_text(grammar_dataset, tmp_path):
    trainer, told = trainer_for(grammar_dataset, tmp_path, watcher(), micro_batch_size=4)
    start = poison_window(trainer, 5, 6)
    verdict = verdict_of(trainer)
    assert verdict.cause == "data"
    (row,) = verdict.rows
    assert (row.micro_step, row.row, row.start, row.end) == (1, 2, start, start + 33)
    text = grammar_dataset.tokenizer.decode(grammar_dataset.split("train").read(start, 33).tolist())
    assert row.text == text
    assert verdict.module.name == "token_embedding"
    assert verdict.module.direction == "forward"
    assert [reason.cause for reason in verdict.ruled_out] == ["weights", "kernel", "precision"]
    assert told.of("replay")[0]["at"] == 5


def test_a_weight_that_is_no_number_is_named(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, watcher())

    def damage():
        with torch.no_grad():
            trainer.model.blocks[1].mlp.up.weight[3, 4] = math.inf

    at_step(trainer, 4, damage)
    verdict = verdict_of(trainer)
    assert verdict.cause == "weights"
    assert verdict.parameters == ("blocks.1.mlp.up.weight",)


def test_a_weight_that_was_changed_is_found_by_training_again(grammar_dataset, tmp_path):
    guard = RecoveryPolicy(DiagnosisConfig(recover=False, certify_steps=1))
    trainer, _ = trainer_for(grammar_dataset, tmp_path, guard, every_steps=2)

    def damage():
        with torch.no_grad():
            trainer.model.blocks[0].mlp.down.weight.fill_(3e38)

    at_step(trainer, 8, damage)
    verdict = verdict_of(trainer)
    assert verdict.cause == "weights"
    assert verdict.parameters == ("blocks.0.mlp.down.weight",)
    assert "data" in verdict.causes_ruled_out()


@pytest.mark.parametrize("rate", [300.0, 1e6])
def test_a_rate_that_is_too_high_is_told_from_damage(grammar_dataset, tmp_path, rate):
    guard = RecoveryPolicy(DiagnosisConfig(recover=False))
    trainer, _ = trainer_for(grammar_dataset, tmp_path, guard, learning_rate=rate, warmup=0, max_steps=40)
    trainer.keep_initial_weights()
    verdict = verdict_of(trainer)
    assert verdict.cause == "learning rate"
    assert "training-again-gives-the-same" in [reason.key for reason in verdict.ruled_out]


def test_a_broken_kernel_is_told_from_the_rest(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, watcher())

    def broken(*inputs):
        return attend(*inputs) * math.nan

    def swap():
        for block in trainer.model.blocks:
            block.attention.attend = broken

    at_step(trainer, 4, swap)
    verdict = verdict_of(trainer)
    assert verdict.cause == "kernel"
    assert verdict.module.name == "blocks.0.attention"


def test_an_overflow_in_half_precision_is_a_matter_of_precision(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, watcher(), precision="fp16")
    trainer.keep_initial_weights()

    def enlarge(module, inputs, output):
        return output * 1e6  # beyond what float16 can hold

    trainer.model.blocks[1].mlp.up.register_forward_hook(enlarge)
    verdict = verdict_of(trainer)
    assert verdict.cause == "precision"
    assert verdict.module.name == "blocks.1.mlp.up"


def test_a_module_that_always_fails_is_named(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, watcher())
    trainer.keep_initial_weights()
    trainer.model.blocks[1].norm2.register_forward_hook(lambda module, inputs, output: output / 0)
    verdict = verdict_of(trainer)
    assert verdict.cause == "model"
    assert verdict.module.name == "blocks.1.norm2"
    assert verdict.module.input_range > 0


def test_a_gradient_that_is_no_number_is_found_in_the_backward_pass(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, watcher())

    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.nan

    trainer.model.blocks[1].norm1.register_forward_hook(lambda module, inputs, output: Poison.apply(output))
    verdict = verdict_of(trainer)
    assert verdict.cause == "model"
    assert (verdict.module.name, verdict.module.direction) == ("blocks.1.norm1", "backward")


def test_what_does_not_happen_again_is_said_so(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, watcher())

    def once():
        handle = trainer.model.norm.register_forward_hook(
            lambda module, inputs, output: (handle.remove(), output * math.nan)[1]
        )

    at_step(trainer, 4, once)
    assert verdict_of(trainer).cause == "not reproduced"


def test_a_replay_changes_nothing(grammar_dataset, tmp_path):
    import dataclasses

    from fault_helpers import TINY

    model = dataclasses.replace(TINY, dropout=0.2)
    optimizer = OptimizerConfig(name="muon", momentum_warmup_steps=9)
    trained = []
    for replays in (0, 5):
        guard = RecoveryPolicy(DiagnosisConfig(most_replays=replays, most_rows=0))
        trainer, told = trainer_for(
            grammar_dataset, tmp_path / str(replays), guard, model=model, optimizer=optimizer, micro_batch_size=4
        )
        poison_window(trainer, 5, 6)
        trainer.run()
        assert len(told.of("step skipped")) == 1
        trained.append(weights(trainer.model))
    assert torch.equal(*trained)


def test_a_dead_run_is_replayed_from_its_files(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, every_steps=3)
    start = poison_window(trainer, 5, 6)
    with pytest.raises(TrainingDivergedError):
        trainer.run()
    again, _ = trainer_for(grammar_dataset, tmp_path)
    poison_window(again, 5, 6)
    verdict = replay_saved_run(again, newest_verified_checkpoint(RunFolder(tmp_path)).path)
    assert verdict.cause == "data"
    assert verdict.rows[0].start == start
    healthy, _ = trainer_for(grammar_dataset, tmp_path)
    assert replay_saved_run(healthy, newest_verified_checkpoint(RunFolder(tmp_path)).path, steps=5) is None


# --- the doctor on a dead run


@pytest.fixture
def bad_row(monkeypatch):
    """Every training of this process has a row in its fifth batch that gives no number; also one that is done again."""

    def build(*arguments, **more):
        trainer = Trainer(*arguments, **more)
        poison_window(trainer, 5, 6)
        return trainer

    monkeypatch.setattr("glassgpt.api.training.Trainer", build)
    monkeypatch.setattr("glassgpt.diagnosis.post_mortem.Trainer", build)


def dead_run(grammar_data, out, **changes):
    """A run that stopped at its fifth step, without a replay of its own."""
    overrides = {
        "data": str(grammar_data), "model.context_length": 32, "model.n_embd": 16, "train.batch_tokens": 256,
        "train.max_steps": 12, "schedule.warmup_steps": 2, "checkpoint.every_steps": 3, "diagnosis.recover": False,
        "diagnosis.most_replays": 0, **changes,
    }  # fmt: skip
    with pytest.raises(TrainingDivergedError):
        api.train(load_config("nano", overrides), out)


def replay_check(run, **more):
    return next((check for check in api.doctor(run, **more) if check.name == "replay"), None)


def test_the_doctor_replays_the_step_that_ended_a_run(grammar_data, tmp_path, bad_row):
    dead_run(grammar_data, tmp_path / "run")
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    check = replay_check(tmp_path / "run")
    assert describe_measurement(check) == "step 5 replayed from step-000003: data"
    (finding,) = check.findings
    assert (finding.code, finding.severity) == ("GG-NAN-011", "fatal")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == files


def test_what_the_run_replayed_itself_is_not_done_again(grammar_data, tmp_path, bad_row):
    dead_run(grammar_data, tmp_path / "run", **{"diagnosis.most_replays": 1})
    assert describe_measurement(replay_check(tmp_path / "run")) == "step 5 was replayed when it failed: data"


def test_what_does_not_happen_again_is_said_of_a_dead_run(grammar_data, tmp_path, bad_row, monkeypatch):
    dead_run(grammar_data, tmp_path / "run")
    monkeypatch.setattr("glassgpt.diagnosis.post_mortem.Trainer", Trainer)
    (finding,) = replay_check(tmp_path / "run").findings
    assert finding.code == "GG-NAN-017"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda run: shutil.rmtree(run.checkpoints), "there is no checkpoint to start from"),
        (lambda run: next(run.checkpoints.glob("step-*/manifest.json")).unlink(), "is whole"),
        (lambda run: run.events.open("a").write(json.dumps(EVENT) + "\n"), "(rollback)"),
        (lambda run: run.config.write_text(run.config.read_text().replace("grammar", "gone")), "its dataset is gone"),
    ],
)
def test_why_a_step_cannot_be_done_again_is_said(grammar_data, tmp_path, bad_row, spoil, why):
    dead_run(grammar_data, tmp_path / "run")
    spoil(RunFolder(tmp_path / "run"))
    check = replay_check(tmp_path / "run")
    assert check.passed
    assert describe_measurement(check).startswith("step 5 cannot be replayed: ")
    assert why in describe_measurement(check)


def test_a_run_that_ended_well_is_not_replayed(nano_run):
    assert replay_check(nano_run) is None


EVENT = {"step": 3, "event": "rewind"}
