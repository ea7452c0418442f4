"""Samples compared with the distribution that they must follow; processors are tested in test_processors.py."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt.generation.engine.sampling import gumbel_noise, gumbel_sample, sample
from glassgpt.generation.processors.top_k import apply_top_k

V = 40
seeds = st.integers(0, 2**32 - 1)


def random_logits(seed, scale=1.0, rows=3, vocab=V):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def test_greedy_takes_the_lowest_id_on_a_tie():
    assert sample(torch.tensor([[0.0, 2.0, 2.0], [3.0, 1.0, 3.0]]), None).tolist() == [1, 0]


def chi_square(counts, probabilities):
    expected = probabilities * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("vary", ["position", "sequence", "seed"])
def test_sample_frequencies_follow_softmax(vary):
    n, vocab = 20_000, 8
    logits = torch.tensor([[0.0, 1.0, -1.0, 0.5, 2.0, -0.5, 0.2, 0.9]])
    steps, zeros = list(range(n)), [0] * n
    if vary == "seed":
        sampled = torch.cat([gumbel_sample(logits, seed, [0], [0]) for seed in range(2_000)])
    else:
        sequences, positions = (zeros, steps) if vary == "position" else (steps, zeros)
        sampled = gumbel_sample(logits.expand(n, -1), 7, sequences, positions)
    counts = torch.bincount(sampled, minlength=vocab).double()
    # 7 degrees of freedom: above 24.3 with probability 0.001
    assert chi_square(counts, logits[0].double().softmax(-1)) < 24.3


def test_adjacent_positions_are_independent():
    positions = list(range(20_001))
    coins = gumbel_sample(torch.zeros(len(positions), 2), 3, [0] * len(positions), positions)
    pairs = torch.bincount(2 * coins[:-1] + coins[1:], minlength=4).double()
    assert chi_square(pairs, torch.full((4,), 0.25, dtype=torch.double)) < 16.3  # 3 degrees, 0.001


def test_noise_has_gumbel_moments():
    noise = gumbel_noise(5, [0], [0], torch.arange(100_000)).double()
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)


def test_largest_noise_is_finite():
    """One hash in 2**24 rounds to 1 in float32; with a large vocabulary, it occurs every few hundred tokens."""
    noise = gumbel_noise(54, [0], [7], torch.tensor([30170]))
    assert noise.item() == pytest.approx(24 * math.log(2))
    logits = torch.full((1, 30171), -1e4)
    logits[0, 5] = 0
    assert gumbel_sample(logits, 54, [0], [7]).tolist() == [5]


@given(seed=st.integers(0, 2**63 - 1), sequence=st.integers(0, 100), position=st.integers(0, 2000))
@settings(max_examples=50, deadline=None)
def test_noise_depends_on_seed_sequence_position_and_token_only(seed, sequence, position):
    alone = gumbel_noise(seed, [sequence], [position], torch.arange(V))
    among = gumbel_noise(seed, [sequence + 1, sequence, 3], [9, position, 9], torch.arange(V))
    some = gumbel_noise(seed, [sequence], [position], torch.tensor([3, 17]))
    torch.testing.assert_close(among[1:2], alone)
    torch.testing.assert_close(some, alone[:, [3, 17]])
    assert not torch.equal(alone, gumbel_noise(seed ^ (1 << 40), [sequence], [position], torch.arange(V)))
    assert not torch.equal(alone, gumbel_noise(seed ^ 1, [sequence], [position], torch.arange(V)))


@given(seed=seeds, k=st.integers(1, V))
@settings(max_examples=40, deadline=None)
def test_skipping_impossible_tokens_changes_no_sample(seed, k):
    logits = apply_top_k(random_logits(seed), k)
    whole = sample(logits, gumbel_noise(seed, [0, 1, 2], [5, 6, 7], torch.arange(V)))
    assert torch.equal(gumbel_sample(logits, seed, [0, 1, 2], [5, 6, 7]), whole)
