"""Audits of a training step: silent where the step is right, and each fault of a stage is named with its reason."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from fault_helpers import TINY, at_step, trainer_for
from glassgpt.data.batches import Batches
from glassgpt.diagnosis.audit.auditor import _choose
from glassgpt.diagnosis.audit.gradients import _Comparison
from glassgpt.diagnosis.audit.record import OptimizerSample, WholeMatrix
from glassgpt.diagnosis.audit.reference import ReferenceModel
from glassgpt.diagnosis.audit.updates import MUON_TOLERANCE_HALF, Change, adamw_update, is_rounded, muon_update
from glassgpt.diagnosis.catalogue import describe
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.monitor import TrainingMonitor
from glassgpt.model.lora import build_like
from glassgpt.training.config import OptimizerConfig
from glassgpt.training.muon import Muon

MUON = OptimizerConfig(name="muon")
MODERN = dataclasses.replace(TINY, arch="modern", bias=False)


def audited(dataset, path, inject=None, **changes):
    """Return the audits' findings of a short run, by code."""
    trainer, _ = trainer_for(dataset, path, **changes)
    if inject is not None:
        inject(trainer)
    monitor = TrainingMonitor(trainer, DiagnosisConfig(sample_every_steps=10, recover=False))
    monitor.attach()
    trainer.run()
    return {finding.code: finding for finding in monitor.findings}


def with_loss(change):
    """Replace each micro-batch's loss by change(its number since the start, loss function, inputs, targets)."""

    def inject(trainer):
        original, calls = trainer.train_step.loss.train, iter(range(10**6))
        trainer.train_step.loss.train = lambda inputs, targets: change(next(calls), original, inputs, targets)

    return inject


def with_logits(loss):
    """Replace the loss by a function of logits (N, V) and targets (N,)."""
    return lambda trainer: with_loss(lambda n, f, x, y: loss(trainer.model(x).flatten(0, 1), y.flatten()))(trainer)


def after_steps(change):
    """Do something to the trainer after each step."""

    def inject(trainer):
        original = trainer.train_step.run

        def run(*arguments, **more):
            outcome = original(*arguments, **more)
            with torch.no_grad():
                change(trainer)
            return outcome

        trainer.train_step.run = run

    return inject


def in_the_optimizer(change):
    """Do something to the weights at the end of each update."""

    @torch.no_grad()
    def act(trainer):
        for parameter in trainer.model.parameters():
            change(parameter)

    return lambda trainer: trainer.train_step.optimizers[-1].register_step_post_hook(lambda *_: act(trainer))


def groups(**changes):
    def inject(trainer):
        for group in trainer.train_step.optimizers[-1].param_groups:
            group.update(changes)

    return inject


def rates(change):
    def inject(trainer):
        scheduled = trainer.learning_rate
        trainer.learning_rate = lambda step: change(step, scheduled)

    return inject


def hook(module, change):
    return lambda trainer: trainer.model.get_submodule(module).register_forward_hook(lambda m, i, o: change(o))


def gradient_halved(x):
    if x.requires_grad:
        x.register_hook(lambda g: 0.5 * g)
    return x


def loader(change):
    def inject(trainer):
        original = trainer.train_step.loader.next
        trainer.train_step.loader.next = lambda size: change(*original(size))

    return inject


def reads(change):
    """Change what the batches read, in training only."""

    def inject(trainer):
        batches = trainer.train_step.batches
        original = batches.read
        batches.read = lambda starts: change(batches, starts, original)

    return inject


def see_all(q, k, v, mask, dropout, window=0):
    return F.scaled_dot_product_attention(q, k, v)


def unmasked(trainer):
    trainer.model.blocks[0].attention.attend = see_all


def untied(trainer):
    copied = nn.Parameter(trainer.model.token_embedding.weight.detach() + 0.01)
    trainer.model.head = lambda features: F.linear(features, copied)


def dropped(trainer):
    trainer.model.blocks[0].mlp.out_dropout.p = 0.9


def forgotten(trainer):
    for optimizer in trainer.train_step.optimizers:
        optimizer.state.clear()


