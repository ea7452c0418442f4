"""Pruned heads: which ones, the smaller model, and everything that reads it."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from tests.small_models import LLAMA, attentive_model

from glassgpt.compression.head_shapes import query_group, with_kv_heads
from glassgpt.compression.methods import check_methods
from glassgpt.compression.methods.int4 import Int4
from glassgpt.compression.methods.prune import Prune
from glassgpt.compression.methods.sparsity import Sparsity
from glassgpt.compression.shrink import head_importances, with_heads
from glassgpt.config import load_config
from glassgpt.data import load_tokenizer
from glassgpt.errors import InterchangeError, UsageError
from glassgpt.evaluation.observer import EvaluationObserver
from glassgpt.interchange.formats.base import ExportOptions
from glassgpt.interchange.formats.registry import FORMATS, require_exportable
from glassgpt.interchange.huggingface import export_model
from glassgpt.model.config import ModelConfig

SHAPES = {
    "gpt2": {"n_head": 6},
    "gpt2 without biases": {"n_head": 3, "bias": False},
    "modern": {"arch": "modern", "bias": False, "n_head": 6, "n_kv_head": 3},
    "llama": LLAMA | {"n_head": 6, "n_kv_head": 3, "bias": True},
    "gated deltanet": {"arch": "gated_deltanet", "bias": False, "n_head": 3},
}
progress = EvaluationObserver().progress


def some_tokens(rows=2, length=17):
    return torch.randint(0, 257, (rows, length), generator=torch.Generator().manual_seed(3))


def masked_loss(model, tokens, layer, mask):
    """Return the loss with the outputs of a block's key/value heads multiplied by a mask (T, heads)."""
    channels = query_group(model.config) * model.config.head_width
    handle = model.blocks[layer].attention.out.register_forward_pre_hook(
        lambda module, arguments: (arguments[0] * mask.repeat_interleave(channels, dim=1),)
    )
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    handle.remove()
    return loss


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_pruned_model_is_the_original_without_those_heads(shape):
    model, tokens = attentive_model(**shape), some_tokens()
    heads, channels = model.config.kv_heads, query_group(model.config) * model.config.head_width
    assert torch.equal(with_heads(model, [torch.arange(heads)] * 2)(tokens), model(tokens))
    kept = [torch.tensor([0, 2]), torch.tensor([1, 2])]
    smaller, expected = with_heads(model, kept), attentive_model(**shape)
    with torch.no_grad():
        for block, chosen in zip(expected.blocks, kept, strict=True):
            removed = torch.ones(heads, dtype=torch.bool)
            removed[chosen] = False
            block.attention.out.weight[:, removed.repeat_interleave(channels)] = 0
    assert (smaller(tokens) - expected(tokens)).abs().max() <= 3e-6 * expected(tokens).abs().max()
    assert smaller.config == with_kv_heads(model.config, 2)
    assert smaller.config.head_width == model.config.head_width
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_head_without_effect_has_no_importance(shape):
    model, tokens = attentive_model(**shape), some_tokens()
    channels = query_group(model.config) * model.config.head_width
    with torch.no_grad():
        model.blocks[1].attention.out.weight[:, channels : 2 * channels] = 0
    importances = head_importances(model, tokens, progress)
    assert [each.numel() for each in importances] == [model.config.kv_heads] * 2
    assert importances[1][1] == 0
    assert (torch.cat(importances) > 0).sum() == 2 * model.config.kv_heads - 1


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_importance_is_the_squared_gradient_of_masks(shape):
    model, tokens = attentive_model(**shape).double(), some_tokens()
    expected = torch.zeros(2, model.config.kv_heads)
    for layer in range(2):
        for text in tokens:
            mask = torch.ones(16, model.config.kv_heads, dtype=torch.float64, requires_grad=True)
            (gradient,) = torch.autograd.grad(masked_loss(model, text[None], layer, mask), mask)
            expected[layer] += gradient.square().sum(0)
    assert torch.allclose(torch.stack(head_importances(model, tokens, progress)), expected, rtol=1e-4)


