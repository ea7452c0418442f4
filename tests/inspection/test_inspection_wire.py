"""What travels is what the model computed, in plain JSON and little-endian floats, and never too much at once."""

import json

import numpy as np
import pytest
import torch
from test_inspection_trace import BOTH, BYTES, GPT2, TEXT

from glassgpt.errors import CheckpointError, InspectionError, TokenizerError
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection.checkpoint_traces import TRACES_KEPT, history
from glassgpt.inspection.interventions import ScaleHead
from glassgpt.inspection.serialization import array, overview
from glassgpt.inspection.trace import trace
from small_models import shaken

HOSTILE = "<img src=x onerror=1>\x00\x1b[31m\u202eab\U0001f600"


@BOTH
def test_the_overview_is_json_and_true(config):
    traced = trace(shaken(config), BYTES, TEXT, GenerationOptions(top_k=3))
    told = json.loads(json.dumps(overview(traced), allow_nan=False))
    assert told["text"] == TEXT
    assert [token["id"] for token in told["tokens"]] == traced.tokens
    assert [tensor["name"] for tensor in told["tensors"]] == traced.names()
    assert told["replaceable"] == [name for name in traced.names() if name in traced.replaceable()]
    assert told["interventions"] == []


def test_the_overview_of_an_intervention_says_what_was_done():
    changed = trace(shaken(GPT2), BYTES, TEXT).intervene(ScaleHead(1, 1))
    told = json.loads(json.dumps(overview(changed), allow_nan=False))
    assert told["interventions"] == [{"kind": "head", "layer": 1, "head": 1, "scale": 0.0}]


def test_a_hostile_text_travels_as_data():
    told = json.loads(json.dumps(overview(trace(shaken(GPT2), BYTES, HOSTILE))))
    assert told["text"] == HOSTILE
    assert "".join(token["piece"] for token in told["tokens"]).isprintable()
    assert bytes.fromhex("".join(token["bytes"] for token in told["tokens"])) == HOSTILE.encode()


@BOTH
def test_arrays_are_the_tensors(config):
    traced = trace(shaken(config), BYTES, TEXT)
    for name in traced.names():
        raw, shape = array(traced, name)
        values = np.frombuffer(raw, "<f4").reshape(shape)
        assert np.array_equal(values, traced[name].float().numpy(), equal_nan=True), name
    raw, shape = array(traced, "blocks.1.attention.weights", 2, 7)
    assert shape == (len(traced),)
    assert np.array_equal(np.frombuffer(raw, "<f4"), traced["blocks.1.attention.weights"][2, 7].numpy())


def test_too_much_or_nothing_is_refused_before_it_is_computed(monkeypatch):
    traced = trace(shaken(GPT2), BYTES, TEXT)
    monkeypatch.setattr(type(traced), "__getitem__", lambda self, name: self._given[name])
    with pytest.raises(InspectionError, match=r"holds 1,083 numbers, one answer at most 500; ask for a part"):
        array(traced, "blocks.0.attention.weights", most=500)
    for index in ((9,), (-1,), (0, 0, 0, 0)):
        with pytest.raises(InspectionError, match="it has no part"):
            array(traced, "blocks.0.attention.weights", *index)
    with pytest.raises(InspectionError, match="did you mean"):
        array(traced, "blocks.0.attention.weigths")


def test_the_history_is_every_checkpoint(nano_run):
    told = history(nano_run, "the old king")
    assert len(told.steps) >= 2
    assert told.steps == sorted(told.steps)
    losses = dict(told.follow(lambda traced: float(traced["logits"].logsumexp(-1).mean())))
    assert list(losses) == told.steps
    first, last = told[told.steps[0]], told[told.steps[-1]]
    assert not torch.equal(first["logits"], last["logits"])
    assert told[told.steps[-1]] is last
    assert len(told._traces) <= TRACES_KEPT


def test_the_history_is_what_loading_gives(nano_run):
    import glassgpt

    told = history(nano_run, "the old king")
    step = told.steps[-1]
    loaded = glassgpt.load(nano_run, checkpoint=f"step-{step:06d}", device="cpu")
    assert torch.equal(loaded.trace("the old king")["logits"], told[step]["logits"])


def test_a_history_refuses_what_is_not_there(nano_run, tmp_path):
    import shutil

    with pytest.raises(CheckpointError, match="has no checkpoint step-999999"):
        _ = history(nano_run, "a")[999_999]
    copy = tmp_path / "run"
    shutil.copytree(nano_run, copy)
    step = history(copy, "a").steps[0]
    weights = copy / "checkpoints" / f"step-{step:06d}" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match="damaged"):
        _ = history(copy, "a")[step]
    from glassgpt.data.tokenizers import train_tokenizer

    train_tokenizer("bpe:300", ["other text"]).save(copy / "tokenizer.json")
    with pytest.raises(TokenizerError, match="is not the tokenizer"):
        _ = history(copy, "a")[history(copy, "a").steps[-1]]
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        history(copy, "a")
