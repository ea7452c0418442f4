"""The learning-rate range test."""

import dataclasses
import math

import pytest
import torch
from diagnosis_helpers import CPU, SHAPES, codes

from glassgpt.diagnosis.checks import rate_range
from glassgpt.model.build import build_model
from glassgpt.training.config import CheckpointConfig, OptimizerConfig, ScheduleConfig, TrainConfig, TrainerConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.step import TrainStep


def train_step_for(dataset, *, optimizer="adamw", rate=5e-3) -> TrainStep:
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(SHAPES["gpt2"], dropout=0.1))
    train = TrainConfig(batch_tokens=256, learning_rate=rate, ema_decay=0.9)
    settings = TrainerConfig(train, OptimizerConfig(name=optimizer), ScheduleConfig(), CheckpointConfig())
    train_step = TrainStep(model, dataset.split("train"), settings, CPU, DistributedContext())
    train_step.model.train()
    return train_step


def losses_of(train_step: TrainStep, first: int, steps: int) -> list[float]:
    return [train_step.run_and_wait(number, 5e-3).loss for number in range(first, first + steps)]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("before", [0, 3])
def test_range_test_restores_all_training_state(grammar_dataset, optimizer, before):
    """Training continues bit for bit as if the test had not run."""
    undisturbed, tried = (train_step_for(grammar_dataset, optimizer=optimizer) for _ in range(2))
    torch.manual_seed(7)
    losses_of(undisturbed, 1, before)
    after = losses_of(undisturbed, before + 1, 3)
    torch.manual_seed(7)
    losses_of(tried, 1, before)
    rate_range.find_rate_range(tried, CPU, steps=12)
    assert losses_of(tried, before + 1, 3) == after
    for one, other in zip(undisturbed.model.parameters(), tried.model.parameters(), strict=True):
        assert torch.equal(one, other)
    averages = (train_step.average.named().values() for train_step in (undisturbed, tried))
    assert all(torch.equal(a, b) for a, b in zip(*averages, strict=True))
    states = [str(train_step.optimizers[0].state_dict()["state"]) for train_step in (undisturbed, tried)]
    assert states[0] == states[1]


def test_rate_above_that_of_the_lowest_loss_is_reported(grammar_dataset, monkeypatch):
    """The losses are given: lowest at 0.01, which the average follows with a delay of four steps."""
    monkeypatch.setattr(rate_range, "_step", lambda train_step, rate: 3 + (math.log10(rate) + 2) ** 2)
    train_step = train_step_for(grammar_dataset)
    below, above = (rate_range.check_rate_range(train_step, CPU, rate, None) for rate in (5e-3, 0.1))
    assert (codes(below), codes(above)) == ([], ["GG-LRT-001"])
    assert 1e-2 <= below.measurements["limit"] <= 5e-2


@pytest.mark.slow
def test_too_high_learning_rate_is_reported(grammar_dataset, tmp_path):
    train_step = train_step_for(grammar_dataset)
    picture = tmp_path / "rates.png"
    check = rate_range.check_rate_range(train_step, CPU, 5e-3, picture)
    assert codes(check) == []
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert codes(rate_range.check_rate_range(train_step, CPU, 3.0, None)) == ["GG-LRT-001"]
