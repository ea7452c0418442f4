"""8-bit products: rounding, the head with its loss, linear layers, and what is refused."""

from __future__ import annotations

import copy
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glassgpt.data.shards import TokenArray
from glassgpt.diagnosis.detectors.layers import ClippedActivationsDetector
from glassgpt.errors import ConfigError
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.config import TrainConfig, TrainerConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.fp8 import checks, fp8_loss, head, quantize
from glassgpt.training.fp8.linear import ACTIVATION_SCALE, FP8Linear, convert, layers_in_8_bits
from glassgpt.training.hardware import resolve_hardware
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.step import TrainStep

TOKENS, WIDTH, VOCABULARY = 96, 32, 77


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def small_model(arch: str = "gpt2") -> nn.Module:
    torch.manual_seed(0)
    shape = {"context_length": 16, "n_layer": 1, "n_head": 2, "n_embd": 32}
    return build_model(ModelConfig(arch=arch, vocab_size=90, bias=arch == "gpt2", **shape))


@pytest.mark.parametrize(("dtype", "limit"), [(quantize.E4M3, 0.04), (quantize.E5M2, 0.08)])
def test_values_survive_within_the_precision_of_their_format(dtype, limit):
    x = torch.randn(40, 24) * 1e-3
    found = quantize.quantize(x, padded=48, dtype=dtype)
    assert relative_error(found.rows[:40].float() * found.inverse_scale, x) < limit
    assert torch.equal(found.rows.float().t(), found.columns.float())
    assert not found.rows[40:].float().any()


def test_what_is_too_large_saturates_and_nan_stays():
    found = quantize.saturate(torch.tensor([1e9, -1e9, torch.nan]), quantize.E4M3).float()
    assert found[:2].tolist() == [448, -448]
    assert found[2].isnan()


@pytest.mark.parametrize("cap", [0.0, 15.0])
@pytest.mark.parametrize("chunk", [TOKENS, 32])
def test_loss_and_gradients_of_the_head_agree_with_float64(cap, chunk):
    torch.manual_seed(0)
    x, w = torch.randn(TOKENS, WIDTH, requires_grad=True), torch.randn(VOCABULARY, WIDTH, requires_grad=True)
    targets = torch.randint(VOCABULARY, (TOKENS,))
    logits = x.double() @ w.double().t()
    loss = F.cross_entropy(cap * torch.tanh(logits / cap) if cap else logits, targets)
    expected = torch.autograd.grad(3 * loss, (x, w))
    found = head.cross_entropy_fp8(x, w, targets, cap, chunk)[0]
    assert found.item() == pytest.approx(loss.item(), abs=0.1)  # of 14 nats: these logits are large
    for gradient, exact in zip(torch.autograd.grad(3 * found, (x, w)), expected, strict=True):
        assert gradient.dtype == torch.float32
        assert relative_error(gradient, exact) < 0.08


def test_rounding_of_weights_does_not_shift_the_logits_of_what_all_positions_share():
    torch.manual_seed(0)
    x = torch.randint(-7, 8, (1, WIDTH)).float()
    x[0, 0] = 7  # times 64 is the largest value of E4M3, so that it has all of these exactly
    x = x.expand(TOKENS, WIDTH)
    w, targets = torch.randn(VOCABULARY, WIDTH) * 0.1, torch.randint(VOCABULARY, (TOKENS,))
    matrix = quantize.quantize(w)
    rounded = F.cross_entropy(x @ (matrix.rows.float() * matrix.inverse_scale).t(), targets)
    exact = F.cross_entropy(x @ w.t(), targets)
    assert abs(rounded - exact) > 1e-3
    assert head.cross_entropy_fp8(x, w, targets, 0.0, TOKENS)[0].item() == pytest.approx(exact.item(), abs=1e-5)


