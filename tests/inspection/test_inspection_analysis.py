"""Analyses compared with values computed by hand, and on models with induction heads."""

import itertools
import math

import pytest
import torch
from inspection_helpers import ALL_ARCHITECTURES, BYTES, GPT2, TEXT

from glassgpt.errors import InspectionError
from glassgpt.inspection.analysis import (
    HeadScores,
    attention_entropy,
    cosine,
    divergence,
    head_patterns,
    head_scores,
    logit_lens,
    nearest_tokens,
    probe,
    residual_norms,
    residual_stream_names,
    telling_keys,
    token_losses,
    token_vectors,
)
from glassgpt.inspection.interventions import Patch, ScaleHead
from glassgpt.inspection.trace import trace
from planted import LETTERS, planted, trained
from small_models import shaken

REPEATED = "kfmbqzxkfmbq"
"""`z` is next."""


@ALL_ARCHITECTURES
def test_last_lens_depth_is_bit_identical_to_the_logits(config):
    traced = trace(shaken(config), BYTES, TEXT)
    lens = logit_lens(traced)
    assert lens.shape == (4, len(traced), config.vocab_size)
    assert torch.equal(lens[-1], traced["logits"])
    assert not torch.allclose(lens[-2], traced["logits"], atol=0.1)
    part = logit_lens(traced, depths=[1, 3], positions=[0, -1])
    torch.testing.assert_close(part, lens[[1, 3]][:, [0, -1]], rtol=1e-5, atol=1e-5)


@ALL_ARCHITECTURES
def test_lens_equals_a_truncated_model(config):
    model = shaken(config)
    traced = trace(model, BYTES, TEXT)
    lens = logit_lens(traced)
    del model.blocks[1:]
    torch.testing.assert_close(lens[1], model(traced["tokens"][None])[0], rtol=1e-5, atol=1e-5)


def test_attention_entropy():
    traced = trace(shaken(GPT2), BYTES, TEXT)
    entropy = attention_entropy(traced, 1)
    weights = traced["blocks.1.attention.weights"]
    assert entropy.shape == (3, len(traced))
    by_hand = -sum(float(w) * math.log(float(w)) for w in weights[2, 7] if w > 0)
    assert entropy[2, 7].item() == pytest.approx(by_hand, abs=1e-5)
    assert entropy[:, 0].abs().max() == 0  # the first token sees only itself


def test_residual_norms_and_token_losses():
    traced = trace(shaken(GPT2), BYTES, TEXT)
    norms = residual_norms(traced)
    assert residual_stream_names(traced) == ["embedding", "blocks.0.output", "blocks.1.output", "blocks.2.output"]
    assert norms[2, 4].item() == pytest.approx(math.sqrt(float((traced["blocks.1.output"][4] ** 2).sum())), rel=1e-5)
    losses = token_losses(traced)
    at = 6
    by_hand = -traced["logits"][at].log_softmax(-1)[traced.tokens[at + 1]]
    assert losses[at].item() == pytest.approx(by_hand.item(), abs=1e-5)
    assert len(losses) == len(traced) - 1


def test_token_is_nearest_to_itself():
    model = shaken(GPT2)
    vectors = token_vectors(model)
    found = nearest_tokens(model, 3 * vectors[65], 5)
    assert found[0] == (65, pytest.approx(1, abs=1e-5))
    assert [value for _, value in found] == sorted((value for _, value in found), reverse=True)
    assert found[1][1] == pytest.approx(float(cosine(vectors[65], vectors[found[1][0]])), abs=1e-5)


def test_head_patterns_of_a_small_example():
    patterns = head_patterns(torch.tensor([5, 7, 5, 9, 7]))
    seen = {name: [list(pair) for pair in pattern.nonzero().tolist()] for name, pattern in patterns.items()}
    assert seen["previous"] == [[1, 0], [2, 1], [3, 2], [4, 3]]
    assert seen["duplicate"] == [[2, 0], [4, 1]]
    assert seen["induction"] == [[2, 1], [4, 2]]


