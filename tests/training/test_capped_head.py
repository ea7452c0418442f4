"""The loss of a capped head by formula equals the readable one, and is used where it is faster only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.capped_head import CappedHeadLoss, capped_cross_entropy
from glassgpt.training.config import TrainConfig, TrainerConfig
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.losses import build_loss

CAP = 15.0


@pytest.fixture
def problem():
    torch.manual_seed(0)
    return torch.randn(10, 8), 3 * torch.randn(23, 8), torch.randint(23, (10,))


def from_autograd(features, weight, targets, dtype=torch.float64):
    """Return loss and gradients from the formula, by PyTorch alone."""
    x, w = (tensor.detach().to(dtype).requires_grad_() for tensor in (features, weight))
    loss = F.cross_entropy(CAP * torch.tanh(x @ w.T / CAP), targets)
    (3 * loss).backward()
    return loss.detach(), x.grad, w.grad


def by_formula(features, weight, targets, chunk):
    x, w = (tensor.detach().requires_grad_() for tensor in (features, weight))
    loss = capped_cross_entropy(x, w, targets, CAP, chunk)
    (3 * loss).backward()
    return loss.detach(), x.grad, w.grad


@pytest.mark.parametrize("chunk", [0, 1, 4, 10, 64])
def test_loss_and_gradients_are_those_of_autograd_in_double_precision(problem, chunk):
    for ours, expected in zip(by_formula(*problem, chunk), from_autograd(*problem), strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)


def test_logits_at_both_ends_of_the_cap_give_a_finite_loss_and_gradient():
    features, weight = torch.tensor([[1.0]]), torch.tensor([[1e4], [-1e4], [0.0]])
    loss, by_features, by_weight = by_formula(features, weight, torch.tensor([1]), 0)
    assert loss.item() == pytest.approx(2 * CAP, rel=1e-5)
    assert by_features.isfinite().all()
    assert by_weight.isfinite().all()


def test_a_loss_that_is_not_finite_stays_so(problem):
    features, weight, targets = problem
    features[3, 2] = torch.nan
    loss, by_features, _ = by_formula(features, weight, targets, 4)
    assert loss.isnan()
    assert by_features[3].isnan().all()


def test_in_autocast_only_the_products_are_rounded(problem):
    exact = from_autograd(*problem)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = by_formula(*problem, 4)
    for ours, expected in zip(rounded, exact, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), expected, rtol=0.05, atol=0.02)
    assert not torch.equal(rounded[1], by_formula(*problem, 4)[1])


def model_of(arch):
    torch.manual_seed(0)
    shape = ModelConfig(arch=arch, vocab_size=23, context_length=6, n_layer=1, n_head=2, n_embd=8, bias=False)
    return build_model(shape)


def loss_of(arch="modern", **changes):
    train = replace(TrainConfig(loss_chunk_tokens=4, device="cpu"), **changes)
    return build_loss(np.zeros(100, dtype=np.uint16), model_of(arch), replace(TrainerConfig(), train=train))


def test_a_modern_model_on_a_cpu_trains_as_with_the_readable_loss():
    fast = loss_of()
    assert type(fast) is CappedHeadLoss
    torch.nn.init.normal_(fast.model.lm_head.weight)
    readable = TrainingLoss(fast.model, 4)
    inputs, targets = torch.randint(23, (2, 3, 6))
    gradients = []
    for loss in (fast, readable):
        loss.model.zero_grad()
        value = loss(inputs, targets)
        value.backward()
        gradients.append([value.detach(), *(parameter.grad for parameter in loss.model.parameters())])
    torch.testing.assert_close(*gradients)
    assert len(list(fast.parameters())) == len(list(readable.parameters()))


def test_validation_is_the_readable_loss():
    fast = loss_of()
    fast.model.eval()
    inputs, targets = torch.randint(23, (2, 3, 6))
    with torch.no_grad():
        assert torch.equal(fast(inputs, targets), TrainingLoss(fast.model, 4)(inputs, targets))


@pytest.mark.parametrize(
    ("arch", "changes"),
    [
        ("gpt2", {}),
        ("modern", {"loss_chunk_tokens": 0}),
        ("modern", {"compile": "on"}),
        ("modern", {"precision": "fp16"}),
        ("modern", {"sharding": "full"}),
    ],
)
def test_elsewhere_the_readable_loss_is_used(arch, changes):
    assert type(loss_of(arch, **changes)) is TrainingLoss
