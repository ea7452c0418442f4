"""Traces: bit-identical to the model, complete, correctly described, and without side effects on the model."""

import copy

import pytest
import torch
from inspection_helpers import ALL_ARCHITECTURES, BYTES, GPT2, MODERN, TEXT
from test_interchange import SHAPES as ORACLE_SHAPES
from test_interchange import config_of
from test_model import SHAPES, shaken

from glassgpt.errors import GenerationError, InspectionError, TokenizerError
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection.analysis import head_outputs
from glassgpt.inspection.trace import MAX_TEXT_BYTES, trace, trace_tokens
from glassgpt.model.activations import repeat_kv_heads
from glassgpt.model.attention import attention_weights

ORACLE = [
    config_of({"vocab_size": 257, "n_positions": context, "n_layer": layers, "n_head": heads, "n_embd": width})
    for context, layers, heads, width in ORACLE_SHAPES
]


class SmallVocabulary:
    """A tokenizer of any vocabulary size; it never tokenizes."""

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
def test_traced_logits_are_bit_identical(config):
    model = shaken(config)
    tokens = tokens_of(config)
    untraced = model(torch.tensor([tokens]))[0]
    traced = trace_tokens(model, SmallVocabulary(config.vocab_size), tokens)
    assert torch.equal(traced["logits"], untraced)
    assert torch.equal(traced["norm"], model.features(torch.tensor([tokens]))[0])


@ALL_ARCHITECTURES
def test_every_activation_matches_its_description(config):
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


@ALL_ARCHITECTURES
def test_residual_stream_sums_and_attention_matches_the_reference(config):
    """Blocks add to the residual stream; the reference attention mixes the same values as the fast one."""
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


def test_weights_equal_those_of_the_attention_call():
    """Recorded in the model's own call of the attention function, which is no hook point."""
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


@ALL_ARCHITECTURES
def test_captured_activations_are_views(config):
    traced = trace(shaken(config), BYTES, TEXT)
    first = traced["blocks.0.input"]
    assert first.data_ptr() == traced["embedding"].data_ptr()
    assert traced["blocks.1.attention.v"].untyped_storage().data_ptr() != 0
    q = "q" if config.arch == "gpt2" else "q.projected"
    assert traced[f"blocks.1.attention.{q}"]._base is not None
    assert traced["blocks.1.attention.mixed"]._base is not None


@ALL_ARCHITECTURES
def test_tracing_does_not_modify_the_model(config):
    model = shaken(config).train()
    before = copy.deepcopy(model.state_dict())
    traced = trace(model, BYTES, TEXT)
    for name in traced.names():
        _ = traced[name]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_next_token_equals_generation():
    from glassgpt.generation.engine.generate import generate

    model = shaken(GPT2)
    options = GenerationOptions(temperature=0, max_tokens=1, repetition_penalty=3.0)
    traced = trace(model, BYTES, TEXT, options)
    assert traced.stages() == ["next.model", "next.repetition_penalty"]
    drawn = generate(model, BYTES, TEXT, options)[0]
    assert drawn.tokens == [int(traced["next.repetition_penalty"].argmax())]
    torch.testing.assert_close(traced["next.model"], traced["logits"][-1].softmax(-1))


def test_other_options_do_not_rerun_the_model(monkeypatch):
    traced = trace(shaken(GPT2), BYTES, TEXT)
    monkeypatch.setattr("glassgpt.inspection.trace.capture_activations", None)
    other = traced.with_options(GenerationOptions(temperature=1, top_p=1, top_k=3))
    assert other.stages() == ["next.model", "next.top_k"]
    assert int((other["next.top_k"] > 0).sum()) == 3
    assert other["logits"] is traced["logits"]
    assert traced.stages() == ["next.model", "next.temperature", "next.top_p"]
    with pytest.raises(GenerationError, match="top_k"):
        traced.with_options(GenerationOptions(top_k=-1))


def test_invalid_texts_are_refused():
    model = shaken(GPT2)
    with pytest.raises(InspectionError, match="the text is empty"):
        trace(model, BYTES, "")
    with pytest.raises(InspectionError, match="49 tokens; it must have from 1 to 48"):
        trace(model, BYTES, "a" * 49)
    with pytest.raises(InspectionError, match="at most 100,000"):
        trace(model, BYTES, "é" * MAX_TEXT_BYTES)
    with pytest.raises(TokenizerError, match="lone surrogate"):
        trace(model, BYTES, "\ud800")
    with pytest.raises(TokenizerError, match="outside the vocabulary"):
        trace_tokens(model, BYTES, [999])
    with pytest.raises(InspectionError, match="did you mean blocks.0.attention.weights"):
        _ = trace(model, BYTES, "a")["blocks.0.attention.weight"]
    with pytest.raises(InspectionError, match="no interventions"):
        trace(model, BYTES, "a").difference("logits")


def test_no_text_means_the_beginning_of_a_document():
    traced = trace(shaken(GPT2), BYTES, None)
    assert traced.tokens == [BYTES.end_of_text]
    assert traced.pretokens == []
    assert len(traced["bytes"]) == 0
    assert bytes(trace(shaken(GPT2), BYTES, "añ")["bytes"].tolist()) == "añ".encode()


def test_derived_activations_are_cached_within_a_budget(monkeypatch):
    size = trace(shaken(GPT2), BYTES, TEXT)["blocks.0.attention.weights"].nbytes
    monkeypatch.setattr("glassgpt.inspection.trace.MAX_CACHED_BYTES", size * 2)
    traced = trace(shaken(GPT2), BYTES, TEXT)
    assert traced["logits"] is traced["logits"]
    first = traced["blocks.0.attention.weights"]
    assert traced["blocks.1.attention.weights"] is traced["blocks.1.attention.weights"]
    assert traced["blocks.2.attention.weights"] is not first
    assert traced["blocks.0.attention.weights"] is not first
    assert torch.equal(traced["blocks.0.attention.weights"], first)
