"""The trace is the run's own: bit-equal, complete, described truly, and the model stays as it was."""

import copy

import pytest
import torch
from test_interchange import SHAPES as ORACLE_SHAPES
from test_interchange import config_of
from test_model import SHAPES, shaken

from glassgpt.data import load_tokenizer
from glassgpt.errors import GenerationError, InspectionError, TokenizerError
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection.analysis import head_outputs
from glassgpt.inspection.trace import MOST_BYTES, trace, trace_tokens
from glassgpt.model.activations import repeat_kv_heads
from glassgpt.model.attention import attention_weights
from glassgpt.model.config import ModelConfig

BYTES = load_tokenizer("bytes")
ORACLE = [
    config_of({"vocab_size": 257, "n_positions": context, "n_layer": layers, "n_head": heads, "n_embd": width})
    for context, layers, heads, width in ORACLE_SHAPES
]
GPT2 = ModelConfig(vocab_size=257, context_length=48, n_layer=3, n_head=3, n_embd=24)
MODERN = ModelConfig(
    arch="modern", vocab_size=260, context_length=48, n_layer=3, n_head=4, n_kv_head=2, n_embd=24, window=5, bias=False
)
BOTH = pytest.mark.parametrize("config", [GPT2, MODERN], ids=lambda config: config.arch)
TEXT = "the cat saw the cat"


class SmallVocabulary:
    """Stands for a tokenizer of the model's size; nothing is cut here."""

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size
        self.end_of_text = vocab_size - 1
        self.name = "small"

    def token_bytes(self, token):
        return bytes([token % 256])


def tokens_of(config):
    length = config.context_length
    return torch.randint(config.vocab_size, (length,), generator=torch.Generator().manual_seed(2)).tolist()


@pytest.mark.parametrize("config", [*SHAPES, *ORACLE], ids=lambda c: f"{c.arch}-{c.n_layer}x{c.n_head}x{c.n_embd}")
def test_traced_is_untraced_bit_for_bit(config):
    model = shaken(config)
    tokens = tokens_of(config)
    untraced = model(torch.tensor([tokens]))[0]
    traced = trace_tokens(model, SmallVocabulary(config.vocab_size), tokens)
    assert torch.equal(traced["logits"], untraced)
    assert torch.equal(traced["norm"], model.features(torch.tensor([tokens]))[0])


@BOTH
def test_every_tensor_is_as_it_is_described(config):
    traced = trace(shaken(config), BYTES, TEXT, GenerationOptions(top_k=5))
    for name in traced.names():
        described = traced.describe(name)
        assert described.shape == tuple(traced[name].shape), name
        assert not traced[name].requires_grad
        assert described.unit
        assert described.formula
        assert described.source.file.startswith("glassgpt/")
        assert described.source.first < described.source.last
    assert traced.stages() == ["next.model", "next.temperature", "next.top_k", "next.top_p"]


@BOTH
def test_the_parts_add_up(config):
    """The residual stream is what the blocks added; the readable attention mixes what the fast one mixed."""
    traced = trace(shaken(config), BYTES, TEXT)
    for layer in range(config.n_layer):
        at = f"blocks.{layer}"
        assert torch.equal(traced[f"{at}.input"] + traced[f"{at}.attention.output"], traced[f"{at}.middle"])
        assert torch.equal(traced[f"{at}.middle"] + traced[f"{at}.mlp.output"], traced[f"{at}.output"])
        weights = traced[f"{at}.attention.weights"]
        assert not weights[~traced[f"{at}.attention.mask"].expand_as(weights)].any()
        mixed = weights @ repeat_kv_heads(traced[f"{at}.attention.v"], config.n_head)
        torch.testing.assert_close(mixed, traced[f"{at}.attention.mixed"], rtol=1e-5, atol=1e-5)
        scores = traced[f"{at}.attention.scores"].masked_fill(~traced[f"{at}.attention.mask"], -torch.inf)
        torch.testing.assert_close(scores.softmax(-1), weights)
        bias = getattr(traced.model.blocks[layer].attention.out, "bias", None)
        heads = head_outputs(traced.model, layer, traced[f"{at}.attention.mixed"]).sum(0)
        total = heads if bias is None else heads + bias
        torch.testing.assert_close(total, traced[f"{at}.attention.output"], rtol=1e-4, atol=1e-5)


