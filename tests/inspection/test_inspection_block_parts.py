"""Normalization, output projection and residual sum, compared with a plain forward pass of the same modules."""

import pytest
import torch
from inspection_helpers import ALL_ARCHITECTURES, BYTES, GPT2, TEXT

from glassgpt.inspection.details import detail
from glassgpt.inspection.interventions import ScaleHead
from glassgpt.inspection.trace import trace
from small_models import shaken

LAYER, POSITION = 1, 7


@pytest.fixture
def forward():
    """Return a function that gives the inputs and outputs of a block's modules by name, caught in a plain forward pass."""

    def run(model, tokens):
        caught = {}
        block = model.blocks[LAYER]
        for name in ("norm1", "attention", "attention.out", "norm2", "mlp", ""):
            module = block.get_submodule(name)
            module.register_forward_hook(
                lambda _, given, result, name=name: caught.update({name: (given[0][0], result[0])})
            )
        with torch.no_grad():
            model(tokens[None])
        return caught

    return run


@ALL_ARCHITECTURES
def test_normalizations_give_the_outputs_of_the_modules(config, forward):
    found = trace(shaken(config), BYTES, TEXT)
    caught = forward(shaken(config), found["tokens"])
    norms = detail(found, "norms", {"layer": LAYER})["norms"]
    for name, norm in zip(("norm1", "norm2"), norms, strict=True):
        before, after = caught[name]
        assert (norm["mean"] is None) == (config.arch != "gpt2")
        mean = 0 if norm["mean"] is None else torch.tensor(norm["mean"])[:, None]
        gain = torch.ones(config.n_embd) if norm["gain"] is None else torch.tensor(norm["gain"])
        bias = 0 if norm["bias"] is None else torch.tensor(norm["bias"])
        result = (before - mean) / torch.tensor(norm["scale"])[:, None] * gain + bias
        torch.testing.assert_close(result, after, atol=1e-5, rtol=1e-4)


@ALL_ARCHITECTURES
def test_heads_of_the_projection_are_separate_parts_of_its_output(config, forward):
    found = trace(shaken(config), BYTES, TEXT)
    mixed, output = (each[POSITION] for each in forward(shaken(config), found["tokens"])["attention.out"])
    shown = detail(found, "projection", {"layer": LAYER, "position": POSITION})
    assert shown["sum"] == pytest.approx(float(output.norm()), rel=1e-4)
    out, width = found.model.blocks[LAYER].attention.out, config.head_width
    for head, each in enumerate(shown["heads"]):
        alone = torch.zeros_like(mixed)
        alone[head * width : (head + 1) * width] = mixed[head * width : (head + 1) * width]
        with torch.no_grad():
            added = out(alone) - out(torch.zeros_like(mixed))
        assert each["norm"] == pytest.approx(float(added.norm()), rel=1e-3, abs=1e-6)
        assert each["cosine"] == pytest.approx(float(torch.cosine_similarity(added, output, dim=0)), abs=1e-3)
    assert (shown["bias"] is None) == (out.bias is None)


def test_an_ablated_head_adds_nothing():
    found = trace(shaken(GPT2), BYTES, TEXT).intervene(ScaleHead(LAYER, 1))
    heads = detail(found, "projection", {"layer": LAYER, "position": POSITION})["heads"]
    assert [each["norm"] > 0 for each in heads] == [True, False, True]


@ALL_ARCHITECTURES
def test_residual_sums_follow_the_stream(config, forward):
    found = trace(shaken(config), BYTES, TEXT)
    caught = forward(shaken(config), found["tokens"])
    before, attention, middle, mlp, after = (
        caught["norm1"][0],
        caught["attention"][1],
        caught["norm2"][0],
        caught["mlp"][1],
        caught[""][1],
    )
    shown = detail(found, "sums", {"layer": LAYER})
    for norms, part in zip(shown["norms"], (before, attention, middle, mlp, after), strict=True):
        assert norms == pytest.approx(part.norm(dim=-1).tolist(), rel=1e-4)
    pairs = ((attention, before), (middle, before), (mlp, middle), (after, middle))
    for cosines, (one, other) in zip(shown["cosines"], pairs, strict=True):
        assert cosines == pytest.approx(torch.cosine_similarity(one, other, dim=-1).tolist(), abs=1e-4)
