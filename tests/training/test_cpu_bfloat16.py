"""Training in bfloat16 on a CPU agrees with float32, and starts only where the CPU has instructions for it."""

from __future__ import annotations

import pytest
import torch

from glassgpt.model.attention import attend_readable
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training import hardware
from glassgpt.training.config import OptimizerConfig, TrainConfig
from glassgpt.training.cpu_bfloat16 import (
    CPUBFloat16Muon,
    attend_in_float32,
    cpu_has_16_bit_matmul,
    orthogonalize_in_bfloat16,
)
from glassgpt.training.muon import Muon, orthogonalize
from glassgpt.training.optimizers import build_optimizers


@pytest.mark.parametrize("has_instructions", [True, False])
def test_fast_takes_bfloat16_on_a_cpu_that_has_instructions_for_it(monkeypatch, has_instructions):
    monkeypatch.setattr(hardware, "cpu_has_16_bit_matmul", lambda *, unknown: has_instructions)
    resolved = hardware.resolve_hardware(TrainConfig(device="cpu", precision="fast"))
    assert resolved.precision == ("bf16" if has_instructions else "fp32")
    assert resolved.multiplies_bfloat16_on_cpu == has_instructions


def test_a_cpu_that_the_system_does_not_describe_is_not_assumed_to_have_them(tmp_path):
    assert not cpu_has_16_bit_matmul(tmp_path / "missing", unknown=False)
    assert cpu_has_16_bit_matmul(tmp_path / "missing")


def test_auto_stays_float32_on_a_cpu(monkeypatch):
    monkeypatch.setattr(hardware, "cpu_has_16_bit_matmul", lambda *, unknown: True)
    assert hardware.resolve_hardware(TrainConfig(device="cpu")).precision == "fp32"


def test_attention_is_computed_in_float32_and_returned_in_the_type_of_its_inputs():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 8, 4).bfloat16().requires_grad_() for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        ours = attend_in_float32(q, k, v, None, 0.0, 3)
    exact = attend_readable(q.float(), k.float(), v.float(), None, 0.0, 3)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, exact.bfloat16()) or (ours - exact).abs().max() < 0.02
    ours.float().square().sum().backward()
    gradients = [tensor.grad for tensor in (q, k, v)]
    for tensor in (q, k, v):
        tensor.grad = None
    exact.square().sum().backward()
    for ours_gradient, tensor in zip(gradients, (q, k, v), strict=True):
        torch.testing.assert_close(ours_gradient, tensor.grad, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 32, 8), (2, 8, 32)])
def test_muons_products_in_bfloat16_are_as_exact_as_those_of_the_reference_in_bfloat16(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    exact = orthogonalize(matrices)
    ours, reference = orthogonalize_in_bfloat16(matrices), orthogonalize(matrices.bfloat16())
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).norm() < 1.5 * (reference - exact).norm() < 0.2 * exact.norm()


def test_an_update_in_bfloat16_is_close_to_that_of_the_reference():
    torch.manual_seed(0)
    start, gradient = torch.randn(8, 16), torch.randn(8, 16)
    moved = []
    for algorithm in (CPUBFloat16Muon, Muon):
        weight = torch.nn.Parameter(start.clone())
        weight.grad = gradient
        optimizer = algorithm([weight], lr=0.1)
        optimizer.step()
        assert optimizer.state[weight]["momentum"].dtype == torch.float32
        moved.append(weight.detach() - start)
    assert (moved[0] - moved[1]).norm() < 0.1 * moved[1].norm()


def test_the_optimizer_is_chosen_by_the_hardware():
    model = build_model(ModelConfig(arch="modern", vocab_size=23, n_layer=1, n_head=2, n_embd=8, bias=False))
    config = OptimizerConfig(name="muon")
    assert type(build_optimizers(model, config, cpu_bfloat16=True)[0]) is CPUBFloat16Muon
    assert type(build_optimizers(model, config)[0]) is Muon
