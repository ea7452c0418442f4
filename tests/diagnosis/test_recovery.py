"""Recovery: a run with a fault completes as if without it, and reports what was done."""

import ast
import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fault_helpers import TINY, LimitedMemory, at_step, poison_window, trainer_for, weights
from forked import run_ranks
from glassgpt.device import is_out_of_memory
from glassgpt.diagnosis.checks import memory
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.recovery import RecoveryPolicy, largest_fitting_micro_batch
from glassgpt.errors import DataError, MemoryExhaustedError, TrainingDivergedError
from glassgpt.training.checkpoint import list_checkpoints, newest_verified_checkpoint, read_state, resolve_pointer
from glassgpt.training.config import OptimizerConfig
from glassgpt.training.memory_plan import MemoryPlan
from glassgpt.training.observers import JsonlLogger
from glassgpt.training.outcomes import Applied, Skipped
from glassgpt.training.run_folder import RunFolder, read_jsonl
from glassgpt.training.step import TrainStep


def recovery(peak_memory=None, fit_micro_batch=memory.fit_micro_batch_size, too_large=None, **changes):
    """Return a function that builds the policy of a trainer."""

    def build(trainer):
        policy = RecoveryPolicy(trainer, DiagnosisConfig(**changes), None, peak_memory, fit_micro_batch)
        if too_large is not None:
            policy.load_state_dict({**policy.state_dict(), "too_many_rows": too_large})
        return policy

    return build


