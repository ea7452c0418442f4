"""Rounding to integers, GPTQ and the storage of quantized matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from glassgpt.compression import gptq as gptq_module
from glassgpt.compression.gptq import gptq, quantize_blocks
from glassgpt.compression.layerwise import DAMPING, input_grams
from glassgpt.compression.methods.int4 import Int4
from glassgpt.compression.rounding import round_to_int4, round_to_int8
from glassgpt.evaluation.observer import SILENT
from glassgpt.model.quantized import split_quantized, weight_count
from small_models import attentive_model

GROUP = 32


def inputs(n=512, width=96, seed=0):
    """Inputs whose channels are correlated and of very different size, as in a trained model."""
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(99)) * torch.logspace(-1, 1, width)
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) @ mix / width**0.5


def matrix(rows=24, width=96, seed=1):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 0.02


@given(st.integers(1, 5), st.integers(1, 3), st.floats(1e-12, 1e4), st.sampled_from(["int8", "int4"]))
@settings(max_examples=40, deadline=None)
def test_stored_matrix_is_read_back_equal(rows, groups, size, kind):
    weight = matrix(rows, groups * GROUP) * size
    quantized = round_to_int8(weight) if kind == "int8" else round_to_int4(weight, GROUP)
    tensors = {**quantized.tensors("w.weight"), "other.bias": torch.ones(3)}
    floats, found = split_quantized(tensors)
    assert list(floats) == ["other.bias"]
    assert torch.equal(found["w.weight"].dequantize(), quantized.dequantize())
    assert found["w.weight"].group_size == (groups * GROUP if kind == "int8" else GROUP)
    assert sum(weight_count(name, tensor.numel()) for name, tensor in tensors.items()) == weight.numel() + 3


def test_int8_is_within_half_a_step_and_keeps_its_integers_when_rounded_again():
    weight = matrix()
    quantized = round_to_int8(weight)
    steps = weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((quantized.dequantize() - weight).abs() <= 0.501 * steps).all()
    assert torch.equal(round_to_int8(quantized.dequantize()).integers, quantized.integers)


def test_int4_is_within_half_a_step():
    weight = matrix()
    quantized = round_to_int4(weight, GROUP)
    grouped = weight.unflatten(1, (-1, GROUP))
    steps = (grouped.amax(2) - grouped.amin(2)) / 15
    error = (quantized.dequantize() - weight).unflatten(1, (-1, GROUP)).abs().amax(2)
    assert (error <= 0.52 * steps).all()  # scales and offsets have 11 bits
    assert int(quantized.integers.max()) == 15
    assert int(quantized.integers.min()) == 0


@pytest.mark.parametrize("weight", [torch.zeros(2, GROUP), torch.full((2, GROUP), 0.5), torch.full((2, GROUP), -1e-9)])
def test_constant_groups_survive(weight):
    for quantized in (round_to_int8(weight), round_to_int4(weight, GROUP), gptq(weight, torch.eye(GROUP), GROUP)):
        assert torch.allclose(quantized.dequantize(), weight, rtol=1e-2, atol=1e-7)


def test_gptq_with_independent_inputs_is_rounding_to_nearest(monkeypatch):
    monkeypatch.setattr(gptq_module, "SHRINK", (1.0,))
    weight = matrix(40, 160)
    found = gptq(weight, torch.diag(torch.logspace(-1, 1, 160)), GROUP)
    expected = round_to_int4(weight, GROUP)
    assert torch.equal(found.integers, expected.integers)
    assert torch.equal(found.dequantize(), expected.dequantize())


def test_gptq_changes_the_outputs_less_than_rounding_to_nearest():
    x, weight = inputs(width=320), matrix(width=320)  # more than one lazy batch of columns
    unseen = inputs(width=320, seed=7)
    found = gptq(weight, x.T @ x / len(x), GROUP)
    nearest = round_to_int4(weight, GROUP)
    for text, factor in ((x, 0.6), (unseen, 0.9)):
        error, reference = (float((text @ (q.dequantize() - weight).T).norm()) for q in (found, nearest))
        assert error < factor * reference


def test_gptq_column_by_column_follows_the_formula(monkeypatch):
    """One column at a time with an explicit inverse (Frantar et al. 2022, eq. 2 and 3), without Cholesky or lazy updates."""
    monkeypatch.setattr(gptq_module, "SHRINK", (1.0,))
    x, weight = inputs(width=64).double().float(), matrix(6, 64)
    gram = x.T @ x / len(x)
    found = gptq(weight, gram, GROUP)
    order = gram.diagonal().argsort(descending=True, stable=True)
    damped = (gram + DAMPING * gram.diagonal().mean() * torch.eye(64)).double()
    work, expected = weight.double().clone(), torch.empty(6, 64)
    left = order.tolist()
    for column in order.tolist():
        inverse = torch.linalg.inv(damped[left][:, left])  # of the columns that are not rounded yet; this one is first
        scale, offset = (part[:, column // GROUP].double() for part in (found.scales, found.offsets))
        expected[:, column] = ((work[:, column] - offset) / scale).round().clamp(0, 15)
        error = work[:, column] - expected[:, column] * scale - offset
        work[:, left] -= error[:, None] / inverse[0, 0] * inverse[0]
        left.remove(column)
    assert (found.integers == expected).float().mean() > 0.99  # ties aside


def test_without_offsets_zero_is_a_level_and_errors_are_made_up_for():
    weight, x = matrix(), inputs()
    weight[0, :GROUP] = 0
    found, nearest = (
        gptq(weight, x.T @ x / len(x), GROUP, symmetric=True),
        round_to_int4(weight, GROUP, symmetric=True),
    )
    for quantized in (found, nearest):
        assert torch.equal(quantized.offsets, quantized.scales * -8)
    assert torch.equal(nearest.dequantize()[0, :GROUP], torch.zeros(GROUP))
    grouped = weight.unflatten(1, (-1, GROUP))
    steps = grouped.abs().amax(2) / 8
    error = (nearest.dequantize() - weight).unflatten(1, (-1, GROUP)).abs().amax(2)
    assert (error <= 1.01 * steps).all()  # half a step, and a whole one for the end that has seven levels
    cost = [float((x @ (each.dequantize() - weight).T).square().mean()) for each in (found, nearest)]
    assert cost[0] < 0.7 * cost[1]


def test_gram_matrices_are_those_of_each_layers_inputs():
    block = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    states = [torch.randn(1, 5, 4), torch.randn(1, 7, 4)]
    x = torch.cat(states, dim=1)[0]
    grams = input_grams(block, states)
    y = block[0](x).detach()
    assert torch.allclose(grams["0"], x.T @ x / 12, atol=1e-6)
    assert torch.allclose(grams["1"].detach(), y.T @ y / 12, atol=1e-6)


@pytest.mark.parametrize("arch", ["gpt2", "modern"])
def test_model_is_quantized_block_by_block_and_stays_as_it_was(arch):
    shape = {"arch": "modern", "bias": False} if arch == "modern" else {}
    model = attentive_model(n_embd=64, n_head=2, **shape)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    text = torch.randint(model.config.vocab_size, (4, 16), generator=torch.Generator().manual_seed(0))
    compressed = Int4().apply(model, text, SILENT.progress)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    bits = {name: matrix.bits for name, matrix in compressed.quantized.items()}
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert bits == {
        **{name: 4 for name in linear if name.startswith("blocks.")},
        **{name: 8 for name in (linear | {"token_embedding.weight"}) if not name.startswith("blocks.")},
    }
    for name, matrix in compressed.quantized.items():
        assert torch.equal(dict(compressed.named_parameters())[name], matrix.dequantize())
    # The second block saw the outputs of the quantized first one.
    alone = quantize_blocks(model, text, GROUP, SILENT.progress)
    assert alone.keys() == {name for name in bits if bits[name] == 4}
