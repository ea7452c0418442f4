"""Deterministic training on a GPU, as far as a CPU can test it; `benchmarks/gpu_determinism.py` compares bits on a GPU."""

import os

import pytest
import torch
from torch import nn

from glassgpt.model.attention import attend, attend_readable, attention_weights
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training import deterministic, hardware
from glassgpt.training.config import TrainConfig
from glassgpt.training.deterministic import attend_deterministic, cudnn_attention, deterministic_algorithms

SHAPE = (2, 4, 6, 8)


@pytest.fixture
def reference_kernels(monkeypatch):
    """Replace cuDNN's kernels, which need a GPU, by the readable reference implementation."""

    def forward(q, k, v):
        kv = [x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v)]
        return attend_readable(q, *kv, None, 0.0).contiguous(), torch.zeros(*q.shape[:3], 1)

    def backward(grad, q, k, v, output, log_sum):
        weights, scale = (
            attention_weights(q, k, None),
            q.size(-1) ** -0.5,
        )  # no autograd inside an operator: by the formula
        by_weight = grad @ v.mT
        by_score = weights * (by_weight - (by_weight * weights).sum(-1, keepdim=True)) * scale
        return by_score @ k, by_score.mT @ q, weights.mT @ grad

    monkeypatch.setattr(deterministic, "_forward", forward)
    monkeypatch.setattr(deterministic, "_backward", backward)


def qkv(requires_grad=True):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator).requires_grad_(requires_grad) for _ in range(3)]


def test_gradients_of_the_custom_operator_are_those_of_attention(reference_kernels):
    ours, theirs = qkv(), qkv()
    cudnn_attention(*ours)[0].square().sum().backward()
    attend(*theirs, None, 0.0).square().sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_custom_operator_has_shapes_without_a_kernel():
    """The fake implementation for torch.compile: shapes and memory order of the outputs, from fake tensors."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        q, k = torch.empty(2, 4, 6, 8, dtype=torch.bfloat16), torch.empty(2, 2, 6, 8, dtype=torch.bfloat16)
        output, log_sum = cudnn_attention(q, k, k)
        grads = deterministic.cudnn_attention_backward(output, q, k, k, output, log_sum)
    assert (output.shape, output.dtype, log_sum.shape, log_sum.dtype) == (q.shape, q.dtype, (2, 4, 6, 1), torch.float32)
    assert output.transpose(1, 2).is_contiguous()
    assert [x.shape for x in grads] == [q.shape, k.shape, k.shape]


@pytest.mark.parametrize("case", ["mask", "dropout", "window", "float32", "cached", "no gradient"])
def test_everything_but_causal_training_in_16_bits_uses_the_usual_attention(case, monkeypatch):
    called = []
    monkeypatch.setattr(deterministic, "attend", lambda *arguments: called.append(arguments))
    monkeypatch.setattr(deterministic, "cudnn_attention", lambda *arguments: pytest.fail("cuDNN was called"))
    q, k, v = (x.detach().bfloat16().requires_grad_(case != "no gradient") for x in qkv())
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool) if case == "mask" else None
    if case == "float32":
        q, k, v = qkv()
    if case == "cached":
        q = q[:, :, -1:]
    attend_deterministic(q, k, v, mask, 0.1 if case == "dropout" else 0.0, 3 if case == "window" else 0)
    assert len(called) == 1


def test_causal_training_in_16_bits_uses_cudnn(monkeypatch):
    monkeypatch.setattr(deterministic, "cudnn_attention", lambda q, k, v: (("cudnn", q.dtype), None))
    q, k, v = (x.detach().bfloat16().requires_grad_() for x in qkv())
    assert attend_deterministic(q, k, v, None, 0.0) == ("cudnn", torch.bfloat16)
    assert attend_deterministic(q, k, v, None, 0.0, window=6) == ("cudnn", torch.bfloat16)  # covers everything


def test_strict_mode_lasts_as_long_as_the_context(monkeypatch):
    import torch._inductor.config as inductor
    import torch.utils.deterministic as fill

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled(), fill.fill_uninitialized_memory, inductor.force_shape_pad
    with deterministic_algorithms():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert (fill.fill_uninitialized_memory, inductor.force_shape_pad) == (False, True)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert before == (
        torch.are_deterministic_algorithms_enabled(), fill.fill_uninitialized_memory, inductor.force_shape_pad,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "device", "precision", "has_frontend", "expected"),
    [
        ("on", "cuda", "fp32", False, True),
        ("on", "cuda", "bf16", True, True),
        ("off", "cuda", "bf16", True, False),
        ("auto", "cuda", "bf16", True, True),
        ("auto", "cuda", "fp32", True, False),
        ("auto", "cuda", "bf16", False, False),
        ("on", "cpu", "fp32", True, False),
    ],
)
def test_auto_is_deterministic_where_it_costs_little(monkeypatch, choice, device, precision, has_frontend, expected):
    monkeypatch.setattr(hardware, "pick_device", lambda requested: torch.device(device))
    monkeypatch.setattr(hardware, "has_cudnn_attention", lambda device, head_dim=64: has_frontend)
    monkeypatch.setattr(hardware, "set_cublas_workspace", lambda: None)
    train = TrainConfig(deterministic=choice, precision=precision, compile="off")
    assert hardware.resolve_hardware(train).deterministic is expected


def test_a_deterministic_run_trains_with_the_deterministic_attention(monkeypatch):
    monkeypatch.setattr(hardware, "has_cudnn_attention", lambda device, head_dim: True)
    machine = hardware.Hardware(torch.device("cpu"), "fp32", compile=False, deterministic=True)
    assert machine.attention(ModelConfig()) is attend_deterministic
    assert "deterministic" in machine.describe()
    model: nn.Module = build_model(ModelConfig(vocab_size=16, context_length=8, n_layer=1, n_head=2, n_embd=8))
    assert machine.attention_kernel(model.config) == "flash"  # in float32 on a CPU it hands over to the usual one


def test_the_kernel_of_a_deterministic_run_is_named(monkeypatch, reference_kernels):
    monkeypatch.setattr(hardware, "has_cudnn_attention", lambda device, head_dim: True)
    machine = hardware.Hardware(torch.device("cpu"), "fp16", compile=False, deterministic=True)
    config = ModelConfig(vocab_size=16, context_length=8, n_layer=1, n_head=2, n_embd=8)
    assert machine.attention_kernel(config) == "cudnn"
