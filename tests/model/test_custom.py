"""Parts of a model that the user has written: attention function, block and architecture, named `module:name`."""

import dataclasses
import re
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from glassgpt import plugin
from glassgpt.errors import ConfigError, GenerationError, InspectionError, UsageError
from glassgpt.generation.gpu.layers import can_fuse
from glassgpt.generation.precision import kernel_choice
from glassgpt.generation.search.coverage import record_attention
from glassgpt.inspection.hook_points import activations_of
from glassgpt.interchange.formats.registry import FORMATS, require_exportable
from glassgpt.model import custom
from glassgpt.model.attention import attend_readable
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.attention_modules import attention_modules

PARTS = '''
import math

import torch
from torch import nn

from glassgpt.model.attention import attend_readable, causal_mask
from glassgpt.model.gpt2 import GPT2
from glassgpt.model.transformer import LanguageModel

calls = []

def same_attend(q, k, v, mask=None, dropout=0.0, window=0):
    calls.append(q.shape)
    k, v = (x.repeat_interleave(q.size(1) // k.size(1), dim=1) for x in (k, v))
    if mask is None:
        mask = causal_mask(q.size(2), k.size(2), q.device, window)
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) / math.sqrt(q.size(-1))
    return scores.masked_fill(~mask, -math.inf).softmax(-1) @ v

def leaking_attend(q, k, v, mask=None, dropout=0.0, window=0):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

def first_positions(q, k, v, mask=None, dropout=0.0, window=0):
    """Right without a cache, wrong with one."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)

def no_window(q, k, v, mask=None, dropout=0.0, window=0):
    return attend_readable(q, k, v, mask, dropout)

def broken_attend(q, k, v, mask=None, dropout=0.0, window=0):
    raise NotImplementedError("exercise 3.5")

class SameBlock(nn.Module):
    def __init__(self, norm1, attention, norm2, mlp):
        super().__init__()
        self.norm1, self.attention, self.norm2, self.mlp = norm1, attention, norm2, mlp

    def forward(self, x, cache=None):
        x = x + self.attention(self.norm1(x), cache)
        return x + self.mlp(self.norm2(x))

class ScaledBlock(SameBlock):
    """Has a vector of its own."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x, cache=None):
        return x + super().forward(x, cache) * self.scale.mean()

class NoBlock:
    def __init__(self, *parts):
        pass

class SameGPT(GPT2):
    pass

class TinyGPT(LanguageModel):
    """Averages the embeddings of all tokens so far."""

    def __init__(self, config):
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks, self.norm = nn.ModuleList(), nn.Identity()
        self.initialize()

    def embed(self, tokens, positions):
        return self.token_embedding(tokens).cumsum(1) / (1 + positions[..., None])

    def head(self, features):
        return features @ self.token_embedding.weight.T

    def initial_std(self, name):
        return 0.02

    def parameter_kinds(self):
        return {"token_embedding.weight": "embedding"}

number = 3
'''
TINY = ModelConfig(vocab_size=50, context_length=16, n_layer=2, n_head=2, n_embd=16)
SHAPES = {
    "gpt2": TINY,
    "modern": dataclasses.replace(
        TINY, arch="modern", bias=False, n_kv_head=1, window=20, context_length=64, n_layer=5
    ),
    "llama": dataclasses.replace(TINY, arch="llama", bias=False, n_kv_head=1),
}


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A module of the user's, in the current folder and allowed."""
    (tmp_path / "my_parts.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(plugin.VARIABLE, "my_parts")
    monkeypatch.setattr(sys, "path", [*sys.path])
    custom._computes_the_same.cache_clear()
    yield
    sys.modules.pop("my_parts", None)


def build(shape=TINY, **parts):
    return build_model(dataclasses.replace(shape, **{name: f"my_parts:{value}" for name, value in parts.items()}))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("part", [{"attend": "same_attend"}, {"block": "SameBlock"}], ids=str)
def test_equal_part_is_used_and_leaves_no_trace(parts, shape, part):
    torch.manual_seed(1)
    model = build(shape, **part)
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    ours = build_model(shape, attend_readable)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.config == shape
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), ours.parameters(), strict=True))
    tokens = torch.randint(shape.vocab_size, (2, 9))
    torch.testing.assert_close(model(tokens), ours(tokens))
    if "attend" in part:
        assert sys.modules["my_parts"].calls[-1] == (2, shape.n_head, 9, shape.head_width)
    else:
        assert type(model.blocks[0]).__name__ == "SameBlock"


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ("gpt2", {"attend": "leaking_attend"}),
        ("gpt2", {"attend": "first_positions"}),
        ("modern", {"attend": "no_window"}),
        ("modern", {"block": "ScaledBlock"}),
        ("llama", {"block": "ScaledBlock", "attend": "same_attend"}),
        ("llama", {"custom": "SameGPT"}),
        ("gpt2", {"custom": "TinyGPT"}),
    ],
    ids=str,
)
def test_part_that_differs_stays_in_the_configuration(parts, shape, part):
    model = build(SHAPES[shape], **part)
    assert set(model.config.plugins) == {f"my_parts:{name}" for name in part.values()}
    assert set(model.parameter_kinds()) == {name for name, _ in model.named_parameters()}
    assert model(torch.randint(50, (2, 9))).shape == (2, 9, 50)
    assert attention_modules(model) == []
    assert kernel_choice(model) is None
    assert not can_fuse(model)
    with pytest.raises(UsageError, match="cannot express my_parts:"):
        require_exportable(FORMATS["hf"], model.config, None)
    with pytest.raises(GenerationError, match="coverage_penalty needs attention weights"):
        record_attention(model)
    if "custom" not in part:
        with pytest.raises(InspectionError, match="its activations are unknown"):
            activations_of(model)