def test_the_weights_are_those_of_the_queries_that_the_model_compares():
    """Recorded in the model's own call of the attention seam, which the trace never listens to."""
    model = shaken(MODERN)
    seen = []

    def listening(q, k, v, mask, dropout, window=0):
        seen.append(attention_weights(q, k.repeat_interleave(2, dim=1), mask, window)[0])
        return original(q, k, v, mask, dropout, window)

    original = model.blocks[0].attention.attend
    traced = trace(model, BYTES, TEXT)
    for block in model.blocks:
        block.attention.attend = listening
    model(torch.tensor([traced.tokens]))
    for layer, weights in enumerate(seen):
        assert torch.equal(traced[f"blocks.{layer}.attention.weights"], weights)


@BOTH
def test_views_where_a_view_serves(config):
    traced = trace(shaken(config), BYTES, TEXT)
    first = traced["blocks.0.input"]
    assert first.data_ptr() == traced["embedding"].data_ptr()
    assert traced["blocks.1.attention.v"].untyped_storage().data_ptr() != 0
    q = "q" if config.arch == "gpt2" else "q.projected"
    assert traced[f"blocks.1.attention.{q}"]._base is not None
    assert traced["blocks.1.attention.mixed"]._base is not None


@BOTH
def test_the_model_stays_as_it_was(config):
    model = shaken(config).train()
    before = copy.deepcopy(model.state_dict())
    traced = trace(model, BYTES, TEXT)
    for name in traced.names():
        _ = traced[name]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_next_token_is_that_of_generation():
    from glassgpt.generation.engine.generate import generate

    model = shaken(GPT2)
    options = GenerationOptions(temperature=0, max_tokens=1, repetition_penalty=3.0)
    traced = trace(model, BYTES, TEXT, options)
    assert traced.stages() == ["next.model", "next.repetition_penalty"]
    drawn = generate(model, BYTES, TEXT, options)[0]
    assert drawn.tokens == [int(traced["next.repetition_penalty"].argmax())]
    torch.testing.assert_close(traced["next.model"], traced["logits"][-1].softmax(-1))


def test_other_options_need_no_other_run(monkeypatch):
    traced = trace(shaken(GPT2), BYTES, TEXT)
    monkeypatch.setattr("glassgpt.inspection.trace.record", None)
    other = traced.with_options(GenerationOptions(temperature=1, top_p=1, top_k=3))
    assert other.stages() == ["next.model", "next.top_k"]
    assert int((other["next.top_k"] > 0).sum()) == 3
    assert other["logits"] is traced["logits"]
    assert traced.stages() == ["next.model", "next.temperature", "next.top_p"]
    with pytest.raises(GenerationError, match="top_k"):
        traced.with_options(GenerationOptions(top_k=-1))


def test_what_cannot_be_traced_is_refused_in_a_line():
    model = shaken(GPT2)
    with pytest.raises(InspectionError, match="the text is empty"):
        trace(model, BYTES, "")
    with pytest.raises(InspectionError, match="49 tokens; allowed are 1 to 48"):
        trace(model, BYTES, "a" * 49)
    with pytest.raises(InspectionError, match="at most 100,000"):
        trace(model, BYTES, "é" * MOST_BYTES)
    with pytest.raises(TokenizerError, match="lone surrogate"):
        trace(model, BYTES, "\ud800")
    with pytest.raises(TokenizerError, match="outside the vocabulary"):
        trace_tokens(model, BYTES, [999])
    with pytest.raises(InspectionError, match="did you mean blocks.0.attention.weights"):
        _ = trace(model, BYTES, "a")["blocks.0.attention.weight"]
    with pytest.raises(InspectionError, match="undisturbed"):
        trace(model, BYTES, "a").difference("logits")


def test_without_a_text_a_document_begins():
    traced = trace(shaken(GPT2), BYTES, None)
    assert traced.tokens == [BYTES.end_of_text]
    assert traced.pretokens == []
    assert len(traced["bytes"]) == 0
    assert bytes(trace(shaken(GPT2), BYTES, "añ")["bytes"].tolist()) == "añ".encode()


def test_little_is_kept_of_what_is_computed(monkeypatch):
    traced = trace(shaken(GPT2), BYTES, TEXT)
    assert traced["logits"] is traced["logits"]
    monkeypatch.setattr("glassgpt.inspection.trace.MOST_KEPT", traced["blocks.0.attention.weights"].nbytes * 2)
    first = traced["blocks.0.attention.weights"]
    assert traced["blocks.1.attention.weights"] is traced["blocks.1.attention.weights"]
    assert traced["blocks.2.attention.weights"] is not first
    assert traced["blocks.0.attention.weights"] is not first
    assert torch.equal(traced["blocks.0.attention.weights"], first)