def gradients(train_step):
    """Return the gradient of the next batch, before clipping."""
    train_step._accumulate()
    flat = torch.cat([p.grad.flatten() for p in train_step.model.parameters()])
    train_step.model.zero_grad(set_to_none=True)
    return flat


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_skipped_step_changes_neither_weights_nor_optimizer_nor_average(grammar_dataset, tmp_path, name):
    optimizer = OptimizerConfig(name=name, momentum_warmup_steps=9)
    trainer, _ = trainer_for(grammar_dataset, tmp_path, optimizer=optimizer, ema_decay=0.9)
    trainer.run_steps(3)
    before = [weights(trainer.model), *(t.clone() for t in tensors_of(trainer.train_step))]
    start = trainer.train_step.snapshot()
    handle = trainer.model.norm.register_forward_hook(lambda module, inputs, output: output * math.nan)
    assert trainer.train_step.run(4, 1e-3) is None
    handle.remove()
    skipped = trainer.train_step.run(5, 1e-3)  # queued before the host could know of it, and undone
    assert isinstance(skipped, Skipped)
    assert (skipped.step, skipped.bad_micro_steps, skipped.snapshot.windows) == (4, 1, start.windows)
    after = [weights(trainer.model), *tensors_of(trainer.train_step)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert trainer.train_step.batches.position == start.windows + trainer.train_step.batch_size
    assert isinstance(trainer.train_step.run_and_wait(5, 1e-3), Applied)
    assert not torch.equal(weights(trainer.model), before[0])


def tensors_of(train_step: TrainStep):
    states = [state for optimizer in train_step.optimizers for state in optimizer.state.values()]
    return [t for state in states for t in state.values()] + list(train_step.average.named().values())


def test_recovery_policy_leaves_a_healthy_run_bit_equal(grammar_dataset, tmp_path):
    trained = []
    model = dataclasses.replace(TINY, dropout=0.1)
    for number, policy in enumerate((None, recovery())):
        trainer, told = trainer_for(grammar_dataset, tmp_path / str(number), policy, model=model, every_steps=3)
        trainer.run()
        assert told.events == []
        trained.append(weights(trainer.model))
    assert torch.equal(*trained)


def test_bad_row_is_quarantined(grammar_dataset, tmp_path):
    trainer, told = trainer_for(grammar_dataset, tmp_path, recovery(), every_steps=6)
    start = poison_window(trainer, 5, 3)
    outcome = trainer.run()
    assert outcome.step == 12
    assert [step.step for step in told.steps] == [1, 2, 3, 4, *range(6, 13)]
    assert told.of("step skipped")[0]["at"] == 5
    assert told.of("rows quarantined") == [{"spans": [(start, start + 33)]}]
    state = read_state(newest_verified_checkpoint(RunFolder(tmp_path)).path)
    assert state.quarantined == [[start, start + 33]]
    batches = trainer.train_step.batches
    everything = batches.starts_at(0, batches.windows_per_epoch)
    assert all(not (start - 33 < first < start + 33) for first in everything)
    assert len(everything) == batches.windows_per_epoch
    json.dumps(told.events)
    undisturbed, _ = trainer_for(grammar_dataset, tmp_path / "undisturbed")
    assert outcome.validation.loss == pytest.approx(undisturbed.run().validation.loss, rel=0.02)


def test_run_with_quarantined_row_resumes_bit_equal(grammar_dataset, tmp_path):
    whole, _ = trainer_for(grammar_dataset, tmp_path / "whole", recovery())
    poison_window(whole, 5, 3)
    whole.run()
    first, _ = trainer_for(grammar_dataset, tmp_path / "run", recovery(), every_steps=8, max_steps=8)
    poison_window(first, 5, 3)
    first.run()
    second, _ = trainer_for(grammar_dataset, tmp_path / "run", recovery())
    second.resume(newest_verified_checkpoint(RunFolder(tmp_path / "run")).path)
    second.run()
    assert torch.equal(weights(whole.model), weights(second.model))
    assert second.policy.state_dict()["skips"] == [5]


def test_damaged_weights_are_rolled_back_at_once(grammar_dataset, tmp_path):
    policy = recovery(certify_steps=1)
    trainer, told = trainer_for(grammar_dataset, tmp_path, policy, every_steps=2, max_steps=16)

    def damage():
        with torch.no_grad():
            trainer.model.blocks[0].mlp.up.weight[0, 0] = math.nan

    at_step(trainer, 8, damage)
    outcome = trainer.run()
    (rewind,) = told.of("rewind")
    assert (rewind["to"], rewind["because"], rewind["rate_scale"]) == (6, "weights", 1.0)
    assert outcome.step == 16
    assert math.isfinite(outcome.validation.loss)
    assert told.rollbacks == [6]


def test_repeated_skips_roll_back_to_a_lower_learning_rate(grammar_dataset, tmp_path):
    policy = recovery(certify_steps=1, most_replays=0, rewarmup_steps=3)
    trainer, told = trainer_for(grammar_dataset, tmp_path, policy, every_steps=3, max_steps=16)
    for step in (8, 9, 10):
        poison_window(trainer, step, 0)
    outcome = trainer.run()
    (rewind,) = told.of("rewind")
    assert (rewind["from"], rewind["to"], rewind["rate_scale"]) == (10, 6, 0.5)
    assert len(told.of("step skipped")) == 3
    rates = {step.step: step.learning_rate for step in told.steps}
    assert rates[7] == pytest.approx(1e-3 * 0.5 / 4)
    assert rates[16] == pytest.approx(1e-3 * 0.5)
    assert outcome.step == 16
    state = read_state(newest_verified_checkpoint(RunFolder(tmp_path)).path)
    # The data continues: ten steps before the rollback, ten after it.
    assert (state.windows, state.rate_scale) == (20 * 8, 0.5)


def test_rollback_before_the_first_checkpoint_returns_to_the_initial_state(grammar_dataset, tmp_path):
    trainer, told = trainer_for(grammar_dataset, tmp_path, recovery(most_replays=0), max_steps=8)
    for step in (2, 3, 4):
        poison_window(trainer, step, 0)
    trainer.run()
    assert told.of("rewind")[0]["to"] == 0
    assert [step.step for step in told.steps] == [1, *range(1, 9)]


def test_run_stops_when_the_rollback_budget_is_spent(grammar_dataset, tmp_path):
    trainer, told = trainer_for(grammar_dataset, tmp_path, recovery(most_replays=1), max_steps=40)
    trainer.model.norm.register_forward_hook(lambda module, inputs, output: output * math.nan)
    with pytest.raises(TrainingDivergedError):
        trainer.run()
    assert len(told.of("rewind")) == 3
    assert [name for name, _ in told.events][-2:] == ["recovery ended", "diverged"]
    assert list_checkpoints(RunFolder(tmp_path)) == []


def test_without_recovery_the_run_stops_and_reports_the_cause(grammar_dataset, tmp_path):
    trainer, told = trainer_for(grammar_dataset, tmp_path, recovery(recover=False))
    poison_window(trainer, 5, 3)
    with pytest.raises(TrainingDivergedError):
        trainer.run()
    assert [name for name, _ in told.events] == ["replay", "diverged"]


def test_healthy_checkpoint_is_kept_until_another_is_certified(grammar_dataset, tmp_path):
    trainer, told = trainer_for(grammar_dataset, tmp_path, recovery(certify_steps=3, most_replays=0), every_steps=2)
    run = RunFolder(tmp_path)
    seen = {}
    trainer.observers.append(told)
    original = trainer.policy.decide

    def decide(outcome):
        decision = original(outcome)
        path = resolve_pointer(run, "healthy")
        seen[trainer.state.step] = path and path.name
        assert path is None or path.is_dir()
        return decision

    trainer.policy.decide = decide
    trainer.run()
    assert seen[5] is None
    assert (seen[6], seen[7], seen[8]) == ("step-000002", "step-000002", "step-000004")


def test_rollback_sets_later_metrics_and_checkpoints_aside(grammar_dataset, tmp_path):
    run = RunFolder(tmp_path)
    policy = recovery(certify_steps=1, most_replays=0)
    trainer, _ = trainer_for(grammar_dataset, tmp_path, policy, every_steps=3, max_steps=12)
    trainer.observers.append(JsonlLogger(run, 0))
    for step in (8, 10, 11):
        poison_window(trainer, step, 0)
    trainer.run()
    assert [line["step"] for line in read_jsonl(run.metrics) if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in read_jsonl(run.abandoned)] == [7, 9]
    assert [path.name for path in run.checkpoints.glob("abandoned-*")] == ["abandoned-step-000009"]
    events = [line["event"] for line in read_jsonl(run.events)]
    assert events == ["step skipped"] * 3 + ["rewind"]


def test_scaler_overflow_is_not_reported(grammar_dataset, tmp_path):
    trainer, told = trainer_for(grammar_dataset, tmp_path, recovery(), precision="fp16")
    trainer.train_step.scaler._init_scale = 2.0**40
    trainer.run()
    assert any(step.skipped for step in told.steps)
    assert told.events == []


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_out_of_memory_retries_the_whole_step_with_the_same_gradient(grammar_dataset, tmp_path, dropout):
    model = dataclasses.replace(TINY, dropout=dropout)
    trainer, told = trainer_for(grammar_dataset, tmp_path, recovery(), model=model, micro_batch_size=4)
    LimitedMemory(trainer.train_step, 2, from_call=2)
    trainer.run()
    plain, _ = trainer_for(grammar_dataset, tmp_path / "plain", model=model, micro_batch_size=2)
    plain.run()
    (event,) = told.of("out of memory")
    assert (event["before"]["micro_rows"], event["after"]["micro_rows"], event["recovered"]) == (4, 2, True)
    # Its second micro-batch failed; retried, the step is that of a run that began with micro-batches of two.
    assert torch.equal(weights(trainer.model), weights(plain.model))
    assert read_state(newest_verified_checkpoint(RunFolder(tmp_path)).path).memory["micro_rows"] == 2


@pytest.mark.parametrize(
    "plan",
    [
        MemoryPlan(8, 0, False),
        MemoryPlan(4, 0, False),
        MemoryPlan(1, 0, False),
        MemoryPlan(1, 8, False),
        MemoryPlan(2, 16, True),
    ],
)
def test_gradient_is_the_same_with_every_memory_plan(grammar_dataset, tmp_path, plan):
    trainer, _ = trainer_for(grammar_dataset, tmp_path)
    expected = gradients(trainer.train_step)
    trainer.train_step.seek(0)
    trainer.train_step.set_memory_plan(plan)
    assert trainer.train_step.memory_plan == plan
    torch.testing.assert_close(gradients(trainer.train_step), expected, rtol=1e-4, atol=1e-6)
    trainer.train_step.seek(0)
    trainer.train_step.set_memory_plan(MemoryPlan(8, 0, False))
    assert torch.equal(gradients(trainer.train_step), expected)


def test_memory_plan_is_reduced_cheapest_first():
    plan: MemoryPlan | None = MemoryPlan(6, 0, False)
    plans = []
    while plan is not None:
        plans.append((plan.micro_batch_size, plan.loss_chunk_tokens, plan.recompute_activations))
        plan = plan.reduced(12, 1024)
    assert plans == [(6, 0, False), (3, 0, False), (1, 0, False), (1, 128, False), (1, 128, True)]


def test_run_stops_when_no_memory_plan_is_left(grammar_dataset, tmp_path):
    trainer, told = trainer_for(grammar_dataset, tmp_path, recovery())

    def never(inputs, targets):
        raise torch.OutOfMemoryError("out of memory")

    trainer.train_step.loss.train = never
    with pytest.raises(
        MemoryExhaustedError, match=r"step 1: ran out of memory with a micro-batch of 1 .* No option that takes less"
    ):
        trainer.run()
    assert [event["recovered"] for event in told.of("out of memory")] == [True] * 4 + [False]


def test_largest_fitting_micro_batch_from_measured_peaks():
    assert largest_fitting_micro_batch({1: 300, 4: 600}, 32, 0, 1000) == 8
    assert largest_fitting_micro_batch({2: 500}, 32, 300, 1000) == 4
    assert largest_fitting_micro_batch({2: 500}, 32, 300, 200) == 0


def test_micro_batch_does_not_grow_back_to_a_size_that_failed(grammar_dataset, tmp_path):
    policy = recovery(peak_memory=lambda: (100, 10**9), grow_after_steps=3)
    trainer, told = trainer_for(grammar_dataset, tmp_path, policy)
    device = LimitedMemory(trainer.train_step, 1)
    at_step(trainer, 3, lambda: setattr(device, "batch_size", 2))
    trainer.run()
    assert [event["after"]["micro_rows"] for event in told.of("out of memory")] == [4, 2, 1]
    assert told.of("micro-batch grown") == []  # 2 failed, and there is no size between 1 and 2


def test_micro_batch_grows_if_memory_is_free(grammar_dataset, tmp_path):
    policy = recovery(peak_memory=lambda: (10**6, 10**9), too_large=8, grow_after_steps=3)
    trainer, told = trainer_for(grammar_dataset, tmp_path, policy)
    trainer.set_memory_plan(MemoryPlan(1, 0, False))
    trainer.run()
    assert told.of("micro-batch grown") == [{"before": 1, "after": 4}]
    assert trainer.train_step.micro_batch_size == 4


def test_micro_batch_never_grows_beyond_the_configured_size(grammar_dataset, tmp_path):
    policy = recovery(peak_memory=lambda: (10**6, 10**9), too_large=8, grow_after_steps=3)
    trainer, told = trainer_for(grammar_dataset, tmp_path, policy, micro_batch_size=2)
    trainer.set_memory_plan(MemoryPlan(1, 0, False))
    trainer.run()
    assert told.of("micro-batch grown") == [{"before": 1, "after": 2}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CUDA error: out of memory", True),  # a graph, or pinned memory
        ("MPS backend out of memory (MPS allocated: 8.00 GB)", True),
        ("Triton Error [CUDA]: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_errors_about_memory_are_known_by_their_texts(text, expected):
    assert is_out_of_memory(RuntimeError(text)) == expected


def test_failed_host_allocation_counts_as_out_of_memory(grammar_dataset, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 47, dtype=torch.int8)
    assert is_out_of_memory(caught.value)
    trainer, told = trainer_for(grammar_dataset, tmp_path, recovery())
    LimitedMemory(trainer.train_step, 4, error=caught.value)
    trainer.run()
    assert [event["after"]["micro_rows"] for event in told.of("out of memory")] == [4]


def test_auto_micro_batch_is_measured_once(grammar_dataset, tmp_path):
    policy = recovery(fit_micro_batch=lambda trainer: 4)
    trainer, told = trainer_for(grammar_dataset, tmp_path, policy, micro_batch_size="auto", every_steps=6)
    trainer.run()
    assert told.of("micro-batch fitted") == [{"rows": 4, "of": 8}]
    plain, _ = trainer_for(grammar_dataset, tmp_path / "plain", micro_batch_size=4)
    plain.run()
    assert torch.equal(weights(trainer.model), weights(plain.model))

    def never(trainer):
        raise AssertionError("a resumed run must not measure again")

    resumed, told = trainer_for(grammar_dataset, tmp_path, recovery(fit_micro_batch=never), micro_batch_size="auto")
    resumed.resume(list_checkpoints(RunFolder(tmp_path))[0])
    resumed.run()
    assert torch.equal(weights(resumed.model), weights(plain.model))


@pytest.mark.parametrize(("spare", "rows"), [(0.5, 1), (2.5, 2), (7.9, 4), (8.5, 8), (1000, 8)])
def test_fit_micro_batch_size_measures_what_fits(grammar_dataset, tmp_path, monkeypatch, spare, rows):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, micro_batch_size="auto")
    need = memory.measure_requirement(trainer.model.config, trainer.config, trainer.hardware)
    held = 4 * sum(p.numel() for p in trainer.model.parameters())
    free = (need.bytes_for(max(1.0, spare)) - held) / memory.USABLE + 1
    monkeypatch.setattr(memory, "free_memory", lambda device: int(free))
    monkeypatch.setattr(memory, "memory_requirement", lambda *_: need)
    assert memory.fit_micro_batch_size(trainer) == rows
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(MemoryExhaustedError, match="with one sequence per micro-batch"):
        memory.fit_micro_batch_size(trainer)
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    assert memory.fit_micro_batch_size(trainer) is None


def test_resumed_run_takes_no_more_memory_than_configured(grammar_dataset, tmp_path):
    first, _ = trainer_for(grammar_dataset, tmp_path, recovery())
    first.set_memory_plan(MemoryPlan(4, 0, False))
    first.run()
    for asked, expected in ((0, 4), (8, 4), (2, 2), ("auto", 4)):
        again, _ = trainer_for(grammar_dataset, tmp_path, recovery(), micro_batch_size=asked)
        again.resume(newest_verified_checkpoint(RunFolder(tmp_path)).path)
        assert again.train_step.micro_batch_size == expected
    again, _ = trainer_for(grammar_dataset, tmp_path, recovery(), loss_chunk_tokens=32, recompute_activations=True)
    again.resume(newest_verified_checkpoint(RunFolder(tmp_path)).path)
    assert again.train_step.memory_plan == MemoryPlan(4, 32, True)
    # With more ranks each has a smaller batch, which the remembered size may not divide.
    assert MemoryPlan(5, 0, False).resumed(again.config.train, 8).micro_batch_size == 4


def test_quarantine_of_the_whole_text_is_an_error(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path)
    with pytest.raises(DataError, match="every window"):
        trainer.quarantine([(0, 10**9)])


OUT_OF_MEMORY_SCRIPT = """
import dataclasses
import os
import sys
import torch
from pathlib import Path
from fault_helpers import TINY, LimitedMemory, at_step, trainer_for, weights
from glassgpt.data import TokenDataset
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.recovery import RecoveryPolicy
from glassgpt.errors import MemoryExhaustedError
from glassgpt.training.distributed import process_group

data, out, arch, step, rows, micro_batch = sys.argv[1:]
torch.set_num_threads(1)
with process_group(torch.device("cpu")) as dist:
    model = dataclasses.replace(TINY, arch=arch, bias=arch == "gpt2")
    config = DiagnosisConfig(recover=rows != "off")
    policy = lambda trainer: RecoveryPolicy(trainer, config, peak_memory=lambda: (10**6, 10**9))
    trainer, told = trainer_for(
        TokenDataset.open(Path(data)), out, policy, dist=dist, model=model, micro_batch_size=int(micro_batch)
    )
    if dist.rank == 1 and rows.isdigit():
        at_step(trainer, int(step), lambda: LimitedMemory(trainer.train_step, int(rows)))
    try:
        trainer.run()
    except MemoryExhaustedError as error:
        os.write(1, f"{dist.rank}: {error}\\n".encode())
        os._exit(7)
    line = [told.events, trainer.train_step.micro_batch_size, weights(trainer.model).double().sum().item().hex()]
    os.write(1, f"{line}\\n".encode())
"""


BAD_ROW_SCRIPT = """
import os
import sys
import torch
from pathlib import Path
from fault_helpers import poison_window, trainer_for, weights
from glassgpt.data import TokenDataset
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.recovery import RecoveryPolicy
from glassgpt.training.distributed import full_tensor, process_group

data, out, sharding = sys.argv[1:]
torch.set_num_threads(1)
with process_group(torch.device("cpu")) as dist:
    policy = lambda trainer: RecoveryPolicy(trainer, DiagnosisConfig(certify_steps=1))
    trainer, told = trainer_for(
        TokenDataset.open(Path(data)), out, policy, dist=dist, sharding=sharding, every_steps=3, max_steps=14
    )
    for step in (5, 9, 10):
        poison_window(trainer, step, 2, rank=1)
    trainer.run()
    whole = torch.cat([full_tensor(p.detach()).flatten() for p in trainer.model.parameters()])
    line = [[name for name, _ in told.events], trainer.train_step.batches.quarantined, whole.double().sum().item().hex()]
    print(line)
"""


def two_processes(code, script, *arguments):
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, *arguments]
    paths = f"{Path(__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["gpt2", "modern"])
def test_out_of_memory_on_one_of_two_processes_is_retried_by_both(grammar_data, tmp_path, arch):
    """In the first step one rank has memory for one sequence only; both end bit-equal to a run that started that way."""
    short, plain = (
        two_processes(
            OUT_OF_MEMORY_SCRIPT, tmp_path / "run.py", grammar_data, tmp_path / name, arch, 1, rows, micro_batch
        )
        for name, rows, micro_batch in (("short", "1", 4), ("plain", "enough", 1))
    )
    assert (short.returncode, plain.returncode) == (0, 0), short.stderr + plain.stderr
    first, second = (ast.literal_eval(line) for line in short.stdout.splitlines())
    assert first == second
    events, micro_batch_size, weights_sum = first
    assert [(told["before"]["micro_rows"], told["after"]["micro_rows"]) for _, told in events] == [(4, 2), (2, 1)]
    assert micro_batch_size == 1
    assert weights_sum == ast.literal_eval(plain.stdout.splitlines()[0])[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "rows", "why"), [(9, "1", "the other processes wait"), (1, "0", "No option that takes less")]
)
def test_out_of_memory_that_cannot_be_retried_says_why(grammar_data, tmp_path, step, rows, why):
    out = RunFolder(tmp_path / "run")
    out.path.mkdir()
    done = two_processes(OUT_OF_MEMORY_SCRIPT, tmp_path / "run.py", grammar_data, out.path, "gpt2", step, rows, 4)
    assert done.returncode != 0
    assert f"1: step {step}: " in done.stdout
    assert why in done.stdout
    failures = [line for line in read_jsonl(out.events) if line["event"] == "failed"]
    assert [line["error"] for line in failures] == ["MemoryExhaustedError"]


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_decide_alike(grammar_data, tmp_path, sharding):
    """A sequence of the second rank is not finite: both skip the step, and quarantine it or roll back together."""
    (tmp_path / "run.py").write_text(BAD_ROW_SCRIPT)
    ranks = run_ranks(2, grammar_data, tmp_path / "run", sharding, script=tmp_path / "run.py")
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].stderr + ranks[1].stderr
    first, second = (rank.stdout for rank in ranks)
    assert first == second
    assert first.count("step skipped") == 3
    assert first.count("rows quarantined") == (3 if sharding == "none" else 0)
    assert first.count("rewind") == (0 if sharding == "none" else 1)
