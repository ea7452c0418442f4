"""The loop acts on the decisions of a policy: a scripted one that returns decisions for chosen steps."""

import gc
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fault_helpers import LimitedMemory, at_step, poison_window, trainer_for, weights
from glassgpt.errors import MemoryExhaustedError, TrainingDivergedError
from glassgpt.model.attention import attend_readable
from glassgpt.training import garbage
from glassgpt.training.attention_modules import attention_modules
from glassgpt.training.checkpoint import STATE, newest_verified_checkpoint
from glassgpt.training.checkpoint.verify import write_manifest
from glassgpt.training.garbage import manual_garbage_collection
from glassgpt.training.memory_plan import MemoryPlan
from glassgpt.training.outcomes import Applied, Continue, OutOfMemory, Policy, Retry, Rollback, Skipped, Stop
from glassgpt.training.run_folder import RunFolder
from glassgpt.training.snapshot import InitialState


class Scripted(Policy):
    """Records all outcomes, and returns a decision for the first one of each class."""

    def __init__(self, **decisions):
        self.outcomes, self._decisions = [], decisions

    def decide(self, outcome):
        self.outcomes.append(outcome)
        return self._decisions.pop(type(outcome).__name__, None) or super().decide(outcome)

    def of(self, kind):
        return [outcome for outcome in self.outcomes if isinstance(outcome, kind)]


def scripted(dataset, path, policy, **options):
    return trainer_for(dataset, path, lambda trainer: policy, **options)


@pytest.mark.parametrize("by_python", [0, 375])
def test_objects_that_python_froze_when_it_started_change_nothing(by_python, monkeypatch):
    """Python 3.12 does. Then nothing was frozen after the first step, and every hundredth step was slow."""
    calls = []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: by_python)
    for name in ("freeze", "unfreeze", "collect"):
        monkeypatch.setattr(gc, name, lambda name=name: calls.append(name))
    with manual_garbage_collection() as after_step:
        after_step()
        after_step()
    assert calls == ["collect", "freeze", "collect", "freeze", "unfreeze"]


