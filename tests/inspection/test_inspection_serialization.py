"""Serialization for the page, and traces through checkpoints."""

import json

import numpy as np
import pytest
import torch
from inspection_helpers import ALL_ARCHITECTURES, BYTES, GPT2, TEXT

from glassgpt.errors import CheckpointError, InspectionError, TokenizerError
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection.checkpoint_traces import CACHED_TRACES, trace_checkpoints
from glassgpt.inspection.interventions import ScaleHead
from glassgpt.inspection.serialization import overview, tensor_bytes
from glassgpt.inspection.trace import trace
from small_models import shaken

HOSTILE = "<img src=x onerror=1>\x00\x1b[31m\u202eab\U0001f600"


@ALL_ARCHITECTURES
def test_overview_is_json_and_correct(config):
    traced = trace(shaken(config), BYTES, TEXT, GenerationOptions(top_k=3))
    result = json.loads(json.dumps(overview(traced), allow_nan=False))
    assert result["text"] == TEXT
    assert [token["id"] for token in result["tokens"]] == traced.tokens
    assert [tensor["name"] for tensor in result["tensors"]] == traced.names()
    assert result["replaceable"] == [name for name in traced.names() if name in traced.patchable()]
    assert result["interventions"] == []


def test_overview_lists_interventions():
    changed = trace(shaken(GPT2), BYTES, TEXT).intervene(ScaleHead(1, 1))
    result = json.loads(json.dumps(overview(changed), allow_nan=False))
    assert result["interventions"] == [{"kind": "head", "layer": 1, "head": 1, "scale": 0.0}]


def test_hostile_text_is_plain_data():
    result = json.loads(json.dumps(overview(trace(shaken(GPT2), BYTES, HOSTILE))))
    assert result["text"] == HOSTILE
    assert "".join(token["piece"] for token in result["tokens"]).isprintable()
    assert bytes.fromhex("".join(token["bytes"] for token in result["tokens"])) == HOSTILE.encode()


@ALL_ARCHITECTURES
def test_tensor_bytes_equal_the_tensors(config):
    traced = trace(shaken(config), BYTES, TEXT)
    for name in traced.names():
        raw, shape = tensor_bytes(traced, name)
        values = np.frombuffer(raw, "<f4").reshape(shape)
        assert np.array_equal(values, traced[name].float().numpy(), equal_nan=True), name
    raw, shape = tensor_bytes(traced, "blocks.1.attention.weights", 2, 7)
    assert shape == (len(traced),)
    assert np.array_equal(np.frombuffer(raw, "<f4"), traced["blocks.1.attention.weights"][2, 7].numpy())


def test_invalid_requests_are_refused_before_computing(monkeypatch):
    traced = trace(shaken(GPT2), BYTES, TEXT)
    monkeypatch.setattr(type(traced), "__getitem__", lambda self, name: self._inputs[name])
    with pytest.raises(InspectionError, match=r"has 1,083 values, more than 500 per response; request a slice"):
        tensor_bytes(traced, "blocks.0.attention.weights", max_values=500)
    for index in ((9,), (-1,), (0, 0, 0, 0)):
        with pytest.raises(InspectionError, match="is out of range for"):
            tensor_bytes(traced, "blocks.0.attention.weights", *index)
    with pytest.raises(InspectionError, match="did you mean"):
        tensor_bytes(traced, "blocks.0.attention.weigths")


def test_checkpoint_traces_cover_every_checkpoint(nano_run):
    checkpoints = trace_checkpoints(nano_run, "the old king")
    assert len(checkpoints.steps) >= 2
    assert checkpoints.steps == sorted(checkpoints.steps)
    losses = dict(checkpoints.map(lambda traced: float(traced["logits"].logsumexp(-1).mean())))
    assert list(losses) == checkpoints.steps
    first, last = checkpoints[checkpoints.steps[0]], checkpoints[checkpoints.steps[-1]]
    assert not torch.equal(first["logits"], last["logits"])
    assert checkpoints[checkpoints.steps[-1]] is last
    assert len(checkpoints._traces) <= CACHED_TRACES


def test_checkpoint_trace_equals_a_loaded_checkpoint(nano_run):
    import glassgpt

    checkpoints = trace_checkpoints(nano_run, "the old king")
    step = checkpoints.steps[-1]
    loaded = glassgpt.load(nano_run, checkpoint=f"step-{step:06d}", device="cpu")
    assert torch.equal(loaded.trace("the old king")["logits"], checkpoints[step]["logits"])


def test_missing_or_damaged_checkpoints_are_errors(nano_run, tmp_path):
    import shutil

    with pytest.raises(CheckpointError, match="has no checkpoint step-999999"):
        _ = trace_checkpoints(nano_run, "a")[999_999]
    copy = tmp_path / "run"
    shutil.copytree(nano_run, copy)
    step = trace_checkpoints(copy, "a").steps[0]
    weights = copy / "snapshots" / f"step-{step:06d}" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match="damaged"):
        _ = trace_checkpoints(copy, "a")[step]
    from glassgpt.data.tokenizers import train_tokenizer

    train_tokenizer("bpe:300", ["other text"]).save(copy / "tokenizer.json")
    with pytest.raises(TokenizerError, match="is not the tokenizer"):
        _ = trace_checkpoints(copy, "a")[trace_checkpoints(copy, "a").steps[-1]]
    shutil.rmtree(copy / "checkpoints")
    shutil.rmtree(copy / "snapshots")
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        trace_checkpoints(copy, "a")