def test_scores_are_nan_without_repetition():
    scores = head_scores(trace(shaken(GPT2), BYTES, "abcdef"))
    assert scores.induction.isnan().all()
    assert scores.duplicate.isnan().all()
    assert not scores.previous.isnan().any()


def test_head_is_named_after_its_highest_score():
    scores = HeadScores(torch.tensor([[0.2, 0.5]]), torch.tensor([[math.nan, math.nan]]), torch.tensor([[0.1, 0.9]]))
    assert scores.name(0, 0) is None
    assert scores.name(0, 1) == ("induction", pytest.approx(0.9))


def test_divergence_requires_interventions():
    with pytest.raises(InspectionError, match="no interventions"):
        divergence(trace(shaken(GPT2), BYTES, TEXT))


def chance_of(traced, letter):
    return float(traced["next.model"][LETTERS.index(letter)])


@pytest.mark.parametrize("model_and_tokenizer", [planted, pytest.param(trained, marks=pytest.mark.slow)])
def test_induction_heads_are_found(model_and_tokenizer):
    """Two blocks compute or learn induction as in Olsson et al. 2022: a previous-token head, then an induction head."""
    scores = head_scores(probe(*model_and_tokenizer(), length=16))
    name, share = scores.name(1, 0) or ("", 0)
    assert name == "induction"
    assert share > 0.5
    assert {scores.name(0, head)[0] for head in range(2) if scores.name(0, head)} == {"previous"}
    assert scores.induction[0].max() < 0.1
    assert scores.previous[1].max() < 0.2


def test_model_fails_without_its_induction_heads():
    model, tokenizer = planted()
    traced = trace(model, tokenizer, REPEATED)
    assert chance_of(traced, "z") > 0.9
    induction = [ScaleHead(1, head) for head in range(2)]
    assert chance_of(traced.intervene(*induction), "z") < 0.2
    assert chance_of(traced.intervene(*(ScaleHead(0, head) for head in range(2))), "z") < 0.2
    assert float(divergence(traced.intervene(*induction))[-1]) > 1


def test_patching_moves_the_answer():
    """Patching the output of the induction heads, or the token they copy, changes the answer."""
    model, tokenizer = planted()
    other = REPEATED.replace("z", "w")
    traced = trace(model, tokenizer, REPEATED)
    late = traced.intervene(Patch("blocks.1.attention.mixed", other, positions=(-1,)))
    assert chance_of(late, "w") > 0.9
    # The answer is copied from the position after the earlier `q`; patching the embedding there changes it too.
    source = traced.intervene(Patch("embedding", other, positions=(5,)))
    assert chance_of(source, "w") > 0.9
    elsewhere = traced.intervene(Patch("blocks.1.attention.mixed", other, positions=(2,)))
    assert chance_of(elsewhere, "z") > 0.9


@ALL_ARCHITECTURES
def test_telling_keys_are_the_largest_weights_off_the_usual_ones(config):
    found = trace(shaken(config), BYTES, TEXT)
    keys, weights = telling_keys(found)
    for layer, head in itertools.product(range(config.n_layer), range(config.n_head)):
        row = found[f"blocks.{layer}.attention.weights"][head, -1]
        inner = {key: float(row[key]) for key in range(1, len(row) - 2)}
        assert float(weights[layer, head]) == pytest.approx(max(inner.values()), abs=1e-6)
        assert inner[int(keys[layer, head])] == pytest.approx(max(inner.values()), abs=1e-6)


@pytest.mark.parametrize("text", ["a", "ab", "abc"])
def test_telling_keys_of_a_short_text_are_the_first(text):
    keys, weights = telling_keys(trace(shaken(GPT2), BYTES, text))
    assert keys.eq(0).all()
    assert weights.gt(0).all()
