"""Detectors on series: each fires on the shape it is made for, and stays silent on healthy ones."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt.data.grammar import grammar_text, grammar_unigram_entropy
from glassgpt.diagnosis.series import (
    LASTING_STEPS,
    SPIKE_NATS,
    NGramBaseline,
    SpikeDetector,
    Validation,
    clipping,
    find_overfitting,
    find_plateau,
    find_slowdown,
    find_spikes,
    find_stall,
    ngram_baseline,
    robust,
    slope,
)

LADDER = NGramBaseline(uniform=5.55, unigram=2.9, bigram=2.1)


def curve(n, start=5.5, end=1.5, noise=0.03, seed=0):
    """A healthy training loss: a power law with noise."""
    steps = np.arange(1, n + 1)
    clean = end + (start - end) * (1 + steps / 20) ** -0.6
    return clean * np.exp(np.random.default_rng(seed).normal(0, noise, n))


def cosine(n, warmup):
    steps = np.arange(n)
    return np.where(steps < warmup, (steps + 1) / (warmup + 1), 0.55 + 0.45 * np.cos(np.pi * steps / n))


def test_robust_statistics_ignore_a_wild_value():
    known = robust([1.0, 2.0, 3.0, math.nan, math.inf, 1e9])
    assert known.median == 2.5
    assert known.sigma < 3
    normal = np.random.default_rng(0).normal(5, 2, 100_000)
    assert robust(normal).sigma == pytest.approx(2, rel=0.02)
    with pytest.raises(ValueError, match="finite"):
        robust([math.nan])


@given(st.integers(0, 200), st.floats(0.005, 0.08))
@settings(max_examples=40, deadline=None)
def test_a_healthy_loss_has_no_spike(seed, noise):
    losses = curve(600, noise=noise, seed=seed)
    assert find_spikes(range(1, 601), losses) == []


def test_a_spike_is_found_with_its_height_and_end():
    losses = curve(600)
    losses[300:304] *= 2
    (spike,) = find_spikes(range(1, 601), losses)
    assert (spike.step, spike.steps, spike.lasting) == (301, 4, False)
    assert spike.peak == losses[300:304].max()
    assert spike.usual == pytest.approx(np.median(losses[268:300]), rel=0.001)


def test_a_second_spike_does_not_hide_behind_a_first():
    losses = curve(600)
    losses[300:340] *= 3
    losses[345] *= 2
    assert [spike.step for spike in find_spikes(range(1, 601), losses)] == [301, 346]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_a_spike_and_blinds_nobody(value):
    losses = curve(600)
    losses[300] = value
    losses[310] *= 2
    spikes = find_spikes(range(1, 601), losses)
    assert [spike.step for spike in spikes] == [301, 311]
    assert not math.isfinite(spikes[0].peak)


def test_what_stays_up_is_the_new_level():
    losses = np.concatenate([curve(300), np.full(300, 6.0)])
    (spike,) = find_spikes(range(1, 601), losses)
    assert spike.lasting
    assert spike.steps == LASTING_STEPS


def test_a_jump_on_a_loss_that_falls_fast_is_found():
    losses = np.exp(np.linspace(1.5, -1, 200)) * np.exp(np.random.default_rng(0).normal(0, 0.05, 200))
    assert find_spikes(range(200), losses) == []
    losses[150] += 1.5
    assert [spike.step for spike in find_spikes(range(200), losses)] == [150]


def test_a_small_bump_on_a_quiet_loss_is_no_spike():
    losses = np.full(300, 2.0)
    losses[200] = 2.0 + 0.9 * SPIKE_NATS
    assert find_spikes(range(300), losses) == []
    losses[200] = 2.0 + 1.1 * SPIKE_NATS
    assert len(find_spikes(range(300), losses)) == 1


@given(st.lists(st.floats(0.1, 20) | st.just(math.nan), min_size=1, max_size=150), st.integers(0, 150))
def test_a_detector_goes_on_from_its_saved_state(losses, at):
    whole, first = SpikeDetector(), SpikeDetector()
    said = [whole.see(loss) for loss in losses]
    before = [first.see(loss) for loss in losses[:at]]
    second = SpikeDetector()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + [second.see(loss) for loss in losses[at:]] == said


def test_the_interval_of_a_slope_holds_the_true_one():
    steps = np.arange(1000)
    losses = 3 - 0.0005 * steps + np.random.default_rng(0).normal(0, 0.1, 1000)
    found = slope(steps, losses)
    assert found.low < -0.0005 < found.high
    assert not found.is_flat
    with pytest.raises(ValueError, match="two"):
        slope([1], [1.0])


def test_a_slope_agrees_with_numpy():
    steps = np.arange(40.0)
    losses = np.exp(1 - 0.01 * steps)
    scale = math.exp(np.median(np.log(losses)))
    assert slope(steps, losses).value == pytest.approx(np.polyfit(steps, np.log(losses), 1)[0] * scale)


def flat(n, level=2.0, seed=1):
    return level + np.random.default_rng(seed).normal(0, 0.05, n)


def test_a_plateau_at_a_high_rate_is_found():
    losses = np.concatenate([curve(500, end=2.0), flat(700)])
    found = find_plateau(range(1, 1201), losses, np.ones(1200), max_steps=1200, warmup_steps=50)
    assert found is not None
    assert found.first == 701
    assert found.loss == pytest.approx(2.0, abs=0.02)


def test_a_falling_loss_is_no_plateau():
    losses = 4 * np.arange(1, 2001) ** -0.1
    losses += np.random.default_rng(0).normal(0, 0.05, 2000)
    assert find_plateau(range(1, 2001), losses, np.ones(2000), max_steps=2000, warmup_steps=50) is None


def test_a_plateau_that_the_schedule_explains_is_none():
    """Flat while warming up or at the end of the decay, falling between."""
    falling = np.linspace(4, 3, 700)
    losses = np.concatenate([flat(600, 4.0), falling + flat(700, 0.0), flat(600, 3.0)])
    rates = np.concatenate([np.full(600, 0.1), np.ones(700), np.full(600, 0.05)])
    assert find_plateau(range(1, 1901), losses, rates, max_steps=1900, warmup_steps=600) is None


def test_a_short_run_is_not_judged():
    assert find_plateau(range(1, 301), flat(300), np.ones(300), max_steps=300, warmup_steps=0) is None


def test_epochs_that_fall_in_stairs_are_no_plateau():
    """Flat inside each epoch of 900 steps, lower in the next."""
    losses = np.concatenate([flat(900, level) for level in (5, 4, 3)])
    steps, rates = range(1, 2701), np.ones(2700)
    assert find_plateau(steps, losses, rates, max_steps=2700, warmup_steps=0) is not None
    assert find_plateau(steps, losses, rates, max_steps=2700, warmup_steps=0, epoch_steps=1200) is None


def test_the_ladder_of_a_known_language():
    """Against the grammar's true unigram entropy, and numpy's own count of pairs."""
    ids = np.frombuffer(grammar_text(6000, seed=1).encode(), np.uint8).astype(np.int64)
    cut = len(ids) * 9 // 10
    found = ngram_baseline(ids[:cut], ids[cut:], 257)
    assert found.uniform == pytest.approx(math.log(257))
    assert found.unigram == pytest.approx(grammar_unigram_entropy(), rel=0.01)
    joint = np.histogram2d(ids[:-1], ids[1:], bins=range(258))[0] / (len(ids) - 1)
    before = joint.sum(axis=1, keepdims=True)
    chosen = joint > 0
    entropy = -(joint[chosen] * np.log((joint / np.maximum(before, 1e-12))[chosen])).sum()
    assert found.bigram == pytest.approx(entropy, rel=0.02)


def test_pairs_seen_once_do_not_make_a_text_look_easy():
    """Random tokens: nothing can be predicted, however few pairs repeat."""
    ids = np.random.default_rng(0).integers(500, size=20_000)
    found = ngram_baseline(ids[:15_000], ids[15_000:], 500)
    assert found.unigram == pytest.approx(math.log(500), abs=0.05)
    assert found.bigram > 0.97 * found.uniform


@pytest.mark.parametrize("name", ["uniform", "unigram", "bigram"])
def test_a_loss_that_stands_on_a_rung_has_stalled(name):
    level = getattr(LADDER, name)
    losses = np.concatenate([np.linspace(6, level, 100), flat(300, level + 0.05)])
    found = find_stall(range(1, 401), losses, np.ones(400), LADDER, warmup_steps=20)
    assert found is not None
    assert found.rung == name


def test_a_loss_above_guessing_has_stalled_at_the_bottom():
    assert find_stall(range(400), flat(400, 9.0), np.ones(400), LADDER, warmup_steps=0).rung == "uniform"


@given(st.integers(0, 100))
def test_a_healthy_loss_only_passes_the_rungs(seed):
    losses = curve(800, end=1.2, seed=seed)
    assert find_stall(range(1, 801), losses, cosine(800, 50), LADDER, warmup_steps=50) is None


def test_a_loss_on_its_way_down_has_not_stalled():
    """It is at the unigram rung only now, and falling."""
    assert find_stall(range(400), np.linspace(5.5, 2.9, 400), np.ones(400), LADDER, warmup_steps=20) is None


def validations(losses, tokens=40_000):
    return [Validation(100 * i, loss, tokens) for i, loss in enumerate(losses, start=1)]


def test_overfitting_is_found_where_it_began():
    found = find_overfitting(validations([3.0, 2.5, 2.3, 2.4, 2.5, 2.6]), range(1, 601), curve(600))
    assert found is not None
    assert found.best.step == 300
    assert found.evaluations == 3


@pytest.mark.parametrize(
    "losses",
    [
        [3.0, 2.5, 2.3, 2.2, 2.15, 2.1],
        [3.0, 2.5, 2.3, 2.31, 2.305, 2.31],  # within two standard errors
        [3.0, 2.5, 2.3, 2.4, 2.5],  # two evaluations only
        [3.0, 2.3, 2.4, 2.5, 2.6, 2.31],  # it came back
        [],
    ],
)
def test_a_healthy_validation_is_no_overfitting(losses):
    assert find_overfitting(validations(losses), range(1, 601), curve(600)) is None


def test_validation_and_training_that_rise_together_are_no_overfitting():
    losses = np.concatenate([curve(300), np.full(300, 6.0)])
    assert find_overfitting(validations([3.0, 2.5, 2.3, 5.0, 5.5, 6.0]), range(1, 601), losses) is None


def durations(n, seconds, seed=0):
    return seconds * np.exp(np.random.default_rng(seed).normal(0, 0.1, n))


def test_a_lasting_slowdown_is_found():
    found = find_slowdown([*durations(400, 0.1), *durations(200, 0.16)])
    assert found is not None
    assert found.ratio == pytest.approx(1.6, rel=0.1)


def test_steady_steps_and_a_passing_hitch_are_no_slowdown():
    steady = durations(600, 0.1)
    assert find_slowdown(steady) is None
    hitch = [*durations(300, 0.1), *durations(100, 0.3), *durations(200, 0.1)]
    assert find_slowdown(hitch) is None
    assert find_slowdown([30.0, *steady]) is None  # the first one compiled
    assert find_slowdown(durations(50, 0.1)) is None


def test_the_share_of_clipped_steps_leaves_warmup_out():
    norms = [9.0] * 10 + [0.5] * 30 + [2.0] * 10 + [math.nan]
    found = clipping(range(1, 52), norms, 1.0, warmup_steps=10)
    assert found.share == pytest.approx(0.25)
    assert found.median == 0.5
    assert clipping(range(1, 52), norms, 0.0, warmup_steps=10) is None


def test_rungs_are_in_order():
    for low, high in pairwise((LADDER.bigram, LADDER.unigram, LADDER.uniform)):
        assert low < high
    found = [LADDER.rung(loss) for loss in (9.0, 5.6, 5.0, 2.95, 2.7, 2.15, 2.0, 1.0)]
    assert found == ["uniform", "uniform", "unigram", "unigram", "bigram", "bigram", "", ""]
    assert NGramBaseline(5.0, 5.0, 5.0).rung(5.02) == "bigram"  # nothing can be predicted in this text
    assert NGramBaseline(5.0, math.nan, math.nan).rung(4.0) == ""