def test_own_vectors_are_initialized_and_not_decayed(parts):
    model = build(SHAPES["modern"], block="ScaledBlock")
    assert model.parameter_kinds()["blocks.1.scale"] == "vector"
    assert model.blocks[1].scale.tolist() == [1.0] * 8


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"attend": "broken_attend"}, "the plug-in my_parts:broken_attend failed: NotImplementedError: exercise 3.5"),
        ({"attend": "number"}, "my_parts:number is of type int; it must be a function"),
        ({"block": "NoBlock"}, "my_parts:NoBlock builds a NoBlock; it must build a Module"),
        ({"custom": "SameBlock"}, "the plug-in my_parts:SameBlock failed: TypeError"),
        ({"custom": "NoBlock"}, "it must build a LanguageModel"),
    ],
    ids=str,
)
def test_unusable_part_is_reported(parts, part, message):
    with pytest.raises((plugin.PluginError, plugin.PluginFailedError), match=message):
        build(**part)


def test_part_must_be_allowed_and_named_properly(parts, monkeypatch):
    monkeypatch.delenv(plugin.VARIABLE)
    with pytest.raises(plugin.PluginError, match=f"{plugin.VARIABLE}=my_parts"):
        build(attend="same_attend")
    assert "my_parts" not in sys.modules
    with pytest.raises(ConfigError, match="my_parts.same_attend is not a plug-in; write module:name"):
        build_model(dataclasses.replace(TINY, attend="my_parts.same_attend"))
    with pytest.raises(ConfigError, match="model.custom cannot be combined"):
        build_model(dataclasses.replace(TINY, custom="my_parts:SameGPT", attend="my_parts:same_attend"))


@pytest.mark.parametrize("page", ["extending.md", "extending.ko.md"])
def test_architecture_in_the_docs_can_be_trained(page, run_main, grammar_data, tmp_path, parts):
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(# average\.py\n.*?)```", text, re.DOTALL)
    (tmp_path / "average.py").write_text(source)
    assert train(run_main, grammar_data, "mine", "--model.custom", "average:Average")[0] == 0
    sys.modules.pop("average")


def train(run_main, grammar_data, out, *more):
    settings = textwrap.dedent("""
        --train.max-steps 3 --train.batch-tokens 128 --model.context-length 32 --model.n-layer 1 --train.eval-tokens 256
        --diagnosis.sample-every-steps 2
    """).split()
    return run_main("train", "nano", "--data", grammar_data, "--out", out, *settings, *more)


def losses(run):
    import json

    return [json.loads(line).get("loss") for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_run_with_own_attention_trains_the_same_and_generates_without_it(
    parts, run_main, grammar_data, tmp_path, monkeypatch
):
    monkeypatch.delenv(plugin.VARIABLE)
    code, _, printed = train(run_main, grammar_data, "mine", "--model.attend", "my_parts:same_attend")
    assert code == 0
    assert "attention by my_parts:same_attend" in printed
    assert train(run_main, grammar_data, "ours")[0] == 0
    assert losses(tmp_path / "mine") == pytest.approx(losses(tmp_path / "ours"), abs=1e-5)
    monkeypatch.delenv(plugin.VARIABLE)
    sys.modules.pop("my_parts")
    assert run_main("generate", "mine", "--max-tokens", "3", "--prompt", "today ")[0] == 0
    assert "my_parts" not in sys.modules
    code, _, err = run_main("train", "--resume", "--out", "mine", "--train.max-steps", "4")
    assert (code, f"set {plugin.VARIABLE}=my_parts" in err) == (2, True)
    more = ("--train.max-steps", "4", "--model.attend", "my_parts:same_attend")
    assert run_main("train", "--resume", "--out", "mine", *more)[0] == 0
    assert sys.modules["my_parts"].calls


def test_run_with_another_block_and_attention_needs_them_everywhere(parts, run_main, grammar_data, monkeypatch):
    monkeypatch.delenv(plugin.VARIABLE)
    parts = ("--model.block", "my_parts:ScaledBlock", "--model.attend", "my_parts:leaking_attend")
    code, out, err = train(run_main, grammar_data, "mine", *parts, "--diagnosis.watch", "full")
    assert code == 0
    assert "activations by block" in out
    assert "GG-CAU-001: the model sees the future" in err
    generate = ("generate", "mine", "--max-tokens", "3", "--prompt", "today ")
    assert run_main(*generate)[0] == 0
    monkeypatch.delenv(plugin.VARIABLE)
    code, _, err = run_main(*generate)
    assert (code, f"set {plugin.VARIABLE}=my_parts" in err) == (2, True)


def test_mistyped_part_leaves_no_run(parts, run_main, grammar_data, tmp_path):
    code, _, err = train(run_main, grammar_data, "mine", "--model.attend", "my_parts:same_atend")
    assert (code, "did you mean same_attend?" in err) == (2, True)
    assert not (tmp_path / "mine").exists()
