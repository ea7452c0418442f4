"""Processors against transformers' own, sampling against the distribution it is to follow."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from glassgpt.errors import GenerationError
from glassgpt.generation import processors
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors import apply_repetition_penalty, apply_top_k, apply_top_p, process
from glassgpt.generation.sampling import draw, gumbel_noise, sample

V = 40
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([0.1, 1.0, 5.0, 30.0])


def random_logits(seed, scale=1.0, rows=3, vocab=V):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


@given(seed=seeds, scale=scales, k=st.integers(1, V + 5))
@settings(max_examples=60, deadline=None)
def test_top_k_is_transformers(seed, scale, k):
    logits = random_logits(seed, scale)
    assert torch.equal(apply_top_k(logits, k), TopKLogitsWarper(k)(None, logits))


def test_top_k_keeps_ties_and_zero_is_no_limit():
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]])
    assert apply_top_k(logits, 2).isfinite().tolist() == [[False, True, True, True, False]]
    assert torch.equal(apply_top_k(logits, 0), logits)


@given(seed=seeds, scale=scales, p=st.floats(0.01, 0.999), few=st.sampled_from([1, 7, V]))
@settings(max_examples=120, deadline=None)
def test_top_p_is_transformers(seed, scale, p, few):
    logits = random_logits(seed, scale)
    reached = logits.double().softmax(-1).sort(descending=True).values.cumsum(-1)
    if (reached - p).abs().min() < 1e-5:  # the sum meets p within rounding: either answer is right
        return
    with pytest.MonkeyPatch.context() as patch:  # both ways: the shortcut suffices, the whole is sorted
        patch.setattr(processors, "SORTED_AT_ONCE", few)
        assert torch.equal(apply_top_p(logits, p), TopPLogitsWarper(p)(None, logits))


def test_top_p_keeps_the_token_that_crosses_and_at_least_one():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    assert apply_top_p(logits, 0.6).isfinite().tolist() == [[True, True, False]]
    assert apply_top_p(logits, 1e-9).isfinite().tolist() == [[True, False, False]]
    assert torch.equal(apply_top_p(logits, 1.0), logits)


@pytest.mark.parametrize("few", [1, 3, 8])
def test_top_p_takes_the_lowest_ids_of_a_tie(monkeypatch, few):
    monkeypatch.setattr(processors, "SORTED_AT_ONCE", few)
    kept = apply_top_p(torch.zeros(1, 8), 0.3).isfinite()
    assert kept.tolist() == [[True] * 3 + [False] * 5]


@given(seed=seeds, penalty=st.floats(0.2, 5.0), history=st.lists(st.integers(0, V - 1), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_repetition_penalty_is_transformers(seed, penalty, history):
    logits = random_logits(seed, rows=2)
    histories = [history, history[::-1]]
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(histories), logits.clone())
    torch.testing.assert_close(apply_repetition_penalty(logits, penalty, histories), theirs)


def test_rows_with_histories_of_their_own():
    logits = torch.tensor([[2.0, -2.0, 1.0], [2.0, -2.0, 1.0]])
    expected = [[1.0, -2.0, 1.0], [2.0, -4.0, 0.5]]
    assert apply_repetition_penalty(logits, 2.0, [[0, 0, 0], [1, 2]]).tolist() == expected


@given(seed=seeds, k=st.integers(0, V), p=st.floats(0.05, 0.99), t=st.floats(0.1, 3.0), penalty=st.floats(0.5, 2.0))
@settings(max_examples=60, deadline=None)
def test_all_together_in_transformers_order(seed, k, p, t, penalty):
    logits = random_logits(seed)
    histories = [[1, 2, 3], [4, 4, 5], [6, 7, 8]]
    options = GenerationOptions(temperature=t, top_k=k, top_p=p, repetition_penalty=penalty)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(histories), logits.clone()) / t
    theirs = TopKLogitsWarper(k)(None, theirs) if k else theirs
    reached = theirs.double().softmax(-1).sort(descending=True).values.cumsum(-1)
    if (reached - p).abs().min() < 1e-5:
        return
    torch.testing.assert_close(process(logits, options, histories), TopPLogitsWarper(p)(None, theirs))


def test_temperature_zero_ignores_what_only_sampling_needs():
    logits = random_logits(0)
    options = GenerationOptions(temperature=0, top_k=1, top_p=0.01)
    assert torch.equal(process(logits, options, [[0]] * 3), logits)


def test_greedy_takes_the_lowest_id_of_a_tie():
    assert sample(torch.tensor([[0.0, 2.0, 2.0], [3.0, 1.0, 3.0]]), None).tolist() == [1, 0]


def chi_square(counts, probabilities):
    expected = probabilities * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("vary", ["position", "row", "seed"])
def test_frequencies_follow_softmax(vary):
    n, vocab = 20_000, 8
    logits = torch.tensor([[0.0, 1.0, -1.0, 0.5, 2.0, -0.5, 0.2, 0.9]])
    steps, zeros = list(range(n)), [0] * n
    if vary == "seed":
        drawn = torch.cat([draw(logits, seed, [0], [0]) for seed in range(2_000)])
    else:
        rows, positions = (zeros, steps) if vary == "position" else (steps, zeros)
        drawn = draw(logits.expand(n, -1), 7, rows, positions)
    counts = torch.bincount(drawn, minlength=vocab).double()
    # 7 degrees of freedom: above 24.3 with probability 0.001
    assert chi_square(counts, logits[0].double().softmax(-1)) < 24.3


def test_neighbouring_positions_are_independent():
    positions = list(range(20_001))
    coins = draw(torch.zeros(len(positions), 2), 3, [0] * len(positions), positions)
    pairs = torch.bincount(2 * coins[:-1] + coins[1:], minlength=4).double()
    assert chi_square(pairs, torch.full((4,), 0.25, dtype=torch.double)) < 16.3  # 3 degrees, 0.001


def test_noise_is_gumbel():
    noise = gumbel_noise(5, [0], [0], torch.arange(100_000)).double()
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)


@given(seed=st.integers(0, 2**63 - 1), row=st.integers(0, 100), position=st.integers(0, 2000))
@settings(max_examples=50, deadline=None)
def test_noise_depends_on_nothing_else(seed, row, position):
    alone = gumbel_noise(seed, [row], [position], torch.arange(V))
    among = gumbel_noise(seed, [row + 1, row, 3], [9, position, 9], torch.arange(V))
    some = gumbel_noise(seed, [row], [position], torch.tensor([3, 17]))
    torch.testing.assert_close(among[1:2], alone)
    torch.testing.assert_close(some, alone[:, [3, 17]])
    assert not torch.equal(alone, gumbel_noise(seed ^ (1 << 40), [row], [position], torch.arange(V)))
    assert not torch.equal(alone, gumbel_noise(seed ^ 1, [row], [position], torch.arange(V)))


@given(seed=seeds, k=st.integers(1, V))
@settings(max_examples=40, deadline=None)
def test_leaving_out_the_impossible_changes_no_draw(seed, k):
    logits = apply_top_k(random_logits(seed), k)
    whole = sample(logits, gumbel_noise(seed, [0, 1, 2], [5, 6, 7], torch.arange(V)))
    assert torch.equal(draw(logits, seed, [0, 1, 2], [5, 6, 7]), whole)


def test_every_bad_option_is_named_at_once():
    bad = {
        "max_tokens": 0,
        "temperature": -1.0,
        "top_k": -1,
        "top_p": 0.0,
        "repetition_penalty": 0.0,
        "seed": -1,
        "num_samples": 0,
    }
    with pytest.raises(GenerationError) as caught:
        GenerationOptions(**bad, stop=("fine", "")).check()
    lines = str(caught.value).splitlines()
    assert len(lines) == len(bad) + 1
    for name in [*bad, "stop"]:
        assert any(line.startswith(f"{name} is ") for line in lines)


@pytest.mark.parametrize("name", ["temperature", "top_p", "repetition_penalty"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(name, value):
    with pytest.raises(GenerationError, match=name):
        GenerationOptions(**{name: value}).check()