def test_the_operation_is_registered_for_the_compiler():
    x, w = torch.randn(16, 16, requires_grad=True), torch.randn(32, 16, requires_grad=True)
    torch.library.opcheck(
        head.cross_entropy_fp8,
        (x, w, torch.randint(32, (16,)), 0.0, 16),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize("cap", [0.0, 15.0])
def test_kernels_agree_with_their_formula(monkeypatch, cap):
    if not find_spec("triton"):
        pytest.skip("Triton is for Linux")
    from triton.runtime.interpreter import InterpretedFunction

    from glassgpt.training.fp8 import kernels, launch

    for name in (
        "capped",
        "add_exponentials",
        "cast_kernel",
        "cast_rows_kernel",
        "transpose_kernel",
        "cross_entropy_kernel",
    ):
        interpreted = InterpretedFunction(getattr(kernels, name).fn)
        monkeypatch.setattr(kernels, name, interpreted)
        monkeypatch.setattr(launch, name, interpreted, raising=False)
    # The interpreter rounds to 8 bits in another way than a GPU, so the result is compared before it is rounded.
    monkeypatch.setattr(head, "saturate", lambda x, dtype: x)
    for vocabulary, padded in (
        (180, 192),
        (16_384, 16_384),
        (17_001, 17_024),
    ):  # less than a block, whole blocks, a rest
        logits, targets = torch.randn(5, padded) * 3, torch.tensor([0, 7, 100, 179, vocabulary - 1])
        found = launch.losses_and_gradients(logits, targets, vocabulary, cap, head.GRADIENT_SCALE, torch.float32)
        formula = head.losses_and_gradients_readable(logits, targets, vocabulary, cap)
        torch.testing.assert_close(found[0], formula[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[1], formula[1], rtol=1e-4, atol=1e-6 * head.GRADIENT_SCALE)
    x, y = torch.randn(20, 24), torch.empty(20, 24)
    launch.cast(x, torch.tensor(2.0), y)
    assert torch.equal(y, 2 * x)
    y, along = torch.ones(22, 24, dtype=torch.float16), torch.randn(24)
    lost = launch.cast_rows(x, torch.tensor(3.0), y, along)
    assert torch.equal(y[:20], (3 * x).half())
    assert torch.equal(y[20:], torch.ones(2, 24).half())
    expected = (x - y[:20].float() / 3) @ along
    assert expected.norm() > 1e-4
    torch.testing.assert_close(lost, F.pad(expected, (0, 2)), rtol=1e-3, atol=1e-6)
    small = torch.randint(256, (20, 24), dtype=torch.uint8)
    assert torch.equal(launch.transpose(small), small.t())


def test_a_linear_layer_agrees_with_its_16_bit_form():
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 96), torch.randn(2, 48, 64, requires_grad=True)
    inputs = (x, *linear.parameters())
    y = linear(x)
    gradient = torch.randn_like(y) / 96
    expected = torch.autograd.grad(y, inputs, gradient)
    convert(linear)
    assert relative_error(linear(x), y) < 0.06
    for found, exact in zip(torch.autograd.grad(linear(x), inputs, gradient), expected, strict=True):
        assert relative_error(found, exact) < 0.08
    assert torch.equal(linear.eval()(x), y)


def test_tiny_gradients_do_not_become_zero():
    """Early in the training of GPT-2 124M those of queries and keys are 1e-7, in units of one over the number of tokens."""
    torch.manual_seed(0)
    linear, x = nn.Linear(32, 48), torch.randn(64, 32, requires_grad=True)
    gradient = torch.randn(64, 48) * 3e-7 / 64
    expected = torch.autograd.grad(linear(x), (x, linear.weight), gradient)
    convert(linear)
    for found, exact in zip(torch.autograd.grad(linear(x), (x, linear.weight), gradient), expected, strict=True):
        assert relative_error(found, exact) < 0.1


@pytest.mark.parametrize("largest", [30.0, 1500.0])
def test_large_activations_are_not_clipped(largest):
    """Squared ReLUs of a model with 12 blocks of 128 channels reach 78 in 1,200 steps."""
    torch.manual_seed(0)
    linear, x = nn.Linear(96, 32), torch.relu(torch.randn(64, 96)).square()
    x[:, 3] *= largest / x.max()
    inputs = (x.requires_grad_(), linear.weight)
    y, gradient = linear(x), torch.randn(64, 32) / 64
    expected = torch.autograd.grad(y, inputs, gradient)
    convert(linear)
    assert relative_error(linear(x), y) < 0.06
    for found, exact in zip(torch.autograd.grad(linear(x), inputs, gradient), expected, strict=True):
        assert relative_error(found, exact) < 0.08


def test_detector_knows_the_range_of_activations():
    largest = torch.finfo(quantize.E4M3).max / ACTIVATION_SCALE
    assert largest == ClippedActivationsDetector.LIMIT


@pytest.mark.parametrize("arch", ["gpt2", "modern", "llama"])
def test_training_in_8_bits_follows_training_in_32(monkeypatch, arch):
    monkeypatch.setattr("glassgpt.training.fp8.require_fp8", lambda model, train: None)
    tokens = torch.randint(90, (4, 17))
    losses = []
    for fp8 in ("off", "mlp", "all"):
        model = small_model(arch)
        names = list(model.state_dict())
        loss = TrainingLoss(model) if fp8 == "off" else fp8_loss(model, TrainConfig(fp8=fp8))
        assert list(model.state_dict()) == names
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(15):
            optimizer.zero_grad()
            loss(tokens[:, :-1], tokens[:, 1:]).backward()
            optimizer.step()
        model.eval()
        losses.append(loss(tokens[:, :-1], tokens[:, 1:]).item())
    assert losses[0] < 4.3
    assert losses[1:] == pytest.approx([losses[0]] * 2, abs=0.1)


@pytest.mark.parametrize(
    ("arch", "mlp", "n_all"),
    [("gpt2", {"up", "down"}, 4), ("modern", {"up", "down"}, 6), ("llama", {"gate", "up", "down"}, 7)],
)
def test_which_layers_are_computed_in_8_bits(arch, mlp, n_all):
    model = small_model(arch)
    assert not layers_in_8_bits(model, "head")
    found = layers_in_8_bits(model, "mlp")
    assert set(found) == {f"blocks.0.mlp.{name}" for name in mlp}
    assert len(layers_in_8_bits(model, "all")) == n_all
    assert all(model.get_submodule(name) is layer for name, layer in layers_in_8_bits(model, "all").items())


@pytest.mark.parametrize("compiled", ["off", pytest.param("on", marks=pytest.mark.slow)])
def test_the_last_steps_are_those_of_16_bits(monkeypatch, compiled):
    """From the same weights and optimizer, a step behind `fp8_until` changes the weights as a step without 8 bits does."""
    monkeypatch.setattr("glassgpt.training.fp8.require_fp8", lambda model, train: None)
    # What is compiled is traced, but C++ code is not generated: a change of classes concerns the tracing.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    text = TokenArray([np.random.default_rng(0).integers(90, size=400, dtype=np.uint16)])

    def step_of(**train):
        config = TrainConfig(max_steps=4, batch_tokens=64, device="cpu", compile=compiled, **train)
        settings = TrainerConfig(train=config)
        return TrainStep(small_model(), text, settings, resolve_hardware(config), DistributedContext())

    both, plain = step_of(fp8="all", fp8_until=0.5), step_of()
    for step in (1, 2, 3, 4):
        both.run_and_wait(step, 1e-3)
        assert any(isinstance(module, FP8Linear) for module in both.model.modules()) == (step <= 2)
        if step == 2:
            plain.model.load_state_dict(both.model.state_dict())
            for mine, other in zip(plain.optimizers, both.optimizers, strict=True):
                mine.load_state_dict(copy.deepcopy(other.state_dict()))
            plain.seek(both.batches.position)
        if step > 2:
            plain.run_and_wait(step, 1e-3)
    for found, expected in zip(both.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(found, expected)
    both.close()
    plain.close()


def test_validation_is_not_quantized():
    model = small_model().eval()
    tokens = torch.randint(90, (2, 17))
    assert torch.equal(
        head.FP8HeadLoss(model)(tokens[:, :-1], tokens[:, 1:]), TrainingLoss(model)(tokens[:, :-1], tokens[:, 1:])
    )


def test_a_device_without_8_bit_products_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="compute capability 8.9 or newer, not cpu"):
        fp8_loss(small_model(), TrainConfig(fp8="head"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert "this one has 8.0" in checks.device_problem(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert not checks.device_problem(torch.device("cuda"))


def test_sizes_that_the_kernels_cannot_take_are_refused():
    torch.manual_seed(0)
    model = build_model(ModelConfig(vocab_size=90, context_length=24, n_layer=1, n_head=2, n_embd=36))
    problems = checks.size_problems(model, TrainConfig(fp8="all"))
    assert "model.n_embd is 36" in problems[0]
    assert "24 tokens" in problems[1]
    assert any("blocks.0.mlp.up" in problem for problem in problems)
    assert not any("attention" in problem for problem in checks.size_problems(model, TrainConfig(fp8="mlp")))
    assert not checks.size_problems(small_model(), TrainConfig(fp8="all"))
    model.blocks[0].mlp = nn.Identity()
    assert "finds no linear layers" in checks.model_problems(model, TrainConfig(fp8="mlp"))[0]


@pytest.mark.parametrize(
    "settings",
    [{"precision": "fp32"}, {"deterministic": "on"}, {"sharding": "full"}, {"loss": "a:b"}, {"teacher": "runs/a"}],
)
def test_settings_that_exclude_8_bits(settings):
    assert any("train.fp8 head" in problem for problem in TrainConfig(fp8="head", **settings).problems())
    assert not any("fp8" in problem for problem in TrainConfig(**settings).problems())


def test_the_share_of_steps_in_8_bits():
    assert TrainConfig(max_steps=200, fp8="all", fp8_until=0.85).fp8_steps == 170
    assert TrainConfig(max_steps=200).fp8_steps == 0
    assert not TrainConfig(fp8="all", fp8_until=0.85).problems()
    for value in (0.0, 1.5, float("nan")):
        assert any("above 0 and at most 1" in problem for problem in TrainConfig(fp8="all", fp8_until=value).problems())
    assert any("train.fp8 is off" in problem for problem in TrainConfig(fp8_until=0.5).problems())
