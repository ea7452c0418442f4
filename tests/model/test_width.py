"""Initial weights and rates that follow the width, compared with the formulas of the papers."""

import dataclasses

import pytest
import torch

from glassgpt.errors import ConfigError
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.width import scaled_kinds
from glassgpt.training.config import OptimizerConfig
from glassgpt.training.optimizers import build_optimizers, parameter_groups, set_learning_rate

SHAPES = {
    "gpt2": ModelConfig(vocab_size=64, context_length=16, n_layer=2, n_head=2, n_embd=32),
    "modern": ModelConfig(arch="modern", vocab_size=64, context_length=16, n_layer=2, n_head=2, n_embd=32, bias=False),
    "llama": ModelConfig(arch="llama", vocab_size=64, context_length=16, n_layer=2, n_head=2, n_embd=32, bias=False),
    "llama-untied": ModelConfig(
        arch="llama", vocab_size=64, context_length=16, n_layer=2, n_head=2, n_embd=32, bias=False, tied_head=False
    ),
}


def built(name, width, base, seed=0):
    torch.manual_seed(seed)
    shape = SHAPES[name]
    return build_model(dataclasses.replace(shape, n_embd=width, n_head=width // 16, base_width=base))


def rates(model, config):
    groups = parameter_groups(model, config).values()
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: (group["rate_ratio"], group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_base_width_of_the_model_itself_changes_nothing(name, optimizer):
    plain, scaled = built(name, 32, 0), built(name, 32, 32)
    assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), scaled.parameters(), strict=True))
    config = OptimizerConfig(name=optimizer, head_weight_decay=0.2, embedding_rate_ratio=7.0, head_rate_ratio=0.3)
    assert rates(plain, config) == rates(scaled, config)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_stays_in_exactly_one_group(name, optimizer):
    model = built(name, 128, 32)
    held = [
        id(p)
        for o in build_optimizers(model, OptimizerConfig(name=optimizer))
        for g in o.param_groups
        for p in g["params"]
    ]
    assert sorted(held) == sorted(map(id, model.parameters()))


def test_adamw_follows_the_published_table():
    """Yang et al. 2022, table 8 (Adam), with weight decay by Dey et al. 2025: at four times the width."""
    config = OptimizerConfig(weight_decay=0.1, head_weight_decay=0.2, embedding_rate_ratio=3.0, vector_rate_ratio=0.5)
    found = rates(built("modern", 128, 32), config)
    assert found["token_embedding.weight"] == (3.0, 0.0)
    assert found["blocks.0.attention.q.weight"] == found["blocks.1.mlp.down.weight"] == (0.25, 0.4)
    assert found["lm_head.weight"] == (0.25, 0.8)
    found = rates(built("gpt2", 128, 32), config)
    assert found["token_embedding.weight"] == found["position_embedding.weight"] == (3.0, 0.0)
    assert found["blocks.0.attention.qkv.weight"] == (0.25, 0.4)
    assert found["blocks.0.norm1.weight"] == found["blocks.1.mlp.up.bias"] == (0.5, 0.0)
    assert found["norm.weight"] == found["norm.bias"] == (0.125, 0.0)


def test_muon_keeps_the_rate_of_matrices():
    found = rates(built("modern", 128, 32), OptimizerConfig(name="muon", weight_decay=0.1, head_rate_ratio=0.4))
    assert found["blocks.0.mlp.up.weight"] == (1.0, 0.1)
    assert found["lm_head.weight"] == (0.1, 0.0)


@pytest.mark.parametrize("name", SHAPES)
def test_initial_weights_shrink_with_the_width(name):
    plain, scaled = built(name, 128, 0), built(name, 128, 32)
    expected = {"embedding": 1.0, "vector": 1.0, "matrix": 0.5, "head": 0.25, "output": 0.25}
    kinds = scaled_kinds(scaled)
    for (key, one), other in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(other, one * expected[kinds[key]], rtol=1e-6, atol=0)


def test_last_norm_is_exactly_a_factor_of_the_logits():
    """Ten steps of AdamW with a smaller gain and rate are ten steps with the published factor of the tied head."""
    ours, theirs = built("gpt2", 128, 32).double(), built("gpt2", 128, 32).double()
    factor = 32 / 128
    for parameter in (theirs.norm.weight, theirs.norm.bias):
        parameter.data /= factor
    head = theirs.head
    theirs.head = lambda features: factor * head(features)
    rows = torch.randint(64, (8, 17), generator=torch.Generator().manual_seed(1))
    config = OptimizerConfig(epsilon=1e-300)
    losses = []
    for model in (ours, theirs):
        optimizers = build_optimizers(model, config)
        set_learning_rate(optimizers, 0.01)
        for group in optimizers[-1].param_groups:
            if model is theirs and any(p is theirs.norm.weight for p in group["params"]):
                group["lr"] /= factor
        found = []
        for _ in range(10):
            loss = torch.nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            found.append(loss.item())
        losses.append(found)
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert losses[0][-1] < losses[0][0] - 0.1


def test_impossible_width_is_refused():
    with pytest.raises(ConfigError, match=r"model\.base_width is -1; it must be between 1 and 1,048,576, or 0"):
        build_model(dataclasses.replace(SHAPES["gpt2"], base_width=-1))


def test_tied_head_behind_a_norm_without_gain_is_refused():
    model = built("modern", 32, 0)
    model.config = dataclasses.replace(model.config, base_width=64)
    model.parameter_kinds = lambda: {"token_embedding.weight": "embedding"}
    with pytest.raises(ConfigError, match=r"model\.base_width needs an untied head"):
        scaled_kinds(model)
