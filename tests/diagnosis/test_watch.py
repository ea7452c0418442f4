"""Every detector against a run that has its fault, and against healthy runs, on which all must be silent."""

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
from glassgpt.diagnosis.layer_probe import LayerProbe, LayerSample
from glassgpt.diagnosis.monitor import CODES, TrainingMonitor
from glassgpt.diagnosis.recovery import RecoveryPolicy
from glassgpt.diagnosis.replay import Cause
from glassgpt.errors import TrainingDivergedError
from glassgpt.model.attention import attend_readable
from glassgpt.training.config import OptimizerConfig
from glassgpt.training.loss import ValidationLoss
from glassgpt.training.observers import StepMetrics
from glassgpt.training.run_folder import RunFolder, read_jsonl


def watched(dataset, path, *, recover=False, sample=10, **changes):
    trainer, told = trainer_for(dataset, path, **changes)
    config = DiagnosisConfig(sample_every_steps=sample, recover=recover, certify_steps=5)
    watch = TrainingMonitor(trainer, config)
    watch.attach()
    trainer.guard = RecoveryPolicy(config, watch)
    return trainer, watch, told


def codes(watch):
    return [finding.code for finding in watch.found]


def metrics(step, loss=2.0, norm=0.5, seconds=None, **more):
    seconds = step * 0.1 if seconds is None else seconds
    return StepMetrics(step, loss, 1e-3, norm, step * 256, seconds, 1e3, None, **more)


def tell(watch, losses, **more):
    for step, loss in enumerate(losses, start=1):
        watch.on_step(metrics(step, loss, **more))


@pytest.fixture
def quiet_watch(grammar_dataset, tmp_path):
    """A watch whose run stands still, to be told figures by hand."""
    trainer, watch, _ = watched(grammar_dataset, tmp_path, max_steps=1000)
    return trainer, watch


@pytest.mark.parametrize("changes", [{}, {"arch": "modern", "bias": False}, {"dropout": 0.2}])
def test_a_healthy_run_is_silent_and_bit_equal(grammar_dataset, tmp_path, changes):
    trained = []
    model = dataclasses.replace(TINY, **changes)
    options = {"model": model, "max_steps": 60, "warmup": 5, "every_steps": 20, "eval_every_steps": 20}
    options |= {"micro_batch_size": 4, "optimizer": OptimizerConfig(name="muon" if "arch" in changes else "adamw")}
    for number in range(2):
        if number:
            trainer, watch, told = watched(grammar_dataset, tmp_path / "on", recover=True, sample=3, **options)
        else:
            trainer, told = trainer_for(grammar_dataset, tmp_path / "off", **options)
        trainer.run()
        assert told.events == []
        trained.append(weights(trainer.model))
    assert watch.found == []
    assert torch.equal(*trained)


