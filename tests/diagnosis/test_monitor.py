"""The live monitor on real training runs: silent on healthy ones, and each fault is reported with its code."""

import dataclasses
import json
import math
from typing import get_args

import numpy as np
import pytest
import torch

from fault_helpers import TINY, at_step, poison_window, trainer_for, weights
from glassgpt import api
from glassgpt.config import load_config
from glassgpt.data.grammar import grammar_unigram_entropy
from glassgpt.diagnosis.catalogue import entries
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.layer_probe import LayerProbe
from glassgpt.diagnosis.layer_sample import LayerSample
from glassgpt.diagnosis.monitor import CAUSE_CODES, TrainingMonitor
from glassgpt.diagnosis.recovery import RecoveryPolicy
from glassgpt.diagnosis.replay import Cause
from glassgpt.diagnosis.replay_result import Reason, ReplayResult
from glassgpt.diagnosis.show_monitor import MonitorDisplay
from glassgpt.errors import TrainingDivergedError
from glassgpt.model.attention import attend_readable
from glassgpt.training.config import OptimizerConfig
from glassgpt.training.loss import ValidationLoss
from glassgpt.training.observers import StepMetrics
from glassgpt.training.run_folder import RunFolder, read_jsonl


def monitored(dataset, path, *, recover=False, sample=10, **changes):
    trainer, log = trainer_for(dataset, path, **changes)
    config = DiagnosisConfig(sample_every_steps=sample, recover=recover, certify_steps=5)
    monitor = TrainingMonitor(trainer, config)
    monitor.attach()
    trainer.policy = RecoveryPolicy(trainer, config, monitor)
    return trainer, monitor, log


def codes(monitor):
    return [finding.code for finding in monitor.findings]


def metrics(step, loss=2.0, norm=0.5, seconds=None, **more):
    seconds = step * 0.1 if seconds is None else seconds
    return StepMetrics(step, loss, 1e-3, norm, step * 256, seconds, 1e3, None, **more)


def feed(monitor, losses, **more):
    for step, loss in enumerate(losses, start=1):
        monitor.on_step(metrics(step, loss, **more))


@pytest.fixture
def idle_monitor(grammar_dataset, tmp_path):
    """A monitor whose trainer does not run; the test calls it."""
    trainer, monitor, _ = monitored(grammar_dataset, tmp_path, max_steps=1000)
    return trainer, monitor


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"arch": "modern", "bias": False},
        pytest.param({"arch": "llama", "bias": False}, marks=pytest.mark.slow),
        pytest.param({"dropout": 0.2}, marks=pytest.mark.slow),
    ],
)
def test_healthy_run_has_no_findings_and_ends_with_the_same_bits(grammar_dataset, tmp_path, changes):
    trained = []
    model = dataclasses.replace(TINY, **changes)
    options = {"model": model, "max_steps": 60, "warmup": 5, "every_steps": 20, "eval_every_steps": 20}
    options |= {"micro_batch_size": 4, "optimizer": OptimizerConfig(name="muon" if "arch" in changes else "adamw")}
    for number in range(2):
        if number:
            trainer, monitor, log = monitored(grammar_dataset, tmp_path / "on", recover=True, sample=3, **options)
        else:
            trainer, log = trainer_for(grammar_dataset, tmp_path / "off", **options)
        trainer.run()
        assert log.events == []
        trained.append(weights(trainer.model))
    assert monitor.findings == []
    assert torch.equal(*trained)


def test_a_single_visible_position_is_not_narrow_attention(grammar_dataset, tmp_path):
    """With a context of one token every head attends to one position, whatever it learned."""
    one = dataclasses.replace(TINY, context_length=1)
    trainer, monitor, _ = monitored(
        grammar_dataset, tmp_path, model=one, max_steps=60, warmup=5, batch_tokens=32, eval_tokens=64
    )
    trainer.run()
    assert monitor.last_sample.entropies == [[1.0, 1.0], [1.0, 1.0]]
    assert monitor.findings == []