def without_zero_grad(trainer):
    trainer.model.zero_grad = lambda set_to_none=True: None


def noisy(trainer):
    original = trainer.train_step._clip_gradients

    def clip():
        norm = original()
        trainer.model.get_parameter("blocks.0.mlp.up.weight").grad.mul_(-1)
        return norm

    trainer.train_step._clip_gradients = clip


def twice(trainer):
    optimizer = trainer.train_step.optimizers[-1]
    original = optimizer.step
    optimizer.step = lambda *_: (original(), original())[0]


def put_back(trainer):
    name = "blocks.0.mlp.up.weight"
    kept = trainer.model.get_parameter(name).detach().clone()
    in_the_optimizer(lambda p: p.copy_(kept) if p is trainer.model.get_parameter(name) else None)(trainer)


def stuck(trainer):
    at_step(trainer, 4, lambda: stop(trainer.train_step.batches))


def stop(batches):
    original, position = batches.next_starts, batches.position

    def again(size):
        batches.seek(position)
        return original(size)

    batches.next_starts = again


def replaced_parameters(trainer):
    """The optimizer holds copies of the weights."""
    for group in trainer.train_step.optimizers[-1].param_groups:
        group["params"] = [nn.Parameter(p.detach().clone()) for p in group["params"]]


def average_kept(trainer):
    trainer.train_step.average.update = lambda *_: None


def opposite(loss):
    return 2 * loss.detach() - loss


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch_size": 2},
        {
            "model": dataclasses.replace(TINY, dropout=0.3, token_dropout=0.2),
            "micro_batch_size": 1,
            "recompute_activations": True,
        },
        {"model": MODERN, "optimizer": MUON, "ema_decay": 0.9, "loss_chunk_tokens": 64},
        pytest.param({"precision": "bf16", "model": MODERN, "micro_batch_size": 4}, marks=pytest.mark.slow),
        {"precision": "bf16", "model": MODERN, "optimizer": MUON, "loss_chunk_tokens": 64},
        pytest.param({"precision": "fp16", "micro_batch_size": 4}, marks=pytest.mark.slow),
        {"model": dataclasses.replace(TINY, context_length=1), "batch_tokens": 32, "eval_tokens": 64},
    ],
    ids=["accumulated", "dropout", "muon", "bf16", "muon-bf16", "fp16", "context-1"],
)
def test_right_steps_are_not_reported(grammar_dataset, tmp_path, changes):
    assert audited(grammar_dataset, tmp_path, max_steps=14, **changes) == {}


class InitializationCounter(TorchFunctionMode):
    """Counts the calls of `torch.nn.init`."""

    calls = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.calls += getattr(function, "__module__", None) == nn.init.__name__
        return function(*args, **(kwargs or {}))


def test_reference_model_draws_no_weights_and_computes_the_same_loss(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path, model=MODERN)
    with InitializationCounter() as counter:
        build_like(trainer.model)
    assert counter.calls > 0  # so that a count of 0 shows something
    with InitializationCounter() as counter:
        reference = ReferenceModel(trainer)
    assert counter.calls == 0
    inputs, targets = trainer.train_step.loader.next(2)
    assert reference.missing_parameters() == set()
    expected = F.cross_entropy(trainer.model(inputs).flatten(0, 1).float(), targets.flatten()).item()
    assert reference.loss_of(inputs, targets) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_recomputed_gradients_are_those_of_training(grammar_dataset, tmp_path, monkeypatch, precision):
    """Also where the gradients of single tokens underflow in fp16, unless the loss is scaled as in training."""
    compared, original = [], _Comparison.of.__func__

    def recorded(cls, *arguments):
        compared.append(original(cls, *arguments))
        return compared[-1]

    monkeypatch.setattr(_Comparison, "of", classmethod(recorded))
    sizes = {"batch_tokens": 24_576, "micro_batch_size": 256, "max_steps": 2}  # three micro-batches of 8,192 tokens
    assert audited(grammar_dataset, tmp_path, precision=precision, **sizes) == {}
    assert len(compared) >= 2
    assert max(one.worst for one in compared) < 1e-3


