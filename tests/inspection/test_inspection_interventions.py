"""Interventions have their documented effect and leave the model unchanged."""

import copy
import functools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inspection_helpers import ALL_ARCHITECTURES, BYTES, GPT2, MODERN, TEXT

from glassgpt.errors import InspectionError
from glassgpt.inspection.analysis import divergence
from glassgpt.inspection.interventions import (
    Patch,
    ScaleAttention,
    ScaleBlock,
    ScaleHead,
    ScaleMLP,
    ScalePosition,
    from_json,
    to_json,
)
from glassgpt.inspection.trace import trace
from small_models import shaken

OTHER = "the dog saw the dog"
ALL = [
    ScaleHead(1, 2),
    ScaleHead(1, 0, scale=0.5),
    ScaleAttention(0),
    ScaleMLP(2, scale=-1.0),
    ScaleBlock(1),
    ScalePosition(3),
    ScalePosition(-2, scale=2.0, layer=1),
    Patch("blocks.0.output", OTHER, positions=(5,)),
    Patch("blocks.1.attention.mixed", OTHER, positions=(4, 5), sources=(5, 6), head=1),
    Patch("embedding", OTHER),
]


@pytest.fixture(scope="module", params=[GPT2, MODERN], ids=lambda config: config.arch)
def traced(request):
    return trace(shaken(request.param), BYTES, TEXT)


def without_block(model, layer):
    shorter = copy.deepcopy(model)
    del shorter.blocks[layer]
    return shorter


@pytest.mark.parametrize("layer", range(3))
def test_ablating_a_block_equals_removing_it(traced, layer):
    removed = without_block(traced.model, layer)(traced["tokens"][None])[0]
    for changes in ([ScaleBlock(layer)], [ScaleAttention(layer), ScaleMLP(layer)]):
        assert torch.equal(traced.intervene(*changes)["logits"], removed)


def test_ablated_head_adds_nothing(traced):
    """Reference: zero the columns of the output projection that read the head."""
    model = copy.deepcopy(traced.model)
    width = model.config.head_width
    with torch.no_grad():
        model.blocks[1].attention.out.weight[:, 2 * width : 3 * width] = 0
    changed = traced.intervene(ScaleHead(1, 2))
    torch.testing.assert_close(changed["logits"], model(traced["tokens"][None])[0], rtol=1e-4, atol=1e-4)
    assert changed["blocks.1.attention.mixed"][2].abs().max() == 0
    assert torch.equal(changed["blocks.1.attention.mixed"][1], traced["blocks.1.attention.mixed"][1])


