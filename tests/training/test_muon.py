"""Muon, compared with singular values, with PyTorch's Muon, and with hand-computed numbers."""

import copy
import math
import os
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from forked import run_ranks
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.average import WeightAverage
from glassgpt.training.config import OptimizerConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.muon import Muon, orthogonalize
from glassgpt.training.optimizers import build_optimizers, parameter_groups, set_learning_rate

CLASSIC = [(3.4445, -4.7750, 2.0315)] * 5
"""The coefficients that torch.optim.Muon has by default."""


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 40), (2, 40, 8), (1, 1, 5)])
def test_orthogonalize_sets_singular_values_to_one_and_keeps_singular_vectors(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalize(matrices)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.85
    assert values.max() < 1.15
    # The singular vectors are the same if U^T X V is diagonal.
    inner = u.mT @ found @ v.mT
    off = inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))
    assert off.abs().max() < 1e-2


def test_zero_gradient_gives_zero_update():
    assert torch.equal(orthogonalize(torch.zeros(2, 4, 4)), torch.zeros(2, 4, 4))


def test_steps_equal_those_of_torch_muon(monkeypatch):
    """With its coefficients and without decay. It computes in bfloat16, hence the tolerance."""
    monkeypatch.setattr("glassgpt.training.muon.orthogonalize", lambda m: orthogonalize(m, CLASSIC))
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in [(6, 6), (12, 4), (6, 6)]]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    mine = Muon(ours, lr=0.1, momentum=0.95)
    reference = torch.optim.Muon(theirs, lr=0.1, momentum=0.95, weight_decay=0.0)
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.clone()
        mine.step()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


def test_cautious_decay_acts_only_where_it_has_the_sign_of_the_update():
    parameter = torch.nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    parameter.grad = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    Muon([parameter], lr=0.1, weight_decay=1.0).step()
    update = orthogonalize(torch.eye(2)[None])[0, 0, 0].item()
    assert parameter[0, 0].item() == pytest.approx(1.0 - 0.1 * (update + 1.0))
    assert parameter[1, 1].item() == pytest.approx(-1.0 - 0.1 * update)  # here decay would act against the update


def test_momentum_warms_up():
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = Muon([parameter], momentum=0.95, momentum_warmup_steps=2)
    seen = []
    for _ in range(4):
        seen.append(optimizer._momentum(optimizer.param_groups[0]))
        parameter.grad = torch.eye(2)
        optimizer.step()
    assert seen == pytest.approx([0.85, 0.9, 0.95, 0.95])


RANK_SCRIPT = """
import sys
import torch
from glassgpt.training.distributed import process_group
from training.test_captured_muon import captured_muon
from training.test_muon import weights_after_steps
with process_group(torch.device("cpu")) as dist:
    torch.save(weights_after_steps(dist), f"{sys.argv[1]}/{dist.rank}.pt")
    torch.save(weights_after_steps(dist, captured_muon), f"{sys.argv[1]}/{dist.rank}-captured.pt")
"""