def test_a_preset_through_the_front_door_is_silent(grammar_data, tmp_path):
    config = load_config("nano", {"data": str(grammar_data), "diagnosis.watch": "full", "train.max_steps": 250})
    api.train(config, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert [line["event"] for line in read_jsonl(run.events)] == ["start"]
    (first, second) = read_jsonl(run.layers)
    assert (first["step"], second["step"]) == (100, 200)
    assert len(first["entropies"]) == len(first["scores"]) == 2


def test_a_rate_that_is_too_high_runs_away_and_is_rewound(grammar_dataset, tmp_path):
    """Learned for a while, then far too high a rate: back to a certified checkpoint, and on to a good end."""
    options = {"max_steps": 220, "learning_rate": 1e-2, "warmup": 5, "every_steps": 20}
    trainer, watch, told = watched(grammar_dataset, tmp_path / "run", recover=True, **options)
    original = trainer.learning_rate

    def rate(step):
        return original(step) * (300 if step >= 110 and trainer.state.rate_scale == 1.0 else 1)

    trainer.learning_rate = rate
    outcome = trainer.run()
    (finding,) = [finding for finding in watch.found if finding.code.startswith("GG-DIV")]
    assert (finding.code, finding.ruled_out, finding.done) == ("GG-DIV-001", ("GG-DIV-002",), ("rewound",))
    assert told.of("rewind")[0]["to"] <= 120
    undisturbed, _ = trainer_for(grammar_dataset, tmp_path / "undisturbed", **options)
    assert outcome.validation.loss == pytest.approx(undisturbed.run().validation.loss, rel=0.1)


def test_weights_that_were_changed_are_told_from_a_rate_that_is_too_high(grammar_dataset, tmp_path):
    """All of them finite: nothing is refused, the loss only runs away. Back at the same rate."""
    options = {"max_steps": 160, "learning_rate": 1e-2, "warmup": 5, "every_steps": 20}
    trainer, watch, told = watched(grammar_dataset, tmp_path / "run", recover=True, **options)

    def damage():
        with torch.no_grad():
            trainer.model.norm.weight *= 100

    at_step(trainer, 90, damage)
    outcome = trainer.run()
    (finding,) = [finding for finding in watch.found if finding.code.startswith("GG-DIV")]
    assert (finding.code, finding.severity, finding.done) == ("GG-DIV-002", "warning", ("rewound",))
    assert finding.seen["parameter"] == "norm.weight"
    assert told.of("rewind")[0]["rate_scale"] == 1.0
    undisturbed, _ = trainer_for(grammar_dataset, tmp_path / "undisturbed", **options)
    assert outcome.validation.loss == pytest.approx(undisturbed.run().validation.loss, rel=0.05)


def test_without_recovery_a_run_that_runs_away_is_told_of(quiet_watch):
    _, watch = quiet_watch
    tell(watch, [2.0] * 60 + [6.0] * 60)
    finding = watch.found[-1]
    assert (finding.code, finding.severity) == ("GG-DIV-001", "fatal")


def test_a_spike_is_told_once_and_does_not_spoil_the_window(quiet_watch):
    _, watch = quiet_watch
    chance = np.random.default_rng(0)
    losses = list(2 + 0.02 * chance.standard_normal(200))
    losses[100] = losses[101] = losses[150] = 4.0
    tell(watch, losses)
    assert codes(watch) == ["GG-SPK-002"]
    assert watch.found[0].seen["usual"] == pytest.approx(2.0, abs=0.02)


def test_warmup_and_falling_losses_are_no_spikes(quiet_watch):
    _, watch = quiet_watch
    chance = np.random.default_rng(0)
    tell(watch, [5.5 * math.exp(-i / 300) + 0.1 + 0.05 * chance.standard_normal() for i in range(900)])
    assert watch.found == []


def test_the_rungs_of_the_ladder(grammar_dataset, tmp_path):
    for level, expected in (("uniform", "GG-LAD-001"), ("unigram", "GG-LAD-002")):
        _, watch, _ = watched(grammar_dataset, tmp_path / level, max_steps=1000)
        loss = math.log(257) if level == "uniform" else grammar_unigram_entropy()
        tell(watch, [loss] * 350)
        assert codes(watch) == [expected]


def test_a_plateau_above_the_pairs(quiet_watch):
    _, watch = quiet_watch
    chance = np.random.default_rng(1)
    falling, level = np.linspace(4.6, 3.6, 1000), np.full(520, 3.6)
    tell(watch, list(np.concatenate([falling, level]) + 0.05 * chance.standard_normal(1520)))
    assert codes(watch) == ["GG-PLT-001"]


def test_a_level_loss_on_a_rung_is_told_once(quiet_watch):
    _, watch = quiet_watch
    chance = np.random.default_rng(1)
    tell(watch, list(3.6 + 0.05 * chance.standard_normal(700)))
    assert codes(watch) == ["GG-LAD-002"]


def test_a_model_that_has_reached_its_end_has_no_plateau(quiet_watch):
    _, watch = quiet_watch
    chance = np.random.default_rng(1)
    tell(watch, list(0.28 + 0.005 * chance.standard_normal(900)))
    assert watch.found == []


def validated(watch, losses, tokens=100_000):
    """A training loss that falls, and these validations, one after each 128 steps."""
    for n, loss in enumerate(losses, start=1):
        for step in range(128 * (n - 1) + 1, 128 * n + 1):
            watch.on_step(metrics(step, 1.6 - 0.2 * n))
        watch.on_validation(128 * n, ValidationLoss(loss * tokens, tokens, tokens), False)


def test_overfitting(quiet_watch):
    _, watch = quiet_watch
    validated(watch, (2.0, 1.5, 1.6, 1.7, 1.8))
    assert codes(watch) == ["GG-OVF-001"]


def test_validation_that_wavers_is_no_overfitting(quiet_watch):
    _, watch = quiet_watch
    validated(watch, (2.0, 1.5, 1.53, 1.49, 1.53, 1.5, 1.48))
    assert watch.found == []


def test_clipping_all_the_time(quiet_watch):
    _, watch = quiet_watch
    tell(watch, [2.0] * 290, norm=8.0)
    assert codes(watch) == ["GG-CLP-001"]


def test_a_slow_loader_and_steps_that_take_longer(quiet_watch, monkeypatch):
    _, watch = quiet_watch
    worked = iter([*(0.1 * i for i in range(198)), *(20 + 0.3 * i for i in range(100))])
    monkeypatch.setattr("glassgpt.diagnosis.monitor.time.process_time", lambda: next(worked))
    for step in range(1, 200):
        watch.on_step(metrics(step, data_seconds=0.04))
    assert codes(watch) == ["GG-SPD-002"]
    for step in range(200, 260):
        watch.on_step(metrics(step, seconds=20 + (step - 200) * 0.3))
    assert codes(watch) == ["GG-SPD-002", "GG-SPD-001"]


def test_a_cpu_that_others_use_is_no_fault(quiet_watch, monkeypatch):
    _, watch = quiet_watch
    worked = iter(0.1 * i for i in range(1000))
    monkeypatch.setattr("glassgpt.diagnosis.monitor.time.process_time", lambda: next(worked))
    for step in range(1, 300):
        watch.on_step(metrics(step, seconds=step * 0.1 if step < 150 else 15 + (step - 150) * 0.3))
    assert watch.found == []


def test_a_leak(quiet_watch, monkeypatch):
    _, watch = quiet_watch
    used = iter(range(10**9, 10**11, 10**8))
    monkeypatch.setattr("glassgpt.diagnosis.monitor._memory_in_use", lambda: float(next(used)))
    tell(watch, [2.0] * 110)
    assert codes(watch) == ["GG-MEM-010"]


def test_recompiles(quiet_watch, monkeypatch):
    from torch._dynamo.utils import counters

    _, watch = quiet_watch
    for step in range(1, 60):
        monkeypatch.setitem(counters["stats"], "unique_graphs", step // 10)
        watch.on_step(metrics(step))
    assert codes(watch) == ["GG-SPD-003"]


def test_a_frozen_layer_is_named(grammar_dataset, tmp_path):
    trainer, watch, _ = watched(grammar_dataset, tmp_path)
    trainer.model.blocks[0].mlp.up.weight.requires_grad_(False)
    trainer.run()
    assert codes(watch) == ["GG-GRD-001"]
    assert watch.found[0].seen == {"count": 1, "parameter": "blocks.0.mlp.up.weight"}


def test_a_rate_that_does_not_move_the_weights(grammar_dataset, tmp_path):
    trainer, watch, _ = watched(grammar_dataset, tmp_path, learning_rate=1e-8, max_steps=40)
    trainer.run()
    assert codes(watch) == ["GG-UPD-002"]


def test_a_rate_that_moves_them_too_much(quiet_watch):
    _, watch = quiet_watch
    for step, ratio in ((10, 0.5), (100, 0.08), (200, 0.2)):  # during warmup, healthy, too much
        watch.on_layers(LayerSample(step, gradients={"blocks.0.norm1.weight": 1.0}, updates={"a": ratio}))
        assert codes(watch) == (["GG-UPD-001"] if step == 200 else [])


def test_an_exploding_attention(grammar_dataset, tmp_path):
    trainer, watch, _ = watched(grammar_dataset, tmp_path, max_steps=30)
    with torch.no_grad():
        for block in trainer.model.blocks:
            block.attention.qkv.weight *= 3000
    trainer.run()
    assert {"GG-ATT-001", "GG-ATT-002"} <= set(codes(watch))


def test_a_residual_stream_and_gradients_of_nothing(quiet_watch):
    """A model that begins at zero adds nothing to its stream; the watch must not fall over it."""
    _, watch = quiet_watch
    still = {"blocks.0.norm1.weight": 1.0, "blocks.1.norm1.weight": 1.0}
    watch.on_layers(LayerSample(100, gradients=still, updates={"a": 0.01}, residual=[0.0, 0.0, 0.0]))
    assert watch.found == []
    watch.on_layers(LayerSample(200, gradients=still, updates={"a": 0.01}, residual=[0.0, 0.0, 1.0]))
    assert codes(watch) == ["GG-LAY-002"]
    assert watch.found[0].seen["ratio"] == "inf"


def test_dead_units(grammar_dataset, tmp_path):
    trainer, watch, _ = watched(grammar_dataset, tmp_path, max_steps=30, learning_rate=1e-6)
    with torch.no_grad():
        trainer.model.blocks[1].mlp.up.bias.fill_(-50.0)
    trainer.run()
    (finding,) = watch.found  # that their weights get no gradient follows from it, and is not told as well
    assert finding.code == "GG-LAY-001"
    assert finding.seen == {"block": 1, "share": 100.0}


def test_a_scaler_that_never_settles(grammar_dataset, tmp_path):
    _, watch, _ = watched(grammar_dataset, tmp_path, precision="fp16")
    for step in range(1, 60):
        watch.on_step(metrics(step, norm=math.inf, skipped=step > 8 and step % 2 == 0))
    assert codes(watch) == ["GG-SCL-001"]


def test_a_scaler_that_finds_its_scale_is_healthy(grammar_dataset, tmp_path):
    _, watch, _ = watched(grammar_dataset, tmp_path, precision="fp16")
    for step in range(1, 60):
        watch.on_step(metrics(step, norm=math.inf, skipped=step < 12))
    assert watch.found == []


def test_a_refused_step_is_told_with_its_cause(grammar_dataset, tmp_path, capsys):
    trainer, _, told = watched(grammar_dataset, tmp_path, recover=True)
    poison_window(trainer, 5, 3)
    trainer.run()
    (finding,) = told.of("finding")
    assert (finding["code"], finding["severity"], finding["seen"]["step"]) == ("GG-NAN-011", "warning", 5)
    assert finding["ruled_out"] == ["GG-NAN-012", "GG-NAN-013", "GG-NAN-015"]
    assert finding["done"] == ["skipped-step", "quarantined-rows"]
    assert "GG-NAN-011: step 5 is not finite because of its data" in " ".join(capsys.readouterr().err.split())
    json.dumps(told.events)


def test_out_of_memory_is_told(grammar_dataset, tmp_path):
    trainer, watch, _ = watched(grammar_dataset, tmp_path, recover=True)
    original = trainer.train_step.loss.train

    def short(inputs, targets):
        if len(inputs) == 8:
            raise torch.OutOfMemoryError("out of memory")
        return original(inputs, targets)

    trainer.train_step.loss.train = short
    trainer.run()
    assert codes(watch) == ["GG-MEM-012"]


def test_windows_survive_a_resume(grammar_dataset, tmp_path):
    _, watch, _ = watched(grammar_dataset, tmp_path)
    tell(watch, [2.0] * 50 + [9.0])
    _, again, _ = watched(grammar_dataset, tmp_path)
    again.restore(json.loads(json.dumps(watch.state())))
    assert again.state() == watch.state()
    again.on_step(metrics(52, 9.0))
    assert again.found == []  # said already


def test_looking_into_layers_agrees_with_the_formula(grammar_dataset, tmp_path):
    """Against hand-written figures of the same weights."""
    trainer, _ = trainer_for(grammar_dataset, tmp_path)
    samples = []
    probe = LayerProbe(trainer, 1, samples.append)
    trainer.train_step.probes.append(probe)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train_on(1)
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


def test_every_cause_has_a_page():
    assert set(CODES) == set(get_args(Cause))
    assert set(CODES.values()) <= set(entries())


def test_no_recover_stops_at_the_first(grammar_dataset, tmp_path):
    trainer, _, told = watched(grammar_dataset, tmp_path)
    poison_window(trainer, 5, 3)
    with pytest.raises(TrainingDivergedError):
        trainer.run()
    assert [name for name, _ in told.events] == ["replay", "finding", "diverged"]


def test_settings_are_checked():
    config = DiagnosisConfig(most_rewinds=-1, rewind_rate_factor=0.0)
    assert config.problems() == [
        "diagnosis.most_rewinds is -1; it must be at least 0",
        "diagnosis.rewind_rate_factor is 0.0; it must be above 0, at most 1",
    ]


def test_a_rate_of_zero_is_told_but_not_a_step_behind_a_refused_one(quiet_watch):
    _, watch = quiet_watch
    for step, ratio in ((100, 0.0), (110, 0.01), (120, 0.0)):
        watch.on_layers(LayerSample(step, gradients={"blocks.0.norm1.weight": 1.0}, updates={"a": ratio}))
        assert watch.found == []
    watch.on_layers(LayerSample(130, gradients={"blocks.0.norm1.weight": 1.0}, updates={"a": 0.0}))
    assert codes(watch) == ["GG-UPD-002"]