def test_preset_run_writes_layer_samples_and_no_finding(grammar_data, tmp_path):
    """Too short for findings about the speed, which depends on what else the machine does."""
    changes = {"diagnosis.watch": "full", "diagnosis.sample_every_steps": 20, "train.max_steps": 45}
    config = load_config("nano", {"data": str(grammar_data), **changes})
    api.train(config, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert [line["event"] for line in read_jsonl(run.events)] == ["start"]
    (first, second) = read_jsonl(run.layers)
    assert (first["step"], second["step"]) == (20, 40)
    assert len(first["entropies"]) == len(first["scores"]) == 2


@pytest.mark.slow
def test_divergence_by_a_high_learning_rate_is_rolled_back(grammar_dataset, tmp_path):
    """The rate jumps after some learning: the run rolls back to a certified checkpoint and completes."""
    options = {"max_steps": 220, "learning_rate": 1e-2, "warmup": 5, "every_steps": 20}
    trainer, monitor, log = monitored(grammar_dataset, tmp_path / "run", recover=True, **options)
    original = trainer.learning_rate

    def rate(step):
        return original(step) * (300 if step >= 110 and trainer.state.rate_scale == 1.0 else 1)

    trainer.learning_rate = rate
    outcome = trainer.run()
    (finding,) = [finding for finding in monitor.findings if finding.code.startswith("GG-DIV")]
    assert (finding.code, finding.ruled_out, finding.actions) == ("GG-DIV-001", ("GG-DIV-002",), ("rewound",))
    assert log.of("rewind")[0]["to"] <= 120
    undisturbed, _ = trainer_for(grammar_dataset, tmp_path / "undisturbed", **options)
    assert outcome.validation.loss == pytest.approx(undisturbed.run().validation.loss, rel=0.1)


@pytest.mark.slow
def test_divergence_by_changed_weights_keeps_the_learning_rate(grammar_dataset, tmp_path):
    """The weights are finite, so no step is skipped; the loss diverges. The rollback keeps the learning rate."""
    options = {"max_steps": 160, "learning_rate": 1e-2, "warmup": 5, "every_steps": 20}
    trainer, monitor, log = monitored(grammar_dataset, tmp_path / "run", recover=True, **options)

    def damage():
        with torch.no_grad():
            trainer.model.norm.weight *= 100

    at_step(trainer, 90, damage)
    outcome = trainer.run()
    (finding,) = [finding for finding in monitor.findings if finding.code.startswith("GG-DIV")]
    assert (finding.code, finding.severity, finding.actions) == ("GG-DIV-002", "warning", ("rewound",))
    assert finding.evidence["parameter"] == "norm.weight"
    assert log.of("rewind")[0]["rate_scale"] == 1.0
    undisturbed, _ = trainer_for(grammar_dataset, tmp_path / "undisturbed", **options)
    assert outcome.validation.loss == pytest.approx(undisturbed.run().validation.loss, rel=0.05)


def test_divergence_without_recovery_is_fatal(idle_monitor):
    _, monitor = idle_monitor
    feed(monitor, [2.0] * 60 + [6.0] * 60)
    finding = monitor.findings[-1]
    assert (finding.code, finding.severity) == ("GG-DIV-001", "fatal")


@pytest.mark.parametrize(
    ("result", "expected", "ruled_out"),
    [
        (ReplayResult("weights", 0.9, Reason("w", "weights"), parameters=("a", "b")), "GG-DIV-002", "GG-DIV-001"),
        (ReplayResult("learning rate", 0.9, Reason("r", "learning rate")), "GG-DIV-001", "GG-DIV-002"),
    ],
    ids=["weights", "learning rate"],
)
def test_divergence_has_the_cause_that_a_replay_found(idle_monitor, result, expected, ruled_out):
    _, monitor = idle_monitor
    feed(monitor, [2.0] * 60 + [6.0] * 60)
    monitor.on_divergence(120, result, ("rewound",))
    finding = monitor.findings[-1]
    assert (finding.code, finding.severity, finding.ruled_out) == (expected, "warning", (ruled_out,))
    assert finding.evidence["best"] == pytest.approx(2.0)
    assert finding.evidence.get("parameter") == (result.parameters[0] if result.parameters else None)


def test_spike_is_reported_once_as_a_note(idle_monitor):
    _, monitor = idle_monitor
    chance = np.random.default_rng(0)
    losses = list(2 + 0.02 * chance.standard_normal(200))
    losses[100] = losses[101] = losses[150] = 4.0
    feed(monitor, losses)
    assert codes(monitor) == ["GG-SPK-002"]
    assert monitor.findings[0].evidence["usual"] == pytest.approx(2.0, abs=0.02)


def test_loss_at_a_baseline_of_the_data_is_reported(grammar_dataset, tmp_path):
    for level, expected in (("uniform", "GG-LAD-001"), ("unigram", "GG-LAD-002")):
        _, monitor, _ = monitored(grammar_dataset, tmp_path / level, max_steps=1000)
        loss = math.log(257) if level == "uniform" else grammar_unigram_entropy()
        feed(monitor, [loss] * 350)
        assert codes(monitor) == [expected]


def test_plateau_above_the_bigram_baseline_is_reported(grammar_dataset, tmp_path):
    _, monitor, _ = monitored(grammar_dataset, tmp_path, max_steps=4000)
    falling, level = np.linspace(5.4, 3.7, 2000), np.full(900, 3.7)
    feed(monitor, list(np.concatenate([falling, level]) + 0.05 * np.random.default_rng(1).standard_normal(2900)))
    assert codes(monitor) == ["GG-PLT-001"]


def test_stall_is_not_reported_as_a_plateau_as_well(idle_monitor):
    _, monitor = idle_monitor
    chance = np.random.default_rng(1)
    feed(monitor, list(3.6 + 0.05 * chance.standard_normal(700)))
    assert codes(monitor) == ["GG-LAD-002"]


def test_level_loss_below_the_bigram_baseline_is_healthy(idle_monitor):
    _, monitor = idle_monitor
    chance = np.random.default_rng(1)
    feed(monitor, list(0.28 + 0.005 * chance.standard_normal(900)))
    assert monitor.findings == []


def validated(monitor, losses, tokens=100_000):
    """A training loss that falls, and these validations, one after each 128 steps."""
    for n, loss in enumerate(losses, start=1):
        for step in range(128 * (n - 1) + 1, 128 * n + 1):
            monitor.on_step(metrics(step, 1.6 - 0.2 * n))
        monitor.on_validation(128 * n, ValidationLoss(loss * tokens, tokens, tokens), False)


def test_overfitting_is_reported(idle_monitor):
    _, monitor = idle_monitor
    validated(monitor, (2.0, 1.5, 1.6, 1.7, 1.8))
    assert codes(monitor) == ["GG-OVF-001"]


def test_fluctuating_validation_is_healthy(idle_monitor):
    _, monitor = idle_monitor
    validated(monitor, (2.0, 1.5, 1.53, 1.49, 1.53, 1.5, 1.48))
    assert monitor.findings == []


def test_clipping_of_every_step_is_reported(idle_monitor):
    _, monitor = idle_monitor
    feed(monitor, [2.0] * 290, norm=8.0)
    assert codes(monitor) == ["GG-CLP-001"]


def test_recompilation_is_reported(idle_monitor, monkeypatch):
    from torch._dynamo.utils import counters

    _, monitor = idle_monitor
    for step in range(1, 60):
        monkeypatch.setitem(counters["stats"], "unique_graphs", step // 10)
        monitor.on_step(metrics(step))
    assert codes(monitor) == ["GG-SPD-003"]


def test_frozen_layer_is_named(grammar_dataset, tmp_path):
    trainer, monitor, _ = monitored(grammar_dataset, tmp_path)
    trainer.model.blocks[0].mlp.up.weight.requires_grad_(False)
    trainer.run()
    assert codes(monitor) == ["GG-GRD-001"]
    assert monitor.findings[0].evidence == {"count": 1, "parameter": "blocks.0.mlp.up.weight"}


def test_updates_too_small_to_matter_are_reported(grammar_dataset, tmp_path):
    trainer, monitor, _ = monitored(grammar_dataset, tmp_path, learning_rate=1e-8, max_steps=40)
    trainer.run()
    assert codes(monitor) == ["GG-UPD-002"]


def test_updates_that_are_too_large_are_reported_after_warmup(idle_monitor):
    _, monitor = idle_monitor
    for step, ratio in ((10, 0.5), (100, 0.08), (200, 0.2)):  # during warmup, healthy, too much
        monitor.on_layers(LayerSample(step, gradients={"blocks.0.norm1.weight": 1.0}, updates={"a": ratio}))
        assert codes(monitor) == (["GG-UPD-001"] if step == 200 else [])


def test_exploding_attention_is_reported(grammar_dataset, tmp_path):
    trainer, monitor, _ = monitored(grammar_dataset, tmp_path, max_steps=30)
    with torch.no_grad():
        for block in trainer.model.blocks:
            block.attention.qkv.weight *= 3000
    trainer.run()
    assert {"GG-ATT-001", "GG-ATT-002"} <= set(codes(monitor))


def test_residual_stream_of_zeros_is_healthy_until_it_explodes(idle_monitor):
    """A model that begins at zero adds nothing to its stream; the monitor must not crash on it."""
    _, monitor = idle_monitor
    still = {"blocks.0.norm1.weight": 1.0, "blocks.1.norm1.weight": 1.0}
    monitor.on_layers(LayerSample(100, gradients=still, updates={"a": 0.01}, residual=[0.0, 0.0, 0.0]))
    assert monitor.findings == []
    monitor.on_layers(LayerSample(200, gradients=still, updates={"a": 0.01}, residual=[0.0, 0.0, 1.0]))
    assert codes(monitor) == ["GG-LAY-002"]
    assert monitor.findings[0].evidence["ratio"] == "inf"


def test_dead_units_are_reported_without_their_missing_gradients(grammar_dataset, tmp_path):
    trainer, monitor, _ = monitored(grammar_dataset, tmp_path, max_steps=30, learning_rate=1e-6)
    with torch.no_grad():
        trainer.model.blocks[1].mlp.up.bias.fill_(-50.0)
    trainer.run()
    (finding,) = monitor.findings  # missing gradients of their weights follow from it and are not reported
    assert finding.code == "GG-LAY-001"
    assert finding.evidence == {"block": 1, "share": 100.0}


def test_scaler_that_keeps_skipping_is_reported(grammar_dataset, tmp_path):
    _, monitor, _ = monitored(grammar_dataset, tmp_path, precision="fp16")
    for step in range(1, 60):
        monitor.on_step(metrics(step, norm=math.inf, skipped=step > 8 and step % 2 == 0))
    assert codes(monitor) == ["GG-SCL-001"]


def test_scaler_that_finds_its_scale_is_healthy(grammar_dataset, tmp_path):
    _, monitor, _ = monitored(grammar_dataset, tmp_path, precision="fp16")
    for step in range(1, 60):
        monitor.on_step(metrics(step, norm=math.inf, skipped=step < 12))
    assert monitor.findings == []


def test_skipped_step_is_reported_with_its_cause(grammar_dataset, tmp_path, capsys):
    trainer, monitor, log = monitored(grammar_dataset, tmp_path, recover=True)
    trainer.observers.append(MonitorDisplay(monitor, shows_layers=True))
    poison_window(trainer, 5, 3)
    trainer.run()
    (finding,) = log.of("finding")
    assert (finding["code"], finding["severity"], finding["seen"]["step"]) == ("GG-NAN-011", "warning", 5)
    assert finding["ruled_out"] == ["GG-NAN-012", "GG-NAN-013", "GG-NAN-015"]
    assert finding["done"] == ["skipped-step", "quarantined-rows"]
    printed = capsys.readouterr().err
    assert "GG-NAN-011: step 5 is not finite because of its data" in " ".join(printed.split())
    json.dumps(log.events)


def test_out_of_memory_is_reported(grammar_dataset, tmp_path):
    trainer, monitor, _ = monitored(grammar_dataset, tmp_path, recover=True)
    original = trainer.train_step.loss.train

    def short(inputs, targets):
        if len(inputs) == 8:
            raise torch.OutOfMemoryError("out of memory")
        return original(inputs, targets)

    trainer.train_step.loss.train = short
    trainer.run()
    assert codes(monitor) == ["GG-MEM-012"]


def test_monitor_resumes_from_its_saved_state(grammar_dataset, tmp_path):
    _, monitor, _ = monitored(grammar_dataset, tmp_path)
    feed(monitor, [2.0] * 50 + [9.0])
    _, again, _ = monitored(grammar_dataset, tmp_path)
    again.restore(json.loads(json.dumps(monitor.state())))
    assert again.state() == monitor.state()
    again.on_step(metrics(52, 9.0))
    assert again.findings == []  # reported before


def test_layer_sample_agrees_with_the_formulas(grammar_dataset, tmp_path):
    """Compared with values computed by hand from the same weights."""
    trainer, _ = trainer_for(grammar_dataset, tmp_path)
    samples = []
    probe = LayerProbe(trainer, 1, samples.append)
    trainer.train_step.probes.append(probe)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.run_steps(1)
    (sample,) = samples
    name = "blocks.0.mlp.up.weight"
    after = dict(trainer.model.named_parameters())[name].detach()
    expected = (after - before[name]).square().mean().sqrt() / before[name].square().mean().sqrt()
    assert sample.updates[name] == pytest.approx(expected.item(), rel=1e-4)
    total = math.sqrt(sum(norm**2 for norm in sample.gradients.values()))
    assert total <= trainer.config.train.clip_norm * 1.001
    seen = []

    def spy(q, k, v, mask, dropout, window=0):
        scores = (q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))).tril()
        weights = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -math.inf).softmax(-1)
        entropy = -(weights * weights.clamp_min(1e-30).log()).sum(-1)
        places = torch.arange(1, q.size(2) + 1).log()
        seen.append((entropy[..., 1:] / places[1:]).mean((0, 2)))
        return attend_readable(q, k, v, mask, dropout, window)

    for block in trainer.model.blocks:
        block.attention.attend = spy
    batches = trainer.train_step.batches
    inputs, _ = batches.read(np.arange(4) * 32)
    with torch.no_grad():
        trainer.model.eval()(inputs)
    np.testing.assert_allclose(sample.entropies, torch.stack(seen).numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    ("model", "optimizer", "sampled"),
    [
        (TINY, OptimizerConfig(), {"matrix", "vector"}),
        (dataclasses.replace(TINY, arch="modern", bias=False), OptimizerConfig(name="muon"), set()),
    ],
)
def test_staleness_leaves_out_embeddings_and_heads(grammar_dataset, tmp_path, model, optimizer, sampled):
    """Rows of rare tokens dominate them; with Muon nothing else is updated by AdamW."""
    trainer, monitor, _ = monitored(grammar_dataset, tmp_path, model=model, optimizer=optimizer)
    trainer.run()
    kinds = trainer.model.parameter_kinds()
    assert {kinds[name] for name in monitor.last_sample.staleness} == sampled