def test_ablated_position_is_never_read(traced):
    """Reference: in the first block, mix the values with that column of weights set to zero."""
    changed = traced.intervene(ScalePosition(3, layer=0))
    at = "blocks.0.attention"
    weights = traced[f"{at}.weights"].clone()
    weights[:, :, 3] = 0
    values = traced[f"{at}.v"].repeat_interleave(traced.model.config.n_head // traced[f"{at}.v"].size(0), dim=0)
    torch.testing.assert_close(changed[f"{at}.mixed"], weights @ values, rtol=1e-5, atol=1e-5)
    assert torch.equal(changed["logits"][:3], traced["logits"][:3])
    assert changed.difference("logits")[3:].abs().max() > 0
    assert torch.equal(traced.intervene(ScalePosition(3 - len(traced), layer=0))["logits"], changed["logits"])


@pytest.mark.parametrize(
    "change", [ScaleHead(1, 1, 1.0), ScaleMLP(0, 1.0), ScalePosition(2, 1.0), ScaleAttention(1, 1.0)]
)
def test_scale_of_one_changes_nothing(traced, change):
    assert torch.equal(traced.intervene(change)["logits"], traced["logits"])


def test_patching_everything_gives_the_other_prompt(traced):
    other = traced.of_text(OTHER)
    for name in ("embedding", "blocks.0.output", "blocks.2.output"):
        assert torch.equal(traced.intervene(Patch(name, OTHER))["logits"], other["logits"])


def test_patching_with_itself_changes_nothing(traced):
    names = [name for name in traced.names() if getattr(traced.activation(name).origin, "read_only", True) is False]
    assert {"embedding", "blocks.1.norm1", "blocks.1.mlp.hidden", "blocks.1.attention.v"} <= set(names)
    for name in names:
        assert torch.equal(traced.intervene(Patch(name, TEXT, positions=(1, -1)))["logits"], traced["logits"]), name


def test_patch_replaces_only_the_given_positions_and_head(traced):
    name = "blocks.1.attention.mixed"
    changed = traced.intervene(Patch(name, OTHER, positions=(4, 5), sources=(5, 6), head=1))
    expected = traced[name].clone()
    expected[1, [4, 5]] = traced.of_text(OTHER)[name][1, [5, 6]]
    assert torch.equal(changed[name], expected)


def test_interventions_apply_in_order(traced):
    first, second = ScaleMLP(1, 0.5), ScaleHead(2, 0)
    together = traced.intervene(first, second)
    apart = traced.intervene(first).intervene(second)
    assert torch.equal(together["logits"], apart["logits"])
    assert together.interventions == apart.interventions == (first, second)
    assert together.base is traced
    assert apart.base is not None
    assert apart.base.interventions == (first,)
    half_twice = traced.intervene(ScaleMLP(1, 0.5), ScaleMLP(1, 0.5))
    assert torch.equal(half_twice["logits"], traced.intervene(ScaleMLP(1, 0.25))["logits"])


def test_difference_is_relative_to_the_base(traced):
    changed = traced.intervene(ScaleBlock(1))
    assert torch.equal(changed.difference("blocks.1.input"), torch.zeros(len(traced), 24))
    torch.testing.assert_close(
        changed.difference("blocks.1.output"), traced["blocks.1.input"] - traced["blocks.1.output"]
    )
    assert divergence(changed).min() >= -1e-6
    assert divergence(changed).max() > 0.01


@ALL_ARCHITECTURES
@pytest.mark.parametrize("change", ALL, ids=str)
def test_interventions_do_not_modify_the_model(config, change):
    model = shaken(config)
    before = copy.deepcopy(model.state_dict())
    traced = trace(model, BYTES, TEXT)
    untouched = {name: traced[name].clone() for name in traced.names()}
    assert not torch.equal(traced.intervene(change)["logits"], traced["logits"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(traced[name], value) for name, value in untouched.items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_exception_leaves_no_hooks(monkeypatch):
    model = shaken(GPT2)
    traced = trace(model, BYTES, TEXT)

    def broken(*_):
        raise RuntimeError("stop")

    monkeypatch.setattr("glassgpt.model.gpt2.MLP.forward", broken)
    with pytest.raises(RuntimeError, match="stop"):
        traced.intervene(ScaleHead(0, 0))
    monkeypatch.undo()
    assert torch.equal(model(traced["tokens"][None])[0], traced["logits"])
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("change", ALL, ids=str)
def test_json_round_trip(change):
    assert from_json(json.loads(json.dumps(to_json(change)))) == change


values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=4), st.lists(st.integers())
)


@functools.cache
def trace_of_two_letters():
    return trace(shaken(GPT2), BYTES, "ab")


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["layer", "head", "scale", "position", "name", "text", "positions", "x"]), values),
    st.sampled_from(["head", "mlp", "block", "position", "patch", "nothing", None]),
)
def test_any_json_is_accepted_or_refused_in_one_line(attributes, kind):
    traced = trace_of_two_letters()
    refused = "refused"
    try:
        traced.intervene(from_json({"kind": kind, **attributes}))
    except InspectionError as error:
        refused = str(error)
    assert len(refused.splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (ScaleHead(3, 0), "no block 3; the model has blocks 0 to 2"),
        (ScaleHead(0, 9), "no head 9"),
        (ScaleMLP(-1), "no block -1"),
        (ScaleMLP(0, math.nan), "the scale must be .*, not nan"),
        (ScalePosition(99), "no position 99; the text has positions 0 to 18"),
        (Patch("blocks.0.middle", OTHER), "is read-only"),
        (Patch("norm", OTHER), "is read-only"),
        (Patch("logits", OTHER), "is read-only"),
        (Patch("nothing", OTHER), "no activation nothing"),
        (Patch("embedding", "a"), "19 positions of embedding from 1 positions"),
        (Patch("embedding", OTHER, (1,), (2, 3)), "1 positions of embedding from 2 positions"),
        (Patch("embedding", OTHER, head=1), "has no heads"),
        (Patch("embedding", ""), "the text is empty"),
    ],
    ids=str,
)
def test_invalid_intervention_is_refused(traced, change, message):
    with pytest.raises(InspectionError, match=message):
        traced.intervene(change)