def weights_after_steps(dist, muon=Muon):
    """Train matrices of three shapes, an odd number of each, for three steps with given gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 6), (12, 4), (6, 6), (4, 12), (6, 6)]
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = muon(parameters, lr=0.1, weight_decay=0.1, dist=dist)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def test_two_ranks_that_share_the_work_end_with_the_weights_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
    script = tmp_path / "rank.py"
    script.write_text(RANK_SCRIPT)
    for done in run_ranks(2, tmp_path, script=script):
        assert done.returncode == 0, done.stderr
    alone = weights_after_steps(DistributedContext())
    for rank in range(2):
        for shared, own in zip(torch.load(tmp_path / f"{rank}.pt"), alone, strict=True):
            torch.testing.assert_close(shared, own, rtol=1e-5, atol=1e-6)
        for plain, captured in zip(*(torch.load(tmp_path / f"{rank}{x}.pt") for x in ("", "-captured")), strict=True):
            assert torch.equal(plain, captured)


class NoCopiesFromHost(TorchDispatchMode):
    """Fails where PyTorch would copy a tensor from the host to a GPU, for which the host waits until the GPU is idle."""

    COPYING = ("where", "_to_copy", "copy_")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        devices = {each.device.type for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)}
        copies = function.overloadpacket.__name__ in self.COPYING and "cpu" in devices
        assert not copies, f"{function} with a tensor of the host"
        return function(*args, **(kwargs or {}))


def test_update_copies_nothing_from_the_host():
    """The meta device stands for a GPU."""
    parameter = torch.nn.Parameter(torch.zeros(4, 4, device="meta"))
    optimizer = Muon([parameter], momentum=0.9)
    optimizer.found_inf = torch.zeros((), device="meta")
    parameter.grad = torch.zeros(4, 4, device="meta")
    with NoCopiesFromHost():
        optimizer.step()


def test_skipped_step_changes_nothing():
    parameter = torch.nn.Parameter(torch.eye(2))
    model = build_model(ModelConfig(vocab_size=5, context_length=4, n_layer=1, n_head=1, n_embd=4))
    optimizer, average = Muon([parameter], lr=0.1, weight_decay=0.1), WeightAverage(model, 0.5)
    optimizer.found_inf = torch.ones(())
    before = {name: tensor.clone() for name, tensor in average.named().items()}
    parameter.grad = torch.full((2, 2), math.nan)
    optimizer.step()
    assert torch.equal(parameter, torch.eye(2))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    average.update(5, optimizer.found_inf)
    assert all(torch.equal(tensor, before[name]) for name, tensor in average.named().items())


def test_state_dict_restores_the_optimizer():
    torch.manual_seed(0)
    first, second = (torch.nn.Parameter(torch.ones(3, 3)) for _ in range(2))
    one, two = Muon([first], momentum_warmup_steps=5), Muon([second], momentum_warmup_steps=5)
    gradients = torch.randn(6, 3, 3)
    for gradient in gradients[:3]:
        first.grad = gradient.clone()
        one.step()
    second.data.copy_(first.data)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for gradient in gradients[3:]:
        first.grad, second.grad = gradient.clone(), gradient.clone()
        one.step()
        two.step()
    assert torch.equal(first, second)


@pytest.mark.parametrize("arch", ["gpt2", "modern", "llama"])
def test_every_parameter_has_one_optimizer_and_the_rate_of_its_kind(arch):
    shape = {"vocab_size": 50, "context_length": 8, "n_layer": 2, "n_head": 2, "n_embd": 8}
    model = build_model(ModelConfig(arch=arch, bias=arch == "gpt2", **shape))
    config = OptimizerConfig(name="muon", embedding_rate_ratio=28, head_rate_ratio=0.16, vector_rate_ratio=0.6)
    optimizers = build_optimizers(model, config)
    set_learning_rate(optimizers, 0.01)
    owners = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(owners) == sorted(id(p) for p in model.parameters())
    kinds = model.parameter_kinds()
    of_muon = {id(p) for group in optimizers[0].param_groups for p in group["params"]}
    assert of_muon == {id(p) for name, p in model.named_parameters() if kinds[name] == "matrix"}
    rates = {"matrix": 0.01, "embedding": 0.28, "head": 0.0016, "vector": 0.006}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            kind = next(kinds[name] for name, p in model.named_parameters() if p is group["params"][0])
            assert group["lr"] == pytest.approx(rates[kind])
    assert set(parameter_groups(model, config)) == set(kinds.values())


def test_weight_average_follows_the_weights_and_can_replace_them():
    torch.manual_seed(0)
    model = build_model(ModelConfig(vocab_size=5, context_length=4, n_layer=1, n_head=1, n_embd=4))
    average = WeightAverage(model, decay=0.9)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(1, 200):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        average.update(step)
        decay = min(0.9, step / (step + 9))
        for name, parameter in model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach()
    own = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, tensor in average.named().items():
        torch.testing.assert_close(tensor, expected[name])
    with average.in_place():
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name])
    assert all(torch.equal(p, own[name]) for name, p in model.named_parameters())
    # With a decay of 0.9 the average is 9 steps behind weights that grow by 1 per step.
    assert math.isclose((own["norm.weight"] - average.named()["norm.weight"]).mean().item(), 9.0, rel_tol=1e-3)