def test_monitor_resumes_from_the_state_of_version_0_1(grammar_dataset, tmp_path):
    _, monitor, _ = monitored(grammar_dataset, tmp_path, recover=True)
    loss = {"accepted": [math.log(2.0)] * 60, "refused": []}
    old = {"said": ["GG-CLP-001"], "loss": loss, "recent": [2.0] * 20, "best_median": 2.0, "away": 0, "since_spike": 20}
    monitor.restore(old)
    assert monitor.is_calm()
    monitor.on_step(metrics(61, 9.0))
    assert codes(monitor) == ["GG-SPK-002"]
    assert not monitor.is_calm()


def test_every_cause_has_a_catalogue_entry():
    assert set(CAUSE_CODES) == set(get_args(Cause))
    assert set(CAUSE_CODES.values()) <= set(entries())


def test_training_stops_at_the_first_bad_step_without_recovery(grammar_dataset, tmp_path):
    trainer, _, log = monitored(grammar_dataset, tmp_path)
    poison_window(trainer, 5, 3)
    with pytest.raises(TrainingDivergedError):
        trainer.run()
    assert [name for name, _ in log.events] == ["replay", "finding", "diverged"]


def test_diagnosis_config_reports_invalid_values():
    config = DiagnosisConfig(most_rewinds=-1, rewind_rate_factor=0.0)
    assert config.problems() == [
        "diagnosis.most_rewinds is -1; it must be at least 0",
        "diagnosis.rewind_rate_factor is 0.0; it must be above 0 and at most 1",
    ]


def test_updates_of_zero_are_reported_when_they_repeat(idle_monitor):
    _, monitor = idle_monitor
    for step, ratio in ((100, 0.0), (110, 0.01), (120, 0.0)):
        monitor.on_layers(LayerSample(step, gradients={"blocks.0.norm1.weight": 1.0}, updates={"a": ratio}))
        assert monitor.findings == []
    monitor.on_layers(LayerSample(130, gradients={"blocks.0.norm1.weight": 1.0}, updates={"a": 0.0}))
    assert codes(monitor) == ["GG-UPD-002"]