SHIFT = "blocks.0.mlp.up.weight"
FAULTS = {
    "schedule": (rates(lambda n, f: f(n) / 2), "GG-LRT-002", None, {}),
    "group-rate": (groups(rate_ratio=10.0), "GG-LRT-002", None, {}),
    "epsilon": (groups(eps=1.0), "GG-OPT-001", None, {}),
    "beta2": (groups(betas=(0.9, 0.5)), "GG-OPT-001", None, {}),
    "decay": (groups(weight_decay=-0.1), "GG-OPT-001", None, {}),
    "momentum": (lambda t: t.train_step.optimizers[0].param_groups[0].update(momentum=0.5), "GG-OPT-001", None, {"model": MODERN, "optimizer": MUON}),
    "state-lost": (after_steps(forgotten), "GG-OPT-002", None, {}),
    "flipped": (with_loss(lambda n, f, x, y: opposite(f(x, y)) if n % 2 else f(x, y)), "GG-GRD-006", "opposite-direction", {"micro_batch_size": 2}),
    "negative": (with_loss(lambda n, f, x, y: -f(x, y) if n % 4 > 1 else f(x, y)), "GG-GRD-006", "opposite-direction", {"micro_batch_size": 2}),
    "dropped-micro-batch": (with_loss(lambda n, f, x, y: f(x, y) * (n % 2) + f(x, y).detach() * (1 - n % 2)), "GG-GRD-006", "another-length", {"micro_batch_size": 4}),
    "halved-gradient": (hook("blocks.0", gradient_halved), "GG-GRD-006", "another-direction", {}),
    "not-cleared": (without_zero_grad, "GG-GRD-007", "not-cleared", {}),
    "changed-gradient": (noisy, "GG-GRD-007", "changed-before-the-update", {}),
    "factor": (with_loss(lambda n, f, x, y: 2 * f(x, y)), "GG-LOS-001", "another-loss", {}),
    "temperature": (with_logits(lambda z, y: F.cross_entropy(z * 3, y)), "GG-LOS-001", "another-loss", {}),
    "shifted-inside": (with_loss(lambda n, f, x, y: f((x + 1) % 257, (y + 1) % 257)), "GG-LOS-001", "shifted-ids", {}),
    "copied-inside": (with_loss(lambda n, f, x, y: f(x, x)), "GG-LOS-001", "targets-are-inputs", {}),
    "half-inside": (with_loss(lambda n, f, x, y: f(x[:, :16], y[:, :16])), "GG-LOS-001", "part-of-the-window", {}),
    "unmasked": (unmasked, "GG-MOD-001", None, {}),
    "untied": (untied, "GG-MOD-001", None, {}),
    "hook": (hook("blocks.1.mlp", lambda x: 1.5 * x), "GG-MOD-001", None, {}),
    "copies": (replaced_parameters, "GG-UPD-004", "did-not-move", {}),
    "dropout": (dropped, "GG-MOD-002", None, {}),
    "shifted-ids": (loader(lambda x, y: ((x + 1) % 257, (y + 1) % 257)), "GG-DAT-013", "ids-are-shifted", {}),
    "late-windows": (reads(lambda b, starts, f: f(np.minimum(starts + 5, len(b.tokens) - b.context_length - 1))), "GG-DAT-013", "windows-are-moved", {}),
    "other-windows": (reads(lambda b, starts, f: f(np.arange(len(starts), dtype=np.int64) * 40)), "GG-DAT-013", "other-windows", {}),
    "one-window": (reads(lambda b, starts, f: f(np.repeat(starts[:1], len(starts)))), "GG-DAT-003", None, {}),
    "stuck": (stuck, "GG-DAT-003", None, {}),
    "copied-targets": (loader(lambda x, y: (x, x)), "GG-DAT-002", None, {}),
    "stepped-twice": (twice, "GG-UPD-004", None, {}),
    "rounded": (in_the_optimizer(lambda p: p.copy_(p.bfloat16().float())), "GG-UPD-004", "rounded", {}),
    "put-back": (put_back, "GG-UPD-004", "did-not-move", {}),
    "shrunk": (in_the_optimizer(lambda p: p.mul_(0.98)), "GG-UPD-004", "another-decay", {}),
    "muon-shrunk": (lambda t: t.train_step.optimizers[0].register_step_post_hook(lambda *_: [p.data.mul_(0.9) for p in t.model.parameters()]), "GG-UPD-004", None, {"model": MODERN, "optimizer": MUON}),
    "rounded-between": (after_steps(lambda t: [p.copy_(p.half().float()) for p in t.model.parameters()]), "GG-UPD-005", "rounded", {}),
    "clamped-between": (after_steps(lambda t: [p.clamp_(-0.03, 0.03) for p in t.model.parameters()]), "GG-UPD-005", None, {}),
    "average": (average_kept, "GG-UPD-006", None, {"ema_decay": 0.9}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named_with_its_reason(grammar_dataset, tmp_path, name):
    inject, code, reason, changes = FAULTS[name]
    found = audited(grammar_dataset, tmp_path, inject, **changes)
    assert code in found
    assert reason is None or found[code].evidence["why"] == reason
    for finding in found.values():  # both texts can be filled in
        assert "{" not in describe(finding).title + describe(finding, "ko").title
    severe = [one for one in found.values() if one.severity == "fatal"] or list(found.values())
    assert max(severe, key=lambda one: one.confidence).code == code


def test_changed_module_is_named(grammar_dataset, tmp_path):
    assert audited(grammar_dataset, tmp_path, unmasked)["GG-MOD-001"].evidence["module"] == "blocks.0.attention"
    scaled = audited(grammar_dataset, tmp_path / "b", hook("blocks.1.mlp", lambda x: 1.5 * x))
    assert scaled["GG-MOD-001"].evidence["module"] == "blocks.1.mlp"


def test_marks_of_others_are_kept_and_do_not_end_the_audits(grammar_dataset, tmp_path):
    """The display sets the function of the marks after the monitor is attached."""
    trainer, _ = trainer_for(grammar_dataset, tmp_path)
    with_loss(lambda n, f, x, y: 2 * f(x, y))(trainer)
    monitor = TrainingMonitor(trainer, DiagnosisConfig(recover=False))
    monitor.attach()
    phases = []
    trainer.train_step.mark = phases.append
    trainer.run_steps(3)
    assert [finding.code for finding in monitor.findings] == ["GG-LOS-001"]
    assert phases == ["data", "forward", "backward", "optimizer"] * 3


def test_learning_rate_of_a_resumed_schedule_is_expected(grammar_dataset, tmp_path):
    """After a rollback the rate is lower and rises again; that is the schedule then."""
    trainer, _ = trainer_for(grammar_dataset, tmp_path)
    monitor = TrainingMonitor(trainer, DiagnosisConfig(recover=False))
    monitor.attach()
    trainer.state = dataclasses.replace(trainer.state, rate_scale=0.5, rewarmup=(0, 4))
    trainer.run_steps(8)
    assert monitor.findings == []


def test_each_code_is_reported_once_also_by_a_resumed_monitor(grammar_dataset, tmp_path):
    trainer, _ = trainer_for(grammar_dataset, tmp_path)
    rates(lambda n, f: f(n) / 2)(trainer)
    monitor = TrainingMonitor(trainer, DiagnosisConfig(recover=False))
    monitor.attach()
    trainer.run_steps(3)
    assert [finding.code for finding in monitor.findings] == ["GG-LRT-002"]
    resumed = TrainingMonitor(trainer, DiagnosisConfig(recover=False))
    resumed.restore(monitor.state())
    resumed.on_audit(monitor.findings[0])
    assert resumed.findings == []


@pytest.mark.parametrize("micro_steps", [1, 2, 4, 5, 12, 100])
def test_chosen_micro_batches_are_pairs(micro_steps):
    for step in range(1, 50):
        chosen = sorted(_choose(step, micro_steps))
        assert chosen
        assert chosen[-1] < micro_steps
        assert len(chosen) <= 4
        assert micro_steps <= 4 or all(n + 1 in chosen or n - 1 in chosen for n in chosen)
    assert len({_choose(step, 100) for step in range(20)}) > 10


def test_adamw_update_is_torchs():
    parameter = nn.Parameter(torch.randn(5, 7, generator=torch.Generator().manual_seed(0)))
    optimizer = torch.optim.AdamW([parameter], lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.2)
    held = OptimizerSample(optimizer, {**optimizer.param_groups[0]}, {}, 0)
    for step in range(3):
        parameter.grad = torch.randn(5, 7, generator=torch.Generator().manual_seed(step + 1))
        before = parameter.detach().clone()
        expected = adamw_update(before, parameter.grad, held)
        optimizer.step()
        torch.testing.assert_close((parameter - before).double(), expected, atol=1e-6, rtol=1e-4)
        state = optimizer.state[parameter]
        held.state, held.steps = {name: state[name].clone() for name in ("exp_avg", "exp_avg_sq")}, step + 1


@pytest.mark.parametrize("warmup", [0, 5])
def test_muon_update_is_muons(warmup):
    parameter = nn.Parameter(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))
    optimizer = Muon([parameter], lr=0.02, weight_decay=0.1, momentum_warmup_steps=warmup)
    momentum = None
    for step in range(3):
        parameter.grad = torch.randn(6, 3, generator=torch.Generator().manual_seed(step + 1))
        before = parameter.detach().clone()
        held = OptimizerSample(optimizer, {**optimizer.param_groups[0]}, {}, step)
        expected = muon_update(WholeMatrix("w", before, parameter.grad.clone(), momentum), held)
        optimizer.step()
        torch.testing.assert_close(parameter - before, expected, atol=1e-6, rtol=1e-4)
        momentum = optimizer.state[parameter]["momentum"].clone()


def change(after, expected=0.001):
    before = torch.randn(500, generator=torch.Generator().manual_seed(0)).double()
    step = expected * torch.randn(500, generator=torch.Generator().manual_seed(1)).double()
    return Change(before, after(before, step), step)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (lambda w, s: w.clone(), "did-not-move"),
        (lambda w, s: (w + s).bfloat16().double(), "rounded"),
        (lambda w, s: w + 3 * s, "another-rate"),
        (lambda w, s: 0.99 * w + s, "another-decay"),
        (lambda w, s: w.flip(0), "replaced"),
        (lambda w, s: w + s.flip(0), "another-update"),
    ],
)
def test_reason_of_a_wrong_update(after, reason):
    wrong = change(after)
    assert wrong.deviates(5e-3)
    assert wrong.reason()[0] == reason