def test_gradient_of_a_mask_predicts_what_masking_costs():
    model, tokens = attentive_model(**SHAPES["modern"]).double(), some_tokens(1)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.out.weight *= 1e-5  # the estimate is of first order
    mask = torch.ones(16, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(masked_loss(model, tokens, 0, mask), mask)
    for position, head in ((0, 0), (5, 1), (11, 2)):
        without = torch.ones(16, 3, dtype=torch.float64)
        without[position, head] = 0
        with torch.no_grad():
            change = masked_loss(model, tokens, 0, without) - masked_loss(model, tokens, 0, mask)
        assert change == pytest.approx(-gradient[position, head].item(), rel=0.05)


def test_heads_together_stay_a_multiple_of_32():
    def heads(keep, **shape):
        smaller = Prune("heads", keep).shrunk(ModelConfig(**shape))
        return smaller.n_head, smaller.n_kv_head, smaller.attention_width

    assert heads(0.75) == (9, 0, 576)
    assert heads(0.7, n_embd=128, n_head=8) == (6, 0, 96)  # not 5, whose width is 80
    assert heads(0.75, arch="llama", bias=False, n_embd=576, n_head=9, n_kv_head=3) == (6, 2, 384)
    assert not Int4().problems(Prune("heads", 0.75).shrunk(ModelConfig()))
    narrow = ModelConfig(n_embd=64, n_head=3, head_dim=10)
    assert Int4().problems(narrow) == ["the heads' width is 30, but 4-bit weights need multiples of 32; use --int8"]
    assert "the heads' width is 30" in Sparsity("2:4").problems(narrow)[0]
    with pytest.raises(UsageError, match="--keep is 0.99, which removes nothing"):
        check_methods([Prune("heads", 0.99)], ModelConfig())


# What reads such a model


def test_pruned_run_is_a_run(run_main, nano_run, tmp_path):
    before, run = load_config(nano_run).model, tmp_path / "pruned"
    common = ["--eval-tokens", 1024, "--calibration-tokens", 1024]
    code, out, err = run_main(
        "compress", nano_run, "--prune", "heads", "--keep", 0.5, "--no-training", "--out", run, *common
    )
    assert code == 0, err
    assert "kept 50% of the heads" in json.loads((run / "compression.json").read_text())["steps"][0]
    after = load_config(run).model
    assert after == dataclasses.replace(before, n_head=before.n_head // 2, head_dim=before.head_width)
    for command in (
        ["doctor", run], ["evaluate", run], ["generate", run, "--prompt", "the", "--max-tokens", 5],
        ["inspect", run, "--prompt", "the cat", "--text"],
        ["compress", run, "--int8", "--out", tmp_path / "int8", *common],
    ):  # fmt: skip
        code, out, err = run_main(*command)
        assert code == 0, (command, out, err)


@pytest.mark.parametrize(
    ("format", "shape", "reader"),
    [("hf", {}, "transformers' GPT-2"), ("gguf", {}, "llama.cpp's GPT-2"), ("ct2", {}, "CTranslate2"), ("peft", {}, "PEFT")],
)  # fmt: skip
def test_formats_that_need_the_usual_heads_refuse_others(format, shape, reader):
    config = Prune("heads", 0.75).shrunk(ModelConfig(**shape))
    message = f"9 heads of width 64 are not model.n_embd 768, which .*{reader} needs; export it with --format onnx"
    with pytest.raises(UsageError, match=message):
        require_exportable(FORMATS[format], config, ExportOptions(FORMATS[format].weights[0]))


def test_gpt2_is_not_written_for_transformers(tmp_path):
    model = with_heads(attentive_model(), [torch.tensor([0, 2])] * 2)
    with pytest.raises(InterchangeError, match="2 heads of width 8 are not model.n_embd 24"):
        export_model(model, load_tokenizer("bytes"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
