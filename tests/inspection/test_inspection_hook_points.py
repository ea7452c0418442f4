"""An architecture declares its activations in its own file; inspection knows none by class."""

import json

import pytest
import torch
from inspection_helpers import BYTES, TEXT
from torch import nn

from glassgpt.errors import InspectionError
from glassgpt.inspection.analysis import head_scores, logit_lens, strongest_units
from glassgpt.inspection.interventions import Patch, ScaleHead, ScaleMLP
from glassgpt.inspection.serialization import overview
from glassgpt.inspection.trace import trace
from glassgpt.model.activations import block_activations, captured, captured_heads, logits
from glassgpt.model.attention import attend
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import Block, LanguageModel

CONFIG = ModelConfig(vocab_size=257, context_length=32, n_layer=2, n_head=2, n_embd=8)
UNITS = 20


class ToyAttention(nn.Module):
    """Attention without positions, its queries, keys and values from one matrix each."""

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        for name in ("query", "key", "value", "out"):
            setattr(self, name, nn.Linear(config.n_embd, config.n_embd))

    def forward(self, x, cache=None):
        q, k, v = (
            each(x).unflatten(-1, (self.n_head, -1)).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        return self.out(attend(q, k, v, None, 0.0).transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    """An MLP with a multiplicative gate and an unusual number of units."""

    def __init__(self, config):
        super().__init__()
        self.up, self.gate = nn.Linear(config.n_embd, UNITS), nn.Linear(config.n_embd, UNITS)
        self.down = nn.Linear(UNITS, config.n_embd)

    def forward(self, x):
        return self.down(self.up(x) * self.gate(x).sigmoid())


class UndeclaredModel(LanguageModel):
    """A complete architecture that declares no activations."""

    def __init__(self, config):
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(
            Block(nn.LayerNorm(config.n_embd), ToyAttention(config), nn.LayerNorm(config.n_embd), GatedMLP(config))
            for _ in range(config.n_layer)
        )
        self.norm = nn.LayerNorm(config.n_embd)

    def embed(self, tokens, positions):
        return self.token_embedding(tokens)

    def head(self, features):
        return features @ self.token_embedding.weight.T

    def initial_std(self, name):
        return 0.02

    def parameter_kinds(self):
        return {name: "matrix" for name, _ in self.named_parameters()}


class ToyModel(UndeclaredModel):
    """The same with activations declared."""

    def activations(self):
        declared = {"embedding": captured("token_embedding", "row `tokens` of the embedding", ToyModel.embed)}
        for layer in range(self.config.n_layer):
            at = f"blocks.{layer}.attention"
            qkv = {
                f"{at}.{name[0]}": captured_heads(f"{at}.{name}", "norm1 · Wᵀ", ToyAttention, self.config.head_width)
                for name in ("query", "key", "value")
            }
            declared |= block_activations(self, layer, qkv, "mlp.up · sigmoid(gate)")
        norm = captured("norm", "LayerNorm(stream)", ToyModel.features, read_only=True)
        head = logits("norm · embeddingᵀ", ToyModel.head, lambda read: self.head(read("norm")))
        return {**declared, "norm": norm, "logits": head}


@pytest.fixture
def traced():
    torch.manual_seed(0)
    return trace(ToyModel(CONFIG).eval(), BYTES, TEXT)


def test_toy_architecture_is_traced(traced):
    assert torch.equal(traced["logits"], traced.model(traced["tokens"][None])[0])
    assert traced.describe("blocks.1.mlp.hidden").shape == (len(TEXT), UNITS)
    for name in traced.names():
        assert traced.describe(name).shape == tuple(traced[name].shape), name
    assert traced.describe("blocks.0.attention.q").source.file == "test_inspection_hook_points.py"
    values = traced["blocks.1.attention.v"]
    torch.testing.assert_close(traced["blocks.1.attention.weights"] @ values, traced["blocks.1.attention.mixed"])


def test_toy_architecture_is_analyzed_and_changed(traced):
    assert torch.equal(logit_lens(traced)[-1], traced["logits"])
    assert head_scores(traced).previous.shape == (2, 2)
    assert strongest_units(traced, 0, 3)[1].shape == (10, 8)
    for change in (ScaleHead(1, 0), ScaleMLP(0), Patch("blocks.0.output", "the dog saw the dog")):
        assert traced.intervene(change).difference("logits").abs().max() > 0
    assert json.loads(json.dumps(overview(traced)))["tensors"][-2]["name"].startswith("next.")


def test_architecture_without_activations_is_refused():
    with pytest.raises(
        InspectionError, match=r"UndeclaredModel declares no activations .* UndeclaredModel.activations"
    ):
        trace(UndeclaredModel(CONFIG).eval(), BYTES, TEXT)
