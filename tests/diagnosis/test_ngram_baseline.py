"""N-gram baselines: against the entropy of a known language, and where nothing can be predicted."""

import math

import numpy as np
import pytest

from glassgpt.data.grammar import grammar_text, grammar_unigram_entropy
from glassgpt.diagnosis.ngram_baseline import NGramBaseline, ngram_baseline


def test_baselines_of_a_known_language_match_its_entropies():
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


def test_rare_pairs_do_not_make_random_text_look_predictable():
    """Random tokens: nothing can be predicted, however few pairs repeat."""
    ids = np.random.default_rng(0).integers(500, size=20_000)
    found = ngram_baseline(ids[:15_000], ids[15_000:], 500)
    assert found.unigram == pytest.approx(math.log(500), abs=0.05)
    assert found.bigram > 0.97 * found.uniform


def test_level_is_the_highest_baseline_that_the_loss_has_not_beaten():
    baseline = NGramBaseline(uniform=5.55, unigram=2.9, bigram=2.1)
    found = [baseline.level(loss) for loss in (9.0, 5.6, 5.0, 2.95, 2.7, 2.15, 2.0, 1.0)]
    assert found == ["uniform", "uniform", "unigram", "unigram", "bigram", "bigram", None, None]


def test_level_of_baselines_close_together_is_the_lowest():
    assert NGramBaseline(5.0, 5.0, 5.0).level(5.02) == "bigram"


def test_level_without_data_knows_the_uniform_baseline_only():
    baseline = NGramBaseline(5.0, math.nan, math.nan)
    assert (baseline.level(5.0), baseline.level(4.0)) == ("uniform", None)