@pytest.mark.slow  # it is timed; the test above is about the reason
def test_collections_are_quick_after_the_first():
    """In a separate process, with as many objects as compiling a model leaves."""
    program = (
        "import time\nfrom glassgpt.training.garbage import manual_garbage_collection as manual\n"
        "with manual() as after_step:\n"
        "    kept = [[n] for n in range(1_000_000)]\n"
        "    times = []\n"
        "    for _ in range(201):\n"
        "        begin = time.perf_counter(); after_step(); times.append(time.perf_counter() - begin)\n"
        "print(times[0] / max(times[100], times[200]))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(garbage.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) > 5


@pytest.mark.parametrize("frozen_by_caller", [False, True])
def test_objects_that_a_caller_froze_stay_frozen(frozen_by_caller, counted_frozen_heap):
    gc.unfreeze()
    if frozen_by_caller:
        gc.freeze()
    before = gc.get_freeze_count()
    with manual_garbage_collection():
        assert gc.get_freeze_count() > 0
        assert not gc.isenabled()
    assert gc.get_freeze_count() == pytest.approx(before, rel=0.01)  # frozen objects can be freed
    assert gc.isenabled()
    gc.freeze()


def test_what_survives_the_first_collection_is_frozen(counted_frozen_heap, monkeypatch):
    monkeypatch.setattr(garbage, "COLLECT_EVERY_STEPS", 1)
    gc.unfreeze()
    with manual_garbage_collection() as after_step:
        before, kept = gc.get_freeze_count(), [[] for _ in range(1000)]
        after_step()
        frozen = gc.get_freeze_count()
        assert frozen == pytest.approx(before + len(kept), abs=500)
        later = [[] for _ in range(1000)]
        after_step()
        assert gc.get_freeze_count() <= frozen  # only once: what training leaves from then on can be garbage
        assert len(later) == 1000
    gc.freeze()


def test_garbage_is_collected_after_the_first_step_and_rarely_later(grammar_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(garbage, "COLLECT_EVERY_STEPS", 5)
    trainer, _ = trainer_for(grammar_dataset, tmp_path, max_steps=12)
    collected, collect = [], gc.collect
    monkeypatch.setattr(gc, "collect", lambda: collected.append(trainer.state.step) or collect())
    trainer.run()
    assert collected == [0, 1, 6, 11]


def test_policy_sees_each_applied_step_once(grammar_dataset, tmp_path):
    policy = Scripted()
    trainer, told = scripted(grammar_dataset, tmp_path, policy, eval_every_steps=4)
    trainer.run()
    # A step that is settled before a validation or a checkpoint is reported to observers only.
    assert [outcome.step for outcome in policy.of(Applied)] == [1, 2, 3, 5, 6, 7, 9, 10, 11]
    assert len(policy.outcomes) == 12
    assert [step.step for step in told.steps] == list(range(1, 13))


def test_plain_policy_stops_at_a_skipped_step(grammar_dataset, tmp_path):
    trainer, told = trainer_for(grammar_dataset, tmp_path)
    poison_window(trainer, 5, 3)
    with pytest.raises(TrainingDivergedError, match=r"step 5: the loss is nan .* nothing of it was saved"):
        trainer.run()
    assert told.of("diverged") == [{"at": 5, "loss": "nan", "grad_norm": "nan"}]


def test_plain_policy_stops_when_memory_runs_out(grammar_dataset, tmp_path):
    trainer, told = trainer_for(grammar_dataset, tmp_path)
    LimitedMemory(trainer.train_step, 4)
    with pytest.raises(MemoryExhaustedError, match=r"step 1: ran out of memory with a micro-batch of 8 .* --resume"):
        trainer.run()
    assert [event["error"] for event in told.of("failed")] == ["MemoryExhaustedError"]


def test_continue_skips_the_step_and_quarantines(grammar_dataset, tmp_path):
    policy = Scripted(Skipped=Continue(quarantine=((0, 40),)))
    trainer, told = scripted(grammar_dataset, tmp_path, policy)
    poison_window(trainer, 5, 3)
    trainer.run()
    (skipped,) = policy.of(Skipped)
    assert (skipped.step, skipped.bad_micro_steps, skipped.snapshot.windows) == (5, 1, 4 * 8)
    assert [step.step for step in told.steps] == [1, 2, 3, 4, *range(6, 13)]
    assert trainer.state.quarantined == [(0, 40)]
    assert trainer.state.windows == 12 * 8


def test_continue_changes_memory_plan_and_attention(grammar_dataset, tmp_path):
    plan = MemoryPlan(2, 0, False)
    policy = Scripted(Applied=Continue(memory_plan=plan, use_reference_attention=True))
    trainer, _ = scripted(grammar_dataset, tmp_path, policy)
    trainer.run()
    assert trainer.train_step.memory_plan == plan
    assert all(module.attend is attend_readable for module in attention_modules(trainer.model))


def test_retry_runs_the_step_again_with_the_new_plan(grammar_dataset, tmp_path):
    policy = Scripted(OutOfMemory=Retry(MemoryPlan(2, 0, False)))
    trainer, told = scripted(grammar_dataset, tmp_path, policy)
    LimitedMemory(trainer.train_step, 2)
    trainer.run()
    plain, _ = trainer_for(grammar_dataset, tmp_path / "plain", micro_batch_size=2)
    plain.run()
    assert policy.of(OutOfMemory)[0].step == 1
    assert [step.step for step in told.steps] == list(range(1, 13))
    assert torch.equal(weights(trainer.model), weights(plain.model))


def test_rollback_to_the_initial_state_keeps_the_data_position(grammar_dataset, tmp_path):
    policy = Scripted()
    trainer, told = scripted(grammar_dataset, tmp_path, policy)
    initial = InitialState.capture(trainer.model, trainer.train_step.snapshot())
    policy._decisions["Skipped"] = Rollback(initial, 0.5, 3, reason="test", rollbacks_left=1)
    poison_window(trainer, 5, 3)
    trainer.run()
    assert told.of("rewind") == [{"from": 5, "to": 0, "rate_scale": 0.5, "because": "test", "rewinds_left": 1}]
    assert told.rollbacks == [0]
    assert [step.step for step in told.steps] == [1, 2, 3, 4, *range(1, 13)]
    assert trainer.state.windows == (5 + 12) * 8
    assert trainer.learning_rate(0) == pytest.approx(1e-3 / 3 * 0.5 / 4)


def test_rollback_of_an_applied_step_drops_the_queued_one(grammar_dataset, tmp_path):
    """The step after the one that the policy decides on is queued and not finite: it must leave no trace."""
    policy = Scripted()
    trainer, told = scripted(grammar_dataset, tmp_path, policy, every_steps=2)
    trainer.run_steps(2)
    checkpoint = trainer.save()
    policy._decisions["Applied"] = Rollback(checkpoint, 1.0, 0, reason="test", rollbacks_left=0)
    poison_window(trainer, 4, 3)
    trainer.run()
    assert policy.of(Skipped) == []
    assert [step.step for step in told.steps] == [1, 2, 3, *range(3, 13)]


def test_stop_ends_the_run_with_the_advice(grammar_dataset, tmp_path):
    trainer, _ = scripted(grammar_dataset, tmp_path, Scripted(Skipped=Stop("Buy a bigger computer")))
    poison_window(trainer, 5, 3)
    with pytest.raises(TrainingDivergedError, match="Buy a bigger computer"):
        trainer.run()


def test_stop_after_an_applied_step_reports_a_divergence(grammar_dataset, tmp_path):
    trainer, _ = scripted(grammar_dataset, tmp_path, Scripted(Applied=Stop()))
    with pytest.raises(TrainingDivergedError, match="the loss rose far above its lowest value"):
        trainer.run()


def test_damage_in_the_last_step_is_found_before_it_is_saved(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, every_steps=6)
    at_step(trainer, 6, lambda: trainer.model.norm.weight.data.fill_(math.nan))
    with pytest.raises(TrainingDivergedError, match="step 6"):
        trainer.run()
    assert newest_verified_checkpoint(RunFolder(tmp_path)) is None


def test_state_of_an_earlier_version_is_resumed(grammar_dataset, tmp_path):
    """Checkpoints have the policy's state under `guard`, and the micro-batch size under `micro_rows`."""
    policy = Scripted()
    policy.state_dict = lambda: {"skips": [3]}
    trainer, _ = scripted(grammar_dataset, tmp_path, policy, every_steps=6)
    trainer.set_memory_plan(MemoryPlan(4, 0, False))
    trainer.run()
    path = newest_verified_checkpoint(RunFolder(tmp_path)).path
    state = json.loads((path / STATE).read_text())
    assert state["guard"] == {"skips": [3]}
    assert state["memory"] == {"micro_rows": 4, "loss_chunk_tokens": 0, "recompute_activations": False}
    del state["guard"], state["memory"]  # as before recovery existed
    (path / STATE).write_text(json.dumps(state))
    (path / "manifest.json").unlink()
    write_manifest(path)
    again, _ = scripted(grammar_dataset, tmp_path, Scripted(), max_steps=14)
    again.resume(path)
    assert again.run().step == 14