def test_muon_in_bfloat16_is_judged_by_its_size_only():
    """Rounding in 16 bits changes the directions in which there is no gradient."""
    assert not change(lambda w, s: w + s.flip(0)).deviates(MUON_TOLERANCE_HALF)
    assert change(lambda w, s: w.clone()).deviates(MUON_TOLERANCE_HALF)
    assert change(lambda w, s: w + 5 * s).deviates(MUON_TOLERANCE_HALF)


def test_right_update_does_not_deviate():
    assert not change(lambda w, s: w + s).deviates(5e-3)
    assert not change(lambda w, s: (w.float() + s.float()).double(), expected=1e-6).deviates(5e-3)
    assert not is_rounded(torch.randn(50))
    assert is_rounded(torch.randn(50).bfloat16().float())


def test_windows_are_read_again_from_the_shards(grammar_dataset):
    """The reference that batches are compared with does not depend on what the run's own batches do."""
    tokens = grammar_dataset.split("train")
    starts = Batches(tokens, 32, seed=3).starts_at(5, 4)
    inputs, targets = Batches(tokens, 32, seed=3).read(starts)
    assert np.array_equal(inputs[0].numpy(), tokens.read(int(starts[0]), 32))
    assert np.array_equal(targets[0].numpy(), tokens.read(int(starts[0]) + 1, 32))
