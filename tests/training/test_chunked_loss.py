"""A sum over chunks has the value and the gradients of the whole, and computes nothing twice unless it must."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glassgpt.training.chunked_loss import sum_of_chunks


class TiedModel(nn.Module):
    """Uses one matrix before the chunks and in them, one only before, one only in them, and one never."""

    def __init__(self):
        super().__init__()
        self.tied, self.early, self.late, self.unused = (nn.Parameter(torch.randn(5, 5)) for _ in range(4))
        self.frozen = nn.Parameter(torch.randn(5), requires_grad=False)

    def features(self, x):
        return torch.tanh(x @ self.tied) @ self.early

    def nats(self, features, targets):
        return F.cross_entropy(features @ self.late @ self.tied.T + self.frozen, targets, reduction="sum")


@pytest.fixture
def problem():
    torch.manual_seed(0)
    return TiedModel(), torch.randn(10, 5), torch.randint(5, (10,))


def gradients(loss, model):
    model.zero_grad()
    (3 * loss).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def counted(function):
    """Return the function, and a list of the sizes of the chunks it is called with."""
    calls: list[int] = []

    def counting(features, targets):
        calls.append(len(features))
        return function(features, targets)

    return counting, calls


@pytest.mark.parametrize("chunk", [1, 4, 5, 10, 64])
def test_value_and_gradients_are_those_of_the_whole(problem, chunk):
    model, x, targets = problem
    whole = model.nats(model.features(x), targets)
    chunked = sum_of_chunks(model.nats, model, chunk, model.features(x), targets)
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(gradients(chunked, model), gradients(whole, model))
    assert model.unused.grad is None
    assert model.frozen.grad is None


def test_each_chunk_is_computed_once(problem):
    model, x, targets = problem
    nats, calls = counted(model.nats)
    sum_of_chunks(nats, model, 4, model.features(x), targets).backward()
    assert calls == [4, 4, 2]


def test_without_gradients_the_sum_is_the_same(problem):
    model, x, targets = problem
    whole = model.nats(model.features(x), targets)
    with torch.no_grad():
        chunked = sum_of_chunks(model.nats, model, 4, model.features(x), targets)
    torch.testing.assert_close(chunked, whole.detach())
    assert not chunked.requires_grad


def test_in_fp16_chunks_are_computed_again_so_that_the_scaled_loss_reaches_them(problem):
    model, x, targets = problem
    nats, calls = counted(model.nats)
    with torch.autocast("cpu", dtype=torch.float16):
        (65536.0 * sum_of_chunks(nats, model, 4, model.features(x), targets)).backward()
    assert calls == [4, 4, 2, 2, 4, 4]


@pytest.mark.slow
def test_compiled_code_has_the_same_gradients(problem):
    model, x, targets = problem
    whole = gradients(sum_of_chunks(model.nats, model, 5, model.features(x), targets), model)

    def loss(x, targets):
        return sum_of_chunks(model.nats, model, 5, model.features(x), targets)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradients(compiled(x, targets), model), whole)
